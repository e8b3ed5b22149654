//! Reading packets: one walk over the headers, no allocation, no copies.
//!
//! [`parse`] is the only code that decides where a header starts; everything later takes its values from
//! [`Parsed`]. Nothing here knows a service or a connection.

mod packet;
mod parsed;

pub use packet::{ChecksumState, Gso, HEADROOM, Meta, NoRoom, Packet, TAILROOM};
pub use parsed::{Fragment, Icmp, IcmpBody, Parsed, Quoted, TcpFlags, Transport, Tuple};
