//! An I/O-free, deterministic Linux Virtual Server director: one packet in, one verdict out.
#![deny(unsafe_code)]

pub mod answer;
pub mod conn;
pub mod fragment;
pub mod io;
pub mod ipvsadm;
#[cfg(feature = "lab")]
pub mod lab;
pub mod local_ports;
pub mod rewrite;
pub mod service;
pub mod toa;
mod verdict;
pub mod wire;

pub use lvs_sched::{
    Endpoint, Flow, Instant, Load, Protocol, SchedulerFlags, SchedulerKind, Server, ServerId, Weight,
};
pub use verdict::{DropReason, Verdict};
