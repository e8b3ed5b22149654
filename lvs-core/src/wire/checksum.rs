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
        !fold_pair(!field as u32 + self.0 as u32)
    }

    /// Updates a UDP checksum field: as [`apply`](Self::apply), but a result of 0 is written 0xFFFF (RFC 768).
    ///
    /// A field of 0 says that there is no checksum; it must not be given here.
    #[inline]
    #[must_use]
    pub const fn apply_udp(self, field: u16) -> u16 {
        debug_assert!(field != 0, "UDP without a checksum has nothing to update");
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
        fold_pair(field as u32 + self.0 as u32)
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

    /// `sum` is that of two 16-bit numbers.
    const fn normal(sum: u32) -> Self {
        match fold_pair(sum) {
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

/// The checksum field at `at`.
///
/// # Panics
/// When the field is not inside the bytes.
#[inline]
pub fn field(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes the checksum field at `at`.
///
/// # Panics
/// When the field is not inside the bytes.
#[inline]
pub fn set_field(bytes: &mut [u8], at: usize, checksum: u16) {
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
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

/// Finishes a partial checksum: sums `packet` from `start` to its end and writes the result at `start + offset`,
/// which holds the folded pseudo-header sum. A place outside of the packet changes nothing.
///
/// A sum of 0 is written as 0xFFFF: UDP must never say "no checksum" (RFC 768), and for TCP both are the same.
pub fn finish_checksum(packet: &mut [u8], start: u16, offset: u16) {
    let (start, offset) = (usize::from(start), usize::from(offset));
    let Some(covered) = packet.get_mut(start..) else { return };
    if offset + 2 > covered.len() {
        return;
    }
    let sum = match internet_checksum::checksum(covered) {
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    covered[offset..offset + 2].copy_from_slice(&sum);
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

/// [`fold`] for the sum of two 16-bit numbers, which carries once at most.
#[inline]
const fn fold_pair(sum: u32) -> u16 {
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SRC: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const DST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn rfc_1624_section_4() {
        // Equation 2 of RFC 1141 gives 0xFFFF here, which is wrong.
        assert_eq!(Delta::of_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn rfc_1071_section_3() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }

    #[test]
    fn the_zero_delta_changes_no_field() {
        for word in [0, 1, 0x5555, 0xfffe, 0xffff] {
            let delta = Delta::of_word(word, word);
            assert_eq!(delta, Delta::ZERO);
            for field in [0, 1, 0x1234, 0xfffe, 0xffff] {
                assert_eq!(delta.apply(field), field);
                assert_eq!(delta.apply_partial(field), field);
            }
        }
        assert_eq!(Delta::of_word(0, 0xffff), Delta::ZERO);
        assert_eq!(Delta::of_word(0xffff, 0), Delta::ZERO);
        assert_eq!(Delta::from_bits(0xffff), Delta::ZERO);
        assert_eq!(Delta::ZERO.inverse(), Delta::ZERO);
    }

    #[test]
    fn a_delta_is_the_number_of_big_endian_words() {
        let delta = Delta::of_word(0x0102, 0x0305);
        assert_eq!((delta.bits(), delta.to_be_bytes()), (0x0203, [2, 3]));
        assert_eq!(Delta::from_bits(delta.bits()), delta);
        // 10.0.0.2 - 10.0.0.1
        assert_eq!(Delta::of_addr(SRC, DST).bits(), 1);
    }

    #[test]
    fn udp_writes_ffff_for_zero() {
        let delta = Delta::of_word(0x5555, 0x3285);
        assert_eq!(delta.apply_udp(0xdd2f), 0xffff);
        assert_eq!(Delta::ZERO.apply_udp(0xffff), 0xffff);
        // A segment whose sum is all ones: the last word makes up the rest.
        let mut segment = [0, 1, 0, 2, 0, 10, 0, 0, 0, 0];
        let rest = transport_checksum(SRC, DST, 17, &segment);
        segment[8..].copy_from_slice(&rest.to_be_bytes());
        assert_eq!(transport_checksum(SRC, DST, 17, &segment), 0xffff);
        // The rule is UDP's own: without it the field would be 0.
        assert_eq!(!fold(u64::from(pseudo_header_sum(SRC, DST, 17, 10)) + u64::from(sum(&segment))), 0);
    }

    #[test]
    fn a_udp_segment_by_hand() {
        // Addresses, protocol, length; then ports, length and data. What the field holds does not count.
        let segment = [0x30, 0x39, 0x00, 0x35, 0x00, 0x0a, 0xff, 0xff, 0x68, 0x69];
        let right = !(0x0a00u16 + 1 + 0x0a00 + 2 + 17 + 10 + 0x3039 + 0x35 + 10 + 0x6869);
        assert_eq!(transport_checksum(SRC, DST, 17, &segment), right);
        let mut written = segment;
        written[6..8].copy_from_slice(&right.to_be_bytes());
        assert!(transport_checksum_is_right(SRC, DST, 17, &written));
        assert!(!transport_checksum_is_right(SRC, DST, 17, &segment));
    }

    #[test]
    fn icmp_has_no_pseudo_header() {
        let mut message = [8, 0, 0xff, 0xff, 0x12, 0x34, 0, 1];
        assert_eq!(icmp_checksum(&message), !(0x0800 + 0x1234 + 1));
        assert!(!icmp_checksum_is_right(&message));
        message[2..4].copy_from_slice(&icmp_checksum(&[8, 0, 0, 0, 0x12, 0x34, 0, 1]).to_be_bytes());
        assert!(icmp_checksum_is_right(&message));
    }

    #[test]
    fn a_field_is_read_as_it_is_written() {
        let mut bytes = [0x55; 4];
        set_field(&mut bytes, 1, 0x1234);
        assert_eq!((bytes, field(&bytes, 1)), ([0x55, 0x12, 0x34, 0x55], 0x1234));
    }

    #[test]
    fn short_segments_do_not_panic() {
        for len in 0..20 {
            let segment = [0x55; 20];
            for protocol in [1, 6, 17, 58, 132] {
                transport_checksum(SRC, DST, protocol, &segment[..len]);
            }
            ipv4_header_checksum(&segment[..len]);
            icmp_checksum(&segment[..len]);
        }
    }

    fn any_addr() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    /// Words that are often 0 or all ones.
    fn any_word() -> impl Strategy<Value = u16> {
        prop_oneof![any::<u16>(), Just(0), Just(0xffff), Just(0xfffe), Just(1)]
    }

    /// The pseudo-header as bytes, independent of the word arithmetic above.
    fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for addr in [src, dst] {
            match addr {
                IpAddr::V4(addr) => bytes.extend_from_slice(&addr.octets()),
                IpAddr::V6(addr) => bytes.extend_from_slice(&addr.octets()),
            }
        }
        bytes.extend_from_slice(&(len as u32).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, protocol]);
        bytes
    }

    /// The checksum of pseudo-header and segment in one go.
    fn reference(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
        let mut bytes = pseudo_header(src, dst, protocol, segment.len());
        bytes.extend_from_slice(segment);
        u16::from_be_bytes(internet_checksum::checksum(&bytes))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn an_updated_field_is_the_full_sum(
            addrs in (any_addr(), any_addr(), any_addr(), any_addr()),
            ports in (any_word(), any_word(), any_word(), any_word()),
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let segment = |sport: u16, dport: u16| {
                let mut segment = vec![0; 20];
                segment[..2].copy_from_slice(&sport.to_be_bytes());
                segment[2..4].copy_from_slice(&dport.to_be_bytes());
                segment.extend_from_slice(&payload);
                segment
            };
            let (before, after) = (segment(ports.0, ports.1), segment(ports.2, ports.3));
            let old = Endpoint::new(addrs.0, ports.0);
            let new = Endpoint::new(addrs.2, ports.2);
            let delta = Delta::of_endpoint(old, new)
                .plus(Delta::of_endpoint(Endpoint::new(addrs.1, ports.1), Endpoint::new(addrs.3, ports.3)));

            let (full_before, full_after) =
                (reference(addrs.0, addrs.1, 6, &before), reference(addrs.2, addrs.3, 6, &after));
            prop_assert_eq!(transport_checksum(addrs.0, addrs.1, 6, &before), full_before);
            prop_assert_eq!(delta.apply(full_before), full_after);
            prop_assert_eq!(delta.inverse().apply(full_after), full_before);

            let (udp_before, udp_after) =
                (reference(addrs.0, addrs.1, 17, &before), reference(addrs.2, addrs.3, 17, &after));
            let written = |sum: u16| if sum == 0 { 0xffff } else { sum };
            prop_assert_eq!(delta.apply_udp(written(udp_before)), written(udp_after));

            let addresses = Delta::of_addr(addrs.0, addrs.2).plus(Delta::of_addr(addrs.1, addrs.3));
            let pseudo = |src, dst| sum(&pseudo_header(src, dst, 6, before.len()));
            prop_assert_eq!(pseudo_header_sum(addrs.0, addrs.1, 6, before.len() as u32), pseudo(addrs.0, addrs.1));
            prop_assert_eq!(addresses.apply_partial(pseudo(addrs.0, addrs.1)), pseudo(addrs.2, addrs.3));
        }

        #[test]
        fn deltas_add_up_in_any_order(a in any_word(), b in any_word(), c in any_word(), d in any_word()) {
            let (first, second) = (Delta::of_word(a, b), Delta::of_word(c, d));
            prop_assert_eq!(first.plus(second), second.plus(first));
            prop_assert_eq!(first.plus(second), Delta::of_words(&[a, c], &[b, d]));
            prop_assert_eq!(first.plus(first.inverse()), Delta::ZERO);
            prop_assert_eq!(first.inverse(), Delta::of_word(b, a));
            let long = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
            prop_assert_eq!(first.plus(second), Delta::of_u32(long(a, c), long(b, d)));
            let bytes = |high: u16, low: u16| long(high, low).to_be_bytes();
            prop_assert_eq!(first.plus(second), Delta::of_bytes(&bytes(a, c), &bytes(b, d)));
        }

        /// A sum that was wrong stays wrong by the same amount: a director never repairs a broken packet.
        #[test]
        fn a_wrong_sum_stays_wrong(field in any_word(), error in 1u16..0xffff, a in any_word(), b in any_word()) {
            let delta = Delta::of_word(a, b);
            let wrong = Delta::from_bits(error).apply(field);
            prop_assert_ne!(delta.apply(wrong) % 0xffff, delta.apply(field) % 0xffff);
        }
    }
}
