//! Fragments: held until their datagram is whole, and cut where a packet must leave in pieces.
//!
//! A datagram comes in pieces, is scheduled and rewritten once as a whole, and leaves in the pieces it came
//! in, as Linux does it:
//!
//! ```text
//! fragment ─▶ FragmentStore::insert ─▶ Held                     (Verdict::Queued)
//!                                   └▶ Complete(Datagram) ─ director ─▶ cut(packet, sizes, mtu, id) ─▶ pieces
//! ```
//!
//! LVS/NAT, LVS/DR and FULLNAT pass [`Datagram::sizes`] to [`cut`]; LVS/TUN wraps the datagram once and cuts the
//! outer packet to [`Datagram::max_size`]. Nothing here knows a connection, a service or a link.

mod cut;
mod store;

pub use cut::{CutError, cut};
pub use store::{Datagram, FragmentCounters, FragmentLimits, FragmentStore, LostFragments, Outcome};

use crate::wire::ipv4;

/// Writes the length, the flags and offset, and the checksum of the IPv4 header that `packet` starts with.
fn finish_ipv4_header(packet: &mut [u8], total_len: u16, flags_and_offset: u16) {
    ipv4::set_total_len(packet, total_len);
    ipv4::set_flags(packet, flags_and_offset);
    ipv4::fill_checksum(packet);
}

#[cfg(test)]
mod tests;
