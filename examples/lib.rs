//! Short programs to learn lvs-rs from. Each runs without root, network or arguments and then ends:
//!
//! | `cargo run --example` | shows |
//! |---|---|
//! | `quickstart` | a director in memory: rules, packets, verdicts, the table, and why a flow goes where it goes |
//! | `nat_in_memory` | what LVS/NAT does to the bytes of a packet and of the reply |
//! | `pcap_replay` | a capture through a director on the capture's own clock, into another capture |
//! | `custom_proxy` | schedulers and health checks without packets: a TCP proxy on loopback |
//!
//! They live in a package of their own so that what they need (an async runtime, a packet builder) stays out of
//! the library's dependencies. This crate itself is empty; the tests run every program.

// The examples in the project's texts are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../ARCHITECTURE.md")]
pub mod texts {}
