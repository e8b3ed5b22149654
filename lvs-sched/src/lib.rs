//! Chooses a real server for a new connection: the schedulers of Linux Virtual Server and nothing else.
//!
//! A scheduler sees a [`Flow`] and the virtual service's [`Server`]s in list order, and answers with an
//! index into that list. It knows no packet, no connection table and no I/O, so a custom proxy can use it
//! alone; [`Balancer`] is the front for that.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod flow;
mod kind;
mod server;
mod time;

pub use flow::{Endpoint, Flow, ParseEndpointError, Protocol};
pub use kind::{ParseSchedulerError, SchedulerFlags, SchedulerKind};
pub use server::{Load, Server, ServerId, Weight, WeightError};
pub use time::Instant;

/// A scheduling algorithm with its own memory (cursors, tables).
///
/// `servers` is always the whole list of one virtual service in list order. In the kernel a new server goes
/// to the *head* of the list; the owner of the list decides that, the scheduler only follows the order.
pub trait Scheduler: core::fmt::Debug + Send {
    /// Returns the index of the server that takes this new flow, or `None` when no server may.
    ///
    /// Servers with weight 0 (quiesced) or marked [overloaded](Load::is_overloaded) are never returned.
    fn schedule(&mut self, flow: &Flow, servers: &[Server], now: Instant) -> Option<usize>;

    /// Tells the scheduler that the list has changed; `servers` is the list after the change.
    ///
    /// `rr` and `wrr` move their cursors then; `sh`, `mh` and `maglev` rebuild their tables.
    fn changed(&mut self, change: Change, servers: &[Server]);
}

/// One change of a service's server list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The server now at `index` is new.
    Added {
        /// Where it stands in the list after the change.
        index: usize,
    },
    /// A server has left.
    Removed {
        /// Where it stood in the list before the change.
        index: usize,
        /// Which server it was.
        id: ServerId,
    },
    /// Weight or thresholds of the server at `index` were set (perhaps to the same values).
    Edited {
        /// Where it stands.
        index: usize,
    },
}
