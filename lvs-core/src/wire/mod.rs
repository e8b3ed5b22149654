//! Reading packets: one walk over the headers, no allocation, no copies.
//!
//! [`parse`] is the only code that decides where a header starts; everything later takes its values from
//! [`Parsed`]. Nothing here knows a service or a connection.

pub mod checksum;
mod error;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod ipv4;
pub mod ipv6;
mod packet;
mod parse;
mod parsed;
pub mod sctp;
pub mod tcp;
pub mod udp;

pub use checksum::Delta;
pub use error::{Layer, ParseError};
pub use ethernet::{Ethernet, MacAddr};
pub use packet::{ChecksumState, Gso, HEADROOM, Meta, NoRoom, Packet, TAILROOM};
pub use parse::{MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS, parse, parse_quoted};
pub use parsed::{Fragment, Icmp, IcmpBody, Parsed, Quoted, TcpFlags, Transport, Tuple};
