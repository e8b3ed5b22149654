//! Packets for tests, built and checked by plain code that shares nothing with the engine.
//!
//! Every checksum here is computed over all bytes, never by increments.

use std::net::IpAddr;

use lvs_core::wire::{HEADROOM, Packet, TAILROOM};
use lvs_core::{Director, Endpoint, Instant, Protocol, Verdict};

/// TCP flag bits of byte 13.
pub mod flags {
    #![allow(missing_docs, reason = "the names are those of RFC 9293")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a packet is like beside its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// TCP flags; ignored by UDP.
    pub flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4 DF.
    pub dont_fragment: bool,
    /// Bytes behind the transport header.
    pub payload: usize,
    /// How the transport checksum stands.
    pub checksum: Checksum,
}

/// How a transport checksum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// As it should be.
    Right,
    /// Off by this much in one's complement (not 0 or 0xFFFF).
    Wrong(u16),
    /// Field 0: UDP over IPv4 without a checksum. TCP takes it as `Right`.
    None,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            flags: flags::SYN,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            dont_fragment: true,
            payload: 0,
            checksum: Checksum::Right,
        }
    }
}

/// A TCP segment or UDP datagram in IPv4 or IPv6. The payload is a pattern that depends on the ports.
pub fn build(protocol: Protocol, src: Endpoint, dst: Endpoint, shape: &Shape) -> Vec<u8> {
    let payload: Vec<u8> = (0..shape.payload).map(|i| (i as u16 ^ src.port) as u8).collect();
    build_with(protocol, src, dst, shape, &payload)
}

/// [`build`] with this payload.
pub fn build_with(
    protocol: Protocol,
    src: Endpoint,
    dst: Endpoint,
    shape: &Shape,
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(src.port.to_be_bytes());
    segment.extend(dst.port.to_be_bytes());
    let number = if protocol == Protocol::Tcp {
        segment.extend([0, 0, 0x10, 1, 0, 0, 0x20, 2]);
        segment.extend([0x50, shape.flags, 0x20, 0, 0, 0, 0, 0]);
        TCP
    } else {
        segment.extend((8 + payload.len() as u16).to_be_bytes());
        segment.extend([0, 0]);
        UDP
    };
    segment.extend(payload);
    let mut packet = ip_header(src.addr, dst.addr, number, shape, segment.len());
    packet.extend(segment);
    set_transport_checksum(&mut packet);
    match shape.checksum {
        Checksum::Right => {}
        Checksum::Wrong(by) => {
            let at = checksum_at(&packet).expect("TCP and UDP have one");
            let field = fold(u64::from(word(&packet, at)) + u64::from(by));
            // A UDP field of 0 would say "none".
            let field = if field == 0 { 0xffff } else { field };
            packet[at..at + 2].copy_from_slice(&field.to_be_bytes());
        }
        Checksum::None if number == UDP => {
            let at = checksum_at(&packet).expect("UDP has one");
            packet[at..at + 2].fill(0);
        }
        Checksum::None => {}
    }
    packet
}

