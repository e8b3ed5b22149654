//! IPv4 (RFC 791): where fields are, and writing them one at a time.
//!
//! A writer changes the field it names and nothing else; the header checksum is touched only by
//! [`set_checksum`], [`decrement_ttl`] and [`fill_checksum`]. All take a packet that [`parse`](super::parse)
//! has read, from its IP header on.
//!
//! # Panics
//! Readers and writers panic when the slice is shorter than the field's end.

use core::net::Ipv4Addr;

use super::checksum::{Delta, ipv4_header_checksum};

/// Length of a header without options, in bytes.
pub const MIN_HEADER_LEN: usize = 20;
/// Version (4 bits) and header length in words of 4 bytes (4 bits).
pub const VERSION_IHL: usize = 0;
/// Type of service: DSCP (6 bits) and ECN (2 bits).
pub const TOS: usize = 1;
/// Total length, 2 bytes.
pub const TOTAL_LEN: usize = 2;
/// Identification, 2 bytes.
pub const ID: usize = 4;
/// Flags (3 bits) and fragment offset in units of 8 bytes (13 bits).
pub const FLAGS: usize = 6;
/// Time to live.
pub const TTL: usize = 8;
/// Protocol.
pub const PROTOCOL: usize = 9;
/// Header checksum, 2 bytes.
pub const CHECKSUM: usize = 10;
/// Source address, 4 bytes.
pub const SRC: usize = 12;
/// Destination address, 4 bytes.
pub const DST: usize = 16;

/// Don't fragment, in the word at [`FLAGS`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, in the word at [`FLAGS`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in the word at [`FLAGS`].
pub const OFFSET_MASK: u16 = 0x1fff;

/// End of the option list.
pub const OPTION_END: u8 = 0;
/// No operation.
pub const OPTION_NOP: u8 = 1;
/// Loose source and record route.
pub const OPTION_LOOSE_ROUTE: u8 = 131;
/// Strict source and record route.
pub const OPTION_STRICT_ROUTE: u8 = 137;
/// In an option's kind: every fragment has the option, not only the first.
pub const OPTION_COPIED: u8 = 0x80;

/// Length of the header with its options, in bytes, as its first byte states it.
#[inline]
pub fn header_len(packet: &[u8]) -> usize {
    usize::from(packet[VERSION_IHL] & 0x0f) * 4
}

/// The total length, in bytes.
#[inline]
pub fn total_len(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[TOTAL_LEN], packet[TOTAL_LEN + 1]])
}

/// The identification.
#[inline]
pub fn id(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[ID], packet[ID + 1]])
}

/// Flags and fragment offset as one word, as [`set_flags`] writes them.
#[inline]
pub fn flags(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[FLAGS], packet[FLAGS + 1]])
}

/// The source address.
#[inline]
pub fn src(packet: &[u8]) -> Ipv4Addr {
    let [a, b, c, d] = [packet[SRC], packet[SRC + 1], packet[SRC + 2], packet[SRC + 3]];
    Ipv4Addr::new(a, b, c, d)
}

/// The destination address.
#[inline]
pub fn dst(packet: &[u8]) -> Ipv4Addr {
    let [a, b, c, d] = [packet[DST], packet[DST + 1], packet[DST + 2], packet[DST + 3]];
    Ipv4Addr::new(a, b, c, d)
}

/// Writes the type of service.
#[inline]
pub fn set_tos(packet: &mut [u8], tos: u8) {
    packet[TOS] = tos;
}

/// Writes the total length.
#[inline]
pub fn set_total_len(packet: &mut [u8], len: u16) {
    packet[TOTAL_LEN..TOTAL_LEN + 2].copy_from_slice(&len.to_be_bytes());
}

/// Writes the identification.
#[inline]
pub fn set_id(packet: &mut [u8], id: u16) {
    packet[ID..ID + 2].copy_from_slice(&id.to_be_bytes());
}

/// Writes flags and fragment offset as one word: [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`], offset / 8.
#[inline]
pub fn set_flags(packet: &mut [u8], word: u16) {
    packet[FLAGS..FLAGS + 2].copy_from_slice(&word.to_be_bytes());
}

