//! The connection table: which flow goes to which server, in both directions.
//!
//! The director looks packets up here by [`Tuple`], writes state and expiry into the entry it finds and
//! inserts entries for new flows. This module never sees a packet, a service or a scheduler.
//!
//! ```text
//! tuple ─hash─▶ bucket (64 bytes: 12 tags, 12 slot numbers) ─▶ entry (64 bytes IPv4, 128 bytes IPv6)
//! ```
//!
//! A packet of a known flow reads one bucket and one entry. Memory is taken at start for a fixed number of
//! connections and never grows. What one connection costs when all are in use with two keys each:
//!
//! | Bytes | IPv4 | IPv6 |
//! |---|---|---|
//! | entry | 64 | 128 |
//! | index | 18.3 | 18.3 |
//! | expiry | 0.06 | 0.06 |
//! | sum | 82.4 | 146.4 |

use core::fmt;

use lvs_sched::{Endpoint, Instant, Protocol, ServerId};

mod clock;
mod entry;
mod filter;
mod index;
mod memory;
mod sctp;
mod snapshot;
mod state;
mod store;
mod table;
mod timeout;

pub use entry::{Hot, NO_COLD};
pub use filter::Filter;
pub use sctp::sctp_next;
pub use snapshot::{SnapshotError, SnapshotRecords, parse_snapshot};
pub use state::{Row, State, tcp_next};
pub use table::{Capacity, ConnId, ConnTable, Ended, InsertError, Lookup};
pub use timeout::Timeouts;

use crate::service::ForwardingMethod;
#[cfg(doc)]
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

/// The forwarding method of a connection, with the kernel's numbers (`IP_VS_CONN_F_FWD_MASK`). The headers of
/// a tunnel are its server's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    /// LVS/NAT.
    Masquerade = 0,
    /// The director itself.
    Local = 1,
    /// LVS/TUN.
    Tunnel = 2,
    /// LVS/DR.
    DirectRoute = 3,
    /// The original destination.
    Bypass = 4,
    /// FULLNAT (no kernel number; the one of the FULLNAT forks).
    FullNat = 5,
}

impl Method {
    /// The method of a number; `None` above 5.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Masquerade,
            1 => Self::Local,
            2 => Self::Tunnel,
            3 => Self::DirectRoute,
            4 => Self::Bypass,
            5 => Self::FullNat,
            _ => return None,
        })
    }

    /// The word in the Forward column of `ipvsadm -L`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Masquerade => "Masq",
            Self::Local => "Local",
            Self::Tunnel => "Tunnel",
            Self::DirectRoute => "Route",
            Self::Bypass => "Bypass",
            Self::FullNat => "FullNat",
        }
    }

    /// Whether the server's replies come back through the director and are rewritten there.
    #[inline]
    pub const fn sees_replies(self) -> bool {
        matches!(self, Self::Masquerade | Self::FullNat)
    }
}

/// The word of ipvsadm's Forward column.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl From<ForwardingMethod> for Method {
    fn from(method: ForwardingMethod) -> Self {
        match method {
            ForwardingMethod::Masquerade => Self::Masquerade,
            ForwardingMethod::Local => Self::Local,
            ForwardingMethod::Tunnel(_) => Self::Tunnel,
            ForwardingMethod::DirectRoute => Self::DirectRoute,
            ForwardingMethod::Bypass => Self::Bypass,
            ForwardingMethod::FullNat => Self::FullNat,
        }
    }
}

/// Everything about a connection, as a value: what is inserted, listed, exported and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The client (CIP and port). The port is 0 while `NO_CLIENT_PORT` is set.
    pub client: Endpoint,
    /// What the client addressed (VIP and port).
    pub service: Endpoint,
    /// Where its packets go (RIP and port).
    ///
    /// The table has no room for an address of the other family (a tunnel that carries IPv4 over IPv6 or the
    /// other way): it returns the unspecified address of the client's family, with the port, and the owner
    /// finds the address by `server_id`. The same goes for `local`.
    pub server: Endpoint,
    /// Whom the server answers: the client itself, or a local address and port in FULLNAT.
    pub local: Endpoint,
    /// How packets reach the server.
    pub method: Method,
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
