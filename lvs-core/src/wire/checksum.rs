//! Internet checksums (RFC 1071): differences that repair a checksum after a rewrite (RFC 1624), and full sums.
//!
//! All values are numbers whose high byte is the first byte on the wire, on every machine. Nothing here knows
//! where a checksum field lies except [`checksum_offset`] and the full sums that leave it out.

use core::net::IpAddr;

use lvs_sched::Endpoint;
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols as next_header};

use super::{ipv4, tcp, udp};

/// Where ICMP and ICMPv6 keep their checksum, in bytes from the message's start.
pub const ICMP_CHECKSUM: usize = 2;

/// What a rewrite adds to the one's-complement sum of a packet: new words minus old words.
///
/// A delta is plain data: it is computed once per connection and direction and may be stored, sent and applied
/// by other machines. The number is that of big-endian words; [`to_be_bytes`](Self::to_be_bytes) is its form on
/// the wire. Zero has one form only (0, never 0xFFFF), so equal deltas are equal numbers and the zero delta
/// changes no field at all (RFC 1624 section 3 tells what happens otherwise).
///
/// # Examples
/// ```
/// use lvs_core::wire::Delta;
/// // RFC 1624 section 4: 0x5555 becomes 0x3285 under the checksum 0xDD2F.
/// assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changed.
    pub const ZERO: Self = Self(0);

    /// The delta of one 16-bit word (a port) that is replaced.
    #[inline]
    pub const fn of_word(old: u16, new: u16) -> Self {
        // Below 2^17: ~old + new, eqn. 3 of RFC 1624.
        Self::normal(!old as u32 + new as u32)
    }

    /// The delta of 16-bit words that are replaced; the two may differ in number (missing words are 0).
    pub fn of_words(old: &[u16], new: &[u16]) -> Self {
        let sum = |words: &[u16]| fold(words.iter().map(|&word| u64::from(word)).sum());
        Self::of_word(sum(old), sum(new))
    }

    /// The delta of a 32-bit number (sequence number, timestamp) at an even offset that is replaced.
    #[inline]
    pub const fn of_u32(old: u32, new: u32) -> Self {
        Self::of_word(fold(old as u64), fold(new as u64))
    }

    /// The delta of bytes that start at an even offset and are replaced; an odd end is padded with 0.
    pub fn of_bytes(old: &[u8], new: &[u8]) -> Self {
        Self::of_word(sum(old), sum(new))
    }

    /// The delta of an address that is replaced, in the pseudo-header or the IPv4 header.
    ///
    /// The two may be of different families: the pseudo-headers of IPv4 and IPv6 differ in the addresses only.
    #[inline]
    pub fn of_addr(old: IpAddr, new: IpAddr) -> Self {
        Self::of_word(addr_sum(old), addr_sum(new))
    }

    /// The delta of an address and a port that are replaced, for a transport checksum.
    #[inline]
    pub fn of_endpoint(old: Endpoint, new: Endpoint) -> Self {
        Self::of_addr(old.addr, new.addr).plus(Self::of_word(old.port, new.port))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self::normal(self.0 as u32 + other.0 as u32)
    }

    /// The change back.
    #[inline]
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self::normal(!self.0 as u32)
    }

    /// Updates a complete checksum field: HC' = ~(~HC + ~m + m'), eqn. 3 of RFC 1624.
    ///
    /// The result equals a full sum over the changed data, bit for bit, when the field was right.
    #[inline]
    #[must_use]
    pub const fn apply(self, field: u16) -> u16 {
        !fold(!field as u64 + self.0 as u64)
    }

    /// Updates a UDP checksum field: as [`apply`](Self::apply), but a result of 0 is written 0xFFFF (RFC 768).
    ///
    /// A field of 0 says that there is no checksum; it must not be given here.
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, field: u16) -> u16 {
        match self.apply(field) {
            0 => 0xffff,
            field => field,
        }
    }

    /// Updates a field that holds the pseudo-header's sum only
    /// ([`ChecksumState::Partial`](super::ChecksumState::Partial)). Give it the addresses' delta, not the ports'.
    #[inline]
    #[must_use]
    pub const fn apply_partial(self, field: u16) -> u16 {
        fold(field as u64 + self.0 as u64)
    }

    /// The number; [`from_bits`](Self::from_bits) reads it back.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The delta of a number; 0xFFFF is taken for 0.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self::normal(bits as u32)
    }

    /// The number in network byte order.
    pub const fn to_be_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    const fn normal(sum: u32) -> Self {
        match fold(sum as u64) {
            0xffff => Self(0),
            sum => Self(sum),
        }
    }
}

