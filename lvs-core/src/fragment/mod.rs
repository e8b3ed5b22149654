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

/// Length of the IPv6 fragment header in bytes (RFC 8200 section 4.5).
const FRAGMENT_HEADER_LEN: usize = 8;
/// Protocol number of the IPv6 fragment header.
const FRAGMENT_HEADER: u8 = 44;
/// Length of the fixed IPv6 header in bytes.
const IPV6_HEADER_LEN: usize = 40;
/// Where the IPv6 header keeps the number of the next header.
const IPV6_NEXT_HEADER: usize = 6;
/// IPv4 flag "don't fragment" in the flags and offset field.
const DONT_FRAGMENT: u16 = 0x4000;
/// IPv4 flag "more fragments" in the flags and offset field.
const MORE_FRAGMENTS: u16 = 0x2000;

/// Reads a big-endian field; zero when the bytes do not reach that far.
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]))
}

/// Writes the length and the checksum of an IPv4 header. `header` is the header alone.
fn finish_ipv4_header(header: &mut [u8], total_len: u16, flags_and_offset: u16) {
    header[2..4].copy_from_slice(&total_len.to_be_bytes());
    header[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    header[10..12].fill(0);
    let checksum = internet_checksum::checksum(header);
    header[10..12].copy_from_slice(&checksum);
}

#[cfg(test)]
mod tests;
