//! An I/O-free, deterministic Linux Virtual Server director: one packet in, one verdict out.
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