/// Where a protocol keeps its 16-bit Internet checksum, in bytes from its header's start; `None` for others.
pub const fn checksum_offset(protocol: u8) -> Option<usize> {
    match IpNextHeaderProtocol(protocol) {
        next_header::Tcp => Some(tcp::CHECKSUM),
        next_header::Udp => Some(udp::CHECKSUM),
        next_header::Icmp | next_header::Icmpv6 => Some(ICMP_CHECKSUM),
        _ => None,
    }
}

/// The sum of the pseudo-header (RFC 793, RFC 8200 section 8.1), folded, not complemented: what a field holds
/// under [`ChecksumState::Partial`](super::ChecksumState::Partial). `len` is the segment's length in bytes.
pub fn pseudo_header_sum(src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> u16 {
    let addresses = u64::from(addr_sum(src)) + u64::from(addr_sum(dst));
    fold(addresses + u64::from(protocol) + u64::from(len))
}

/// The checksum to write into a TCP, UDP or ICMPv6 segment, whatever its field holds now.
///
/// The field counts as 0. A UDP checksum of 0 is returned as 0xFFFF (RFC 768). For protocols without a known
/// field every byte counts.
pub fn transport_checksum(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let pseudo = pseudo_header_sum(src, dst, protocol, segment.len() as u32);
    let body = match checksum_offset(protocol) {
        Some(field) => sum_without(segment, field),
        None => sum(segment),
    };
    match !fold(u64::from(pseudo) + u64::from(body)) {
        0 if protocol == next_header::Udp.0 => 0xffff,
        checksum => checksum,
    }
}

/// Whether the checksum in a TCP, UDP or ICMPv6 segment is right. A UDP field of 0 is not looked at here.
pub fn transport_checksum_is_right(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> bool {
    let pseudo = pseudo_header_sum(src, dst, protocol, segment.len() as u32);
    fold(u64::from(pseudo) + u64::from(sum(segment))) == 0xffff
}

/// The checksum to write into an IPv4 header (RFC 791), whatever its field holds now.
pub fn ipv4_header_checksum(header: &[u8]) -> u16 {
    !sum_without(header, ipv4::CHECKSUM)
}

/// The checksum to write into an ICMP message for IPv4 (RFC 792), whatever its field holds now.
pub fn icmp_checksum(message: &[u8]) -> u16 {
    !sum_without(message, ICMP_CHECKSUM)
}

/// Whether the checksum in an ICMP message for IPv4 is right.
pub fn icmp_checksum_is_right(message: &[u8]) -> bool {
    sum(message) == 0xffff
}

/// The one's-complement sum of bytes as big-endian words, not complemented; an odd end is padded with 0.
pub fn sum(bytes: &[u8]) -> u16 {
    !u16::from_be_bytes(internet_checksum::checksum(bytes))
}

/// The sum of all words but the one at `field`, which is even.
fn sum_without(bytes: &[u8], field: usize) -> u16 {
    match (bytes.get(..field), bytes.get(field + 2..)) {
        (Some(before), Some(behind)) => fold(u64::from(sum(before)) + u64::from(sum(behind))),
        _ => sum(bytes),
    }
}

#[inline]
fn addr_sum(addr: IpAddr) -> u16 {
    match addr {
        IpAddr::V4(addr) => fold(u64::from(addr.to_bits())),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            // 2^64 counts as 1, as 2^16 does.
            let sum = (bits >> 64) + (bits & u128::from(u64::MAX));
            fold((sum >> 64) as u64 + (sum as u64 >> 32) + (sum as u64 & 0xffff_ffff))
        }
    }
}

/// Adds the carries back in until 16 bits are left. Only 0 folds to 0.
#[inline]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}
