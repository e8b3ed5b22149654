//! Chooses a real server for a new connection: the schedulers of Linux Virtual Server and nothing else.
//!
//! ```text
//! Flow (CIP, VIP, protocol) ──▶ Scheduler ──▶ index into the list, or None
//!                                  ▲
//!            [Server; n] in list order: key (RIP and port), weight, load
//! ```
//!
//! | Name | Looks at | Take it when |
//! |---|---|---|
//! | [`rr`](RoundRobin) | the last choice | servers are equal and connections short |
//! | [`wrr`](WeightedRoundRobin) | the last choice, weights | servers differ and connections are short |
//! | [`lc`](LeastConnection) | connection counts | servers are equal and connections last |
//! | [`wlc`](WeightedLeastConnection) | connection counts, weights | in general: ipvsadm's default |
//! | [`sh`](SourceHashing) | the client's address, perhaps port | a client should stay with a server and the list rarely changes |
//! | [`mh`](MaglevHashing) | the same | a client should stay also when the list changes; equal to the kernel's choice |
//! | [`maglev`](Maglev) | the same | several directors must agree, whatever the order of their lists |
//!
//! A scheduler sees a [`Flow`] and the virtual service's [`Server`]s in list order, and answers with an
//! index into that list. It knows no packet, no connection table and no I/O, so a custom proxy can use it
//! alone; `Balancer` is the front for that.
//!
//! # Examples
//! The owner of the list keeps the counts that `wlc` looks at:
//! ```
//! use lvs_sched::{Flow, Instant, Protocol, SchedulerFlags, SchedulerKind, Server, ServerId, Weight};
//!
//! let kind: SchedulerKind = "wlc".parse()?;
//! let mut scheduler = kind.build(SchedulerFlags::empty());
//! let servers = [
//!     Server::new(ServerId(1), "10.0.1.1:80".parse()?, Weight::new(3)?),
//!     Server::new(ServerId(2), "10.0.1.2:80".parse()?, Weight::ONE),
//! ];
//! let flow = Flow {
//!     protocol: Protocol::Tcp,
//!     client: "192.0.2.1:40000".parse()?,
//!     service: "10.0.0.1:80".parse()?,
//! };
//! for _ in 0..400 {
//!     let index = scheduler.schedule(&flow, &servers, Instant::ZERO).ok_or("no server is available")?;
//!     servers[index].load.add_active();
//! }
//! assert_eq!((servers[0].load.active(), servers[1].load.active()), (300, 100));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! A `Balancer` keeps list and counts itself; a connection lasts as long as its lease:
#![cfg_attr(feature = "std", doc = "```")]
#![cfg_attr(not(feature = "std"), doc = "```text")]
//! use lvs_sched::{Balancer, Endpoint, Flow, Instant, Protocol, SchedulerKind, Weight};
//!
//! let (a, b): (Endpoint, Endpoint) = ("10.0.1.1:80".parse()?, "10.0.1.2:80".parse()?);
//! let balancer = Balancer::new(SchedulerKind::LeastConnection);
//! balancer.update([(a, Weight::ONE), (b, Weight::ONE)])?;
//!
//! let flow = Flow { protocol: Protocol::Tcp, client: "192.0.2.1:40000".parse()?, service: "10.0.0.1:80".parse()? };
//! let first = balancer.pick(&flow, Instant::ZERO).ok_or("no server is available")?;
//! let second = balancer.pick(&flow, Instant::ZERO).ok_or("no server is available")?;
//! assert_eq!((first.server(), second.server()), (b, a));
//!
//! balancer.update([(a, Weight::ONE)])?; // b leaves; its connection goes on
//! assert_eq!(balancer.connections(b), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not do
//! It forwards nothing, keeps no connection table and no persistence templates, checks no health, reads no
//! clock and draws no random numbers: the same calls give the same answers everywhere.
//!
//! # Features
//! - `std` (on): `Balancer`. Without it the crate is `no_std` and needs `alloc`.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(feature = "std")]
mod balancer;
mod flow;
mod gcd;
mod hash;
mod kind;
mod lc;
mod maglev;
mod mh;
mod overhead;
mod permutation;
mod rr;
mod server;
mod sh;
#[cfg(test)]
mod testing;
mod thresholds;
mod time;
mod wlc;
mod wrr;

#[cfg(feature = "std")]
pub use balancer::{Balancer, DuplicateServer, Lease, ServerConfig, ServerStatus};
pub use flow::{Endpoint, Flow, ParseEndpointError, Protocol};
pub use kind::{ParseSchedulerError, SchedulerFlags, SchedulerKind};
pub use lc::LeastConnection;
pub use maglev::{Maglev, MaglevSize};
pub use mh::{MaglevHashing, MhTableIndex};
pub use overhead::Overhead;
pub use rr::RoundRobin;
pub use server::{Load, Server, ServerId, Weight, WeightError};
pub use sh::SourceHashing;
pub use thresholds::{Thresholds, ThresholdsError};
pub use time::Instant;
pub use wlc::WeightedLeastConnection;
pub use wrr::WeightedRoundRobin;

use alloc::boxed::Box;

/// A scheduling algorithm with its own memory (cursors, tables).
///
/// `servers` is always the whole list of one virtual service in list order. In the kernel a new server goes
/// to the *head* of the list; the owner of the list decides that, the scheduler only follows the order.
/// A new scheduler that was told of no change takes the first list that it sees as complete, so a scheduler
/// can replace another at any time.
pub trait Scheduler: core::fmt::Debug + Send {
    /// Returns the index of the server that takes this new flow, or `None` when no server may.
    ///
    /// Servers with weight 0 (quiesced) or marked [overloaded](Load::is_overloaded) are never returned.
    fn schedule(&mut self, flow: &Flow, servers: &[Server], now: Instant) -> Option<usize>;

    /// Returns an independent copy with the same memory, to try a choice without moving any cursor.
    fn fork(&self) -> Box<dyn Scheduler>;

    /// Tells the scheduler that the list has changed; `servers` is the list after the change.
    ///
    /// `rr` and `wrr` move their cursors then; `sh`, `mh` and `maglev` fill their tables anew at the next
    /// choice, once for any number of changes.
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