/// An IP header in front of `len` bytes.
pub fn ip_header(src: IpAddr, dst: IpAddr, protocol: u8, shape: &Shape, len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header.extend([0x45, shape.tos]);
            header.extend((20 + len as u16).to_be_bytes());
            header.extend(shape.id.to_be_bytes());
            header.extend([if shape.dont_fragment { 0x40 } else { 0 }, 0, shape.ttl, protocol, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            set_ipv4_checksum(&mut header);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            header.extend((0x6000_0000u32 | u32::from(shape.tos) << 20).to_be_bytes());
            header.extend((len as u16).to_be_bytes());
            header.extend([protocol, shape.ttl]);
            header.extend(src.octets());
            header.extend(dst.octets());
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
    header
}

/// An ICMP or ICMPv6 error that quotes (as much as fits into 576 or 1280 bytes of) a packet.
pub fn icmp_error(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    let v4 = src.is_ipv4();
    let room = if v4 { 576 - 28 } else { 1280 - 48 };
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(&quote[..quote.len().min(room)]);
    let shape = Shape { dont_fragment: false, ..Shape::default() };
    let mut packet = ip_header(src, dst, if v4 { 1 } else { 58 }, &shape, message.len());
    packet.extend(message);
    set_transport_checksum(&mut packet);
    packet
}

/// The 16 bits at `at`.
pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Folds a sum of 16-bit words into one's complement.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of all 16-bit words, an odd byte padded with 0.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn is_ipv4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Where the transport header starts; IPv6 without extension headers.
pub fn transport_at(packet: &[u8]) -> usize {
    if is_ipv4(packet) { usize::from(packet[0] & 15) * 4 } else { 40 }
}

/// The protocol number that the IP header names.
pub fn protocol_of(packet: &[u8]) -> u8 {
    if is_ipv4(packet) { packet[9] } else { packet[6] }
}

/// Source and destination address of the IP header.
pub fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| {
        let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
        IpAddr::from(octets)
    };
    let v6 = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(octets)
    };
    if is_ipv4(packet) { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

/// Source and destination of a TCP or UDP packet.
pub fn endpoints(packet: &[u8]) -> (Endpoint, Endpoint) {
    let (src, dst) = addresses(packet);
    let l4 = transport_at(packet);
    (Endpoint::new(src, word(packet, l4)), Endpoint::new(dst, word(packet, l4 + 2)))
}

/// TTL or hop limit.
pub fn ttl(packet: &[u8]) -> u8 {
    packet[if is_ipv4(packet) { 8 } else { 7 }]
}

/// Sets TTL or hop limit and nothing else.
pub fn set_ttl(packet: &mut [u8], ttl: u8) {
    let at = if is_ipv4(packet) { 8 } else { 7 };
    packet[at] = ttl;
}

/// Computes the IPv4 header checksum anew; an IPv6 header has none.
pub fn set_ipv4_checksum(packet: &mut [u8]) {
    if is_ipv4(packet) {
        let len = usize::from(packet[0] & 15) * 4;
        packet[10..12].fill(0);
        let checksum = !fold(sum(&packet[..len]));
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Whether the IPv4 header checksum is right; true for IPv6.
pub fn ipv4_checksum_is_right(packet: &[u8]) -> bool {
    !is_ipv4(packet) || fold(sum(&packet[..usize::from(packet[0] & 15) * 4])) == 0xffff
}

/// Where the transport checksum is; `None` for a protocol without one.
pub fn checksum_at(packet: &[u8]) -> Option<usize> {
    let field = match protocol_of(packet) {
        TCP => 16,
        UDP => 6,
        1 | 58 => 2,
        _ => return None,
    };
    Some(transport_at(packet) + field)
}

/// The folded sum over transport header, payload and pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
fn transport_sum(packet: &[u8]) -> u16 {
    let l4 = transport_at(packet);
    let protocol = protocol_of(packet);
    let mut total = sum(&packet[l4..]);
    if protocol != 1 {
        total += match addresses(packet) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
            _ => unreachable!("one packet has one family"),
        };
        total += u64::from(protocol) + (packet.len() - l4) as u64;
    }
    fold(total)
}

/// Computes the transport checksum anew; UDP's 0 is written as 0xFFFF (RFC 768).
pub fn set_transport_checksum(packet: &mut [u8]) {
    let Some(at) = checksum_at(packet) else { return };
    packet[at..at + 2].fill(0);
    let mut checksum = !transport_sum(packet);
    if checksum == 0 && protocol_of(packet) == UDP {
        checksum = 0xffff;
    }
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// How far the transport checksum is off in one's complement: 0 = right.
pub fn transport_checksum_error(packet: &[u8]) -> u16 {
    let sum = transport_sum(packet);
    if sum == 0xffff { 0 } else { sum }
}

/// What a director made of one packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fed {
    /// The verdict.
    pub verdict: Verdict,
    /// The buffer behind it.
    pub bytes: Vec<u8>,
    /// What `poll_transmit` gave.
    pub queue: Vec<(Verdict, Vec<u8>)>,
}

/// Gives a director one packet.
pub fn feed(director: &mut Director, bytes: &[u8], now: Instant) -> Fed {
    let mut buffer = vec![0; HEADROOM + bytes.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
    let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len()).expect("inside the buffer");
    let verdict = director.process(&mut packet, now);
    Fed { verdict, bytes: packet.bytes().to_vec(), queue: drain(director) }
}

/// Takes everything out of `poll_transmit`.
pub fn drain(director: &mut Director) -> Vec<(Verdict, Vec<u8>)> {
    std::iter::from_fn(|| director.poll_transmit()).map(|out| (out.verdict, out.packet)).collect()
}

/// An endpoint from its text.
///
/// # Panics
/// When the text is no endpoint.
pub fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("an endpoint")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_datagram_is_built_byte_for_byte() {
        let shape = Shape { tos: 0xb9, id: 0x100f, dont_fragment: false, ..Shape::default() };
        let (src, dst) = (endpoint("172.16.0.9:30002"), endpoint("10.9.0.1:80"));
        let built = build_with(Protocol::Udp, src, dst, &shape, b"hello");
        let recorded = [
            0x45, 0xb9, 0, 33, 0x10, 0x0f, 0, 0, 64, 17, 0xb3, 0xe1, 172, 16, 0, 9, 10, 9, 0, 1, 0x75, 0x32,
            0, 80, 0, 13, 0x90, 0x5c, b'h', b'e', b'l', b'l', b'o',
        ];
        assert_eq!(built, recorded);
        assert_eq!(transport_checksum_error(&built), 0);
    }

    #[test]
    fn a_wrong_checksum_is_off_by_what_was_said() {
        for by in [1, 0x8000, 0xfffe] {
            let shape = Shape { checksum: Checksum::Wrong(by), ..Shape::default() };
            let packet =
                build(Protocol::Tcp, endpoint("[2001:db8::1]:1"), endpoint("[2001:db8::2]:2"), &shape);
            assert_eq!(transport_checksum_error(&packet), by);
        }
    }
}
