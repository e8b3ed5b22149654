//! The connection table: which flow goes to which server, in both directions.
//!
//! The director looks packets up here by [`Tuple`], writes state and expiry into the entry it finds and
//! inserts entries for new flows. This module never sees a packet, a service or a scheduler.

use lvs_sched::{Endpoint, Instant, Protocol, ServerId};

mod state;

pub use state::State;

use crate::service::ForwardingMethod;
use crate::wire::Tuple;

/// Which way a packet of a connection travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to server (the kernel's IN).
    In,
    /// Server to client (the kernel's OUT).
    Out,
}

bitflags::bitflags! {
    /// Connection flags with the kernel's values (`ip_vs.h`, bits above the forwarding method).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct ConnFlags: u16 {
        /// Learnt from another director.
        const SYNC = 0x0020;
        /// No packet from the server has been seen (always so for DR and TUN).
        const NO_OUTPUT = 0x0080;
        /// Counts as inactive at its server.
        const INACTIVE = 0x0100;
        /// The client's port is not known yet (FTP data).
        const NO_CLIENT_PORT = 0x0800;
        /// A persistence template.
        const TEMPLATE = 0x1000;
        /// One-packet scheduling.
        const ONE_PACKET = 0x2000;
    }
}

/// Everything about a connection, as a value: what is inserted, listed, exported and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The client (CIP and port).
    pub client: Endpoint,
    /// What the client addressed (VIP and port).
    pub service: Endpoint,
    /// Where its packets go (RIP and port).
    pub server: Endpoint,
    /// Whom the server answers: the client itself, or a local address and port in FULLNAT.
    pub local: Endpoint,
    /// How packets reach the server.
    pub method: ForwardingMethod,
    /// Which server record it counts at.
    pub server_id: ServerId,
    /// State of its protocol's machine.
    pub state: State,
    /// Flags.
    pub flags: ConnFlags,
    /// Mark of the packet that created it; 0 = none.
    pub mark: u32,
    /// Packets from the client so far (saturating).
    pub packets: u32,
    /// When it ends if no packet comes.
    pub expires: Instant,
}
