//! An I/O-free, deterministic Linux Virtual Server director: one packet in, one verdict out.
//!
//! ```text
//! io.recv ─▶ wire::parse ─▶ Parsed ─▶ conn: both directions are keyed
//!                                        │ hit                   │ miss
//!                                        │             service ─▶ scheduler ─▶ tentative connection
//!                                        ▼                                        │
//!                         state machine · Rewrite (plain data) ◀──────────────────┘
//!                                        │ TTL, MTU, room
//! io.send ◀─ Verdict ◀───────────────── apply
//! ```
//!
//! # Examples
//! [`Director`] shows the engine alone. Joined with a backend by the [run loop](mod@io::run):
//! ```
//! use lvs_core::io::{Memory, PacketIo, run::Runner};
//! use lvs_core::{Config, Director, Instant, ipvsadm::rules};
//!
//! let mut director = Director::new(Config::default());
//! let rules = rules::parse("-A -u 10.9.0.1:53 -s rr\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 -m")?;
//! let commands: Vec<_> = rules.into_iter().map(|line| line.command).collect();
//! director.apply(&commands, Instant::ZERO)?;
//!
//! let mut io = Memory::new();
//! io.push(
//!     b"\x45\0\0\x21\0\x01\0\0\x40\x11\xc4\xa8\xac\x10\0\x09\x0a\x09\0\x01\
//!       \x75\x32\0\x35\0\x0d\0\0hello",
//! );
//! let mut runner = Runner::new(&io);
//! runner.step(&mut director, &mut io, &mut || Instant::from_secs(1))?;
//! let sent = io.pop().expect("the datagram goes to the real server");
//! assert_eq!(sent.bytes[16..20], [10, 0, 2, 11]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not do
//! It owns no socket, reads no clock and draws no random number outside `io`. Not built yet: persistence
//! templates, connection sync, the FTP and SIP helpers.
//!
//! # Features
//! - `pcap` (on): capture files as packet I/O.
//! - `tun`: TUN devices as packet I/O (Linux).
//! - `lab`: the deterministic network of smoltcp hosts, directors and lossy links.
#![deny(unsafe_code)]

pub mod answer;
pub mod conn;
mod director;
mod environment;
pub mod fragment;
pub mod io;
pub mod ipvsadm;
#[cfg(feature = "lab")]
pub mod lab;
pub mod local_ports;
mod prefix;
pub mod rewrite;
pub mod service;
mod stats;
mod sysctl;
pub mod toa;
mod verdict;
pub mod wire;

pub use director::{
    ApplyError, BATCH, Candidate, Config, ConfigError, Director, Explanation, FullNatOptions, Limits,
    Outgoing, PassPolicy, Step, TRASH_TIME,
};
pub use environment::{DEFAULT_MTU, Environment, MIN_MTU_V4, MIN_MTU_V6, MarkRule, Route};
pub use lvs_sched::{
    Endpoint, Flow, Instant, Load, Protocol, SchedulerFlags, SchedulerKind, Server, ServerId, Weight,
};
pub use prefix::{ParsePrefixError, Prefix};
pub use stats::{Counters, Traffic};
pub use sysctl::{Sysctl, SysctlError};
pub use verdict::{DropReason, Verdict};
