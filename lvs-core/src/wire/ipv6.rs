//! IPv6 (RFC 8200): where fields are, and writing them one at a time.
//!
//! A writer changes the field it names and nothing else; there is no header checksum. All take a packet that
//! [`parse`](super::parse) has read, from its IP header on.
//!
//! # Panics
//! Readers and writers panic when the slice is shorter than the field's end.

use core::net::Ipv6Addr;

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;
/// Version (4 bits), traffic class (8 bits), flow label (20 bits).
pub const VERSION_CLASS_LABEL: usize = 0;
/// Payload length, 2 bytes.
pub const PAYLOAD_LEN: usize = 4;
/// Next header.
pub const NEXT_HEADER: usize = 6;
/// Hop limit.
pub const HOP_LIMIT: usize = 7;
/// Source address, 16 bytes.
pub const SRC: usize = 8;
/// Destination address, 16 bytes.
pub const DST: usize = 24;

/// Length of a fragment header, in bytes: next header, reserved, offset and flags (2), identification (4).
pub const FRAGMENT_LEN: usize = 8;
/// Offset and flags, 2 bytes, in the fragment header.
pub const FRAGMENT_FLAGS: usize = 2;
/// Identification, 4 bytes, in the fragment header.
pub const FRAGMENT_ID: usize = 4;
/// The fragment offset in bytes, in the word at byte 2 of the fragment header.
pub const OFFSET_MASK: u16 = 0xfff8;
/// More fragments, in the word at byte 2 of the fragment header.
pub const MORE_FRAGMENTS: u16 = 0x0001;

/// Length of an extension header (options, routing) in bytes, of its length byte, which stands second in it.
#[inline]
pub const fn extension_len(units: u8) -> usize {
    (units as usize + 1) * 8
}

/// The payload length: all bytes behind the fixed header.
#[inline]
pub fn payload_len(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[PAYLOAD_LEN], packet[PAYLOAD_LEN + 1]])
}

/// The source address.
#[inline]
pub fn src(packet: &[u8]) -> Ipv6Addr {
    address(packet, SRC)
}

/// The destination address.
#[inline]
pub fn dst(packet: &[u8]) -> Ipv6Addr {
    address(packet, DST)
}

#[inline]
fn address(packet: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packet[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// Writes the traffic class.
#[inline]
pub fn set_traffic_class(packet: &mut [u8], class: u8) {
    packet[0] = packet[0] & 0xf0 | class >> 4;
    packet[1] = packet[1] & 0x0f | class << 4;
}

/// Writes the flow label, 20 bits; higher bits are not looked at.
#[inline]
pub fn set_flow_label(packet: &mut [u8], label: u32) {
    let [_, high, middle, low] = label.to_be_bytes();
    packet[1] = packet[1] & 0xf0 | high & 0x0f;
    packet[2] = middle;
    packet[3] = low;
}

/// Writes the payload length: all bytes behind the fixed header.
#[inline]
pub fn set_payload_len(packet: &mut [u8], len: u16) {
    packet[PAYLOAD_LEN..PAYLOAD_LEN + 2].copy_from_slice(&len.to_be_bytes());
}

/// Writes the next header of the fixed header.
#[inline]
pub fn set_next_header(packet: &mut [u8], next: u8) {
    packet[NEXT_HEADER] = next;
}

/// Writes the hop limit.
#[inline]
pub fn set_hop_limit(packet: &mut [u8], limit: u8) {
    packet[HOP_LIMIT] = limit;
}

/// Takes 1 from the hop limit; 0 stays 0.
#[inline]
pub fn decrement_hop_limit(packet: &mut [u8]) {
    packet[HOP_LIMIT] = packet[HOP_LIMIT].saturating_sub(1);
}

/// Writes the source address.
#[inline]
pub fn set_src(packet: &mut [u8], src: Ipv6Addr) {
    packet[SRC..SRC + 16].copy_from_slice(&src.octets());
}

/// Writes the destination address.
#[inline]
pub fn set_dst(packet: &mut [u8], dst: Ipv6Addr) {
    packet[DST..DST + 16].copy_from_slice(&dst.octets());
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (fn(&mut [u8]), core::ops::Range<usize>, &'static [u8]);

    #[test]
    fn every_writer_touches_only_its_field() {
        let cases: [Case; 7] = [
            (|p| set_traffic_class(p, 0x12), 0..2, &[0x51, 0x25]),
            (|p| set_flow_label(p, 0xfff1_2345), 1..4, &[0x51, 0x23, 0x45]),
            (|p| set_payload_len(p, 0x1234), 4..6, &[0x12, 0x34]),
            (|p| set_next_header(p, 41), 6..7, &[41]),
            (|p| set_hop_limit(p, 7), 7..8, &[7]),
            (|p| set_src(p, Ipv6Addr::LOCALHOST), 8..24, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            (|p| set_dst(p, Ipv6Addr::UNSPECIFIED), 24..40, &[0; 16]),
        ];
        for (write, range, expected) in cases {
            let mut header = [0x55; 41];
            write(&mut header);
            let mut wanted = [0x55; 41];
            wanted[range].copy_from_slice(expected);
            assert_eq!(header, wanted);
        }
    }

    #[test]
    fn every_reader_reads_its_field() {
        let mut header = [0x55; 40];
        header[4..6].copy_from_slice(&[0x12, 0x34]);
        header[8..24].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        header[24..40].copy_from_slice(&[9; 16]);
        assert_eq!(payload_len(&header), 0x1234);
        assert_eq!((src(&header), dst(&header)), (Ipv6Addr::LOCALHOST, Ipv6Addr::from([9; 16])));
        assert_eq!((extension_len(0), extension_len(255)), (8, 2048));
    }

    #[test]
    fn hop_limit_stops_at_zero() {
        let mut header = [0; 40];
        header[HOP_LIMIT] = 1;
        decrement_hop_limit(&mut header);
        decrement_hop_limit(&mut header);
        assert_eq!(header, [0; 40]);
    }
}