/// Writes the time to live.
#[inline]
pub fn set_ttl(packet: &mut [u8], ttl: u8) {
    packet[TTL] = ttl;
}

/// Writes the protocol.
#[inline]
pub fn set_protocol(packet: &mut [u8], protocol: u8) {
    packet[PROTOCOL] = protocol;
}

/// Writes the source address.
#[inline]
pub fn set_src(packet: &mut [u8], src: Ipv4Addr) {
    packet[SRC..SRC + 4].copy_from_slice(&src.octets());
}

/// Writes the destination address.
#[inline]
pub fn set_dst(packet: &mut [u8], dst: Ipv4Addr) {
    packet[DST..DST + 4].copy_from_slice(&dst.octets());
}

/// The header checksum as it stands.
#[inline]
pub fn checksum(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[CHECKSUM], packet[CHECKSUM + 1]])
}

/// Writes the header checksum.
#[inline]
pub fn set_checksum(packet: &mut [u8], checksum: u16) {
    packet[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Computes and writes the header checksum from scratch.
pub fn fill_checksum(packet: &mut [u8]) {
    let header_len = header_len(packet);
    set_checksum(packet, ipv4_header_checksum(&packet[..header_len]));
}

/// Takes 1 from the time to live and updates the header checksum. A time to live of 0 stays 0.
#[inline]
pub fn decrement_ttl(packet: &mut [u8]) {
    let old = packet[TTL];
    let new = old.saturating_sub(1);
    packet[TTL] = new;
    // The time to live is the high byte of its word; the low byte does not change.
    let delta = Delta::of_word(u16::from(old) << 8, u16::from(new) << 8);
    set_checksum(packet, delta.apply(checksum(packet)));
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (fn(&mut [u8]), core::ops::Range<usize>, &'static [u8]);

    /// The header of an example that is checked by hand: sum of the other words is 0x479E, complement 0xB861.
    const HEADER: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0,
        199,
    ];

    #[test]
    fn every_writer_touches_only_its_field() {
        let cases: [Case; 8] = [
            (|p| set_tos(p, 0xb8), 1..2, &[0xb8]),
            (|p| set_total_len(p, 0x1234), 2..4, &[0x12, 0x34]),
            (|p| set_id(p, 0xabcd), 4..6, &[0xab, 0xcd]),
            (|p| set_flags(p, MORE_FRAGMENTS | 185), 6..8, &[0x20, 0xb9]),
            (|p| set_ttl(p, 7), 8..9, &[7]),
            (|p| set_protocol(p, 4), 9..10, &[4]),
            (|p| set_src(p, Ipv4Addr::new(1, 2, 3, 4)), 12..16, &[1, 2, 3, 4]),
            (|p| set_dst(p, Ipv4Addr::new(5, 6, 7, 8)), 16..20, &[5, 6, 7, 8]),
        ];
        for (write, range, expected) in cases {
            let mut header = HEADER;
            write(&mut header);
            let mut wanted = HEADER;
            wanted[range].copy_from_slice(expected);
            assert_eq!(header, wanted);
        }
    }

    #[test]
    fn every_reader_reads_its_field() {
        assert_eq!((header_len(&HEADER), total_len(&HEADER), id(&HEADER)), (20, 0x73, 0));
        assert_eq!((flags(&HEADER), checksum(&HEADER)), (DONT_FRAGMENT, 0xb861));
        assert_eq!(src(&HEADER), Ipv4Addr::new(192, 168, 0, 1));
        assert_eq!(dst(&HEADER), Ipv4Addr::new(192, 168, 0, 199));
    }

    #[test]
    fn fill_checksum_writes_the_known_sum() {
        let mut header = HEADER;
        set_checksum(&mut header, 0x5555);
        fill_checksum(&mut header);
        assert_eq!(header, HEADER);
    }

    #[test]
    fn decrement_ttl_keeps_the_checksum_right_down_to_zero() {
        let mut header = HEADER;
        for ttl in (0..64).rev() {
            decrement_ttl(&mut header);
            assert_eq!(header[TTL], ttl);
            assert_eq!(checksum(&header), ipv4_header_checksum(&header));
        }
        let at_zero = header;
        decrement_ttl(&mut header);
        assert_eq!(header, at_zero);
    }
}
