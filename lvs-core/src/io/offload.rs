//! What a network device would do, done here where no device can: finishing a partial checksum and cutting a
//! GSO packet into segments.
//!
//! The kernel takes GSO packets only when the transport header follows the IP header directly: its virtio
//! header has no word for a TCP packet inside IPIP, GRE or GUE. A director that tunnels such a packet must cut
//! it. Everything between the outer IP header and the transport header is kept for each segment, with lengths,
//! IPv4 identifications and checksums made right.

use core::net::{IpAddr, Ipv6Addr};

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols as next_header};

use super::virtio::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4};
use crate::wire::checksum::{self, finish_checksum};
use crate::wire::{ChecksumState, Delta, Meta, TcpFlags, ethernet, gre, gue, ipv4, ipv6, tcp, udp};

/// Headers in front of the transport header that are walked: outer IP, UDP, GUE, inner IP and IPv6 extensions.
const MAX_HEADERS: usize = 12;

/// Flags that only the last segment keeps.
const OF_THE_LAST: u8 = TcpFlags::FIN.union(TcpFlags::PSH).bits();

/// Why a packet cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// There is no GSO metadata, or none with a partial checksum and a segment size above 0.
    #[error("the packet has no GSO metadata with a partial checksum and a segment size")]
    NotGso,
    /// A GSO type other than TCP and UDP segments.
    #[error("GSO type {0} cannot be cut (TCP 1 and 4 and UDP 5 can)")]
    Kind(u8),
    /// The headers do not lead to the transport header that the metadata names.
    #[error("the headers do not lead to a transport header at byte {0}")]
    Headers(u16),
}

/// Returns whether a device behind a virtio header can segment this packet: the transport header must follow
/// the first IP header (and its extensions) directly.
pub fn device_can_segment(packet: &[u8], meta: &Meta) -> bool {
    let ChecksumState::Partial { start, .. } = meta.checksum else { return true };
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4::header_len(packet) == usize::from(start),
        Some(6) if usize::from(start) == ipv6::HEADER_LEN => true,
        _ => Walk::to(packet, start).is_some_and(|walk| walk.ip_headers == 1),
    }
}

/// Cuts a GSO packet into segments of at most `meta.gso.size` payload bytes and hands each to `send` as a whole
/// packet with finished checksums. `scratch` is memory to build them in. Returns the number of segments.
///
/// # Errors
/// [`SegmentError`]; nothing was sent then.
pub fn segment(
    packet: &[u8],
    meta: &Meta,
    scratch: &mut Vec<u8>,
    mut send: impl FnMut(&[u8]),
) -> Result<usize, SegmentError> {
    let (Some(gso), ChecksumState::Partial { start, offset }) = (meta.gso, meta.checksum) else {
        return Err(SegmentError::NotGso);
    };
    if gso.size == 0 {
        return Err(SegmentError::NotGso);
    }
    let wrong = SegmentError::Headers(start);
    let walk = Walk::to(packet, start).ok_or(wrong)?;
    let transport = usize::from(start);
    let headers = match (gso.kind & !GSO_ECN, walk.protocol) {
        (GSO_TCPV4 | GSO_TCPV6, next_header::Tcp) => {
            let segment = packet.get(transport..).filter(|segment| segment.len() > tcp::DATA_OFFSET);
            let header_len = tcp::header_len(segment.ok_or(wrong)?);
            if header_len < tcp::MIN_HEADER_LEN {
                return Err(wrong);
            }
            transport + header_len
        }
        (GSO_UDP_L4, next_header::Udp) => transport + udp::HEADER_LEN,
        (GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4, _) => return Err(wrong),
        (kind, _) => return Err(SegmentError::Kind(kind)),
    };
    let is_tcp = walk.protocol == next_header::Tcp;
    let offset_right = if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    if packet.len() <= headers || usize::from(offset) != offset_right {
        return Err(wrong);
    }
    let payload = &packet[headers..];
    let count = payload.len().div_ceil(usize::from(gso.size));
    // The partial sum holds the pseudo header with the length of the whole; each segment has its own length.
    let whole_len = (packet.len() - transport) as u32;
    let whole_sum = checksum::field(packet, transport + offset_right);
    for (index, chunk) in payload.chunks(usize::from(gso.size)).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(&packet[..headers]);
        scratch.extend_from_slice(chunk);
        let (first, last) = (index == 0, index + 1 == count);
        let segment = &mut scratch[transport..];
        let len = segment.len() as u32;
        if is_tcp {
            let seq = tcp::seq(segment).wrapping_add((index * usize::from(gso.size)) as u32);
            tcp::set_seq(segment, seq);
            if !last {
                segment[tcp::FLAGS] &= !OF_THE_LAST;
            }
            if !first {
                segment[tcp::FLAGS] &= !tcp::CWR;
            }
        } else {
            udp::set_length(segment, len as u16);
        }
        let sum = Delta::of_u32(whole_len, len).apply_partial(whole_sum);
        checksum::set_field(segment, offset_right, sum);
        finish_checksum(scratch, start, offset);
        walk.repair(scratch, index as u16);
        send(scratch);
    }
    Ok(count)
}

/// The headers in front of a transport header whose fields depend on the packet's length.
struct Walk {
    headers: [(Header, usize); MAX_HEADERS],
    len: usize,
    ip_headers: usize,
    /// The protocol of the transport header.
    protocol: IpNextHeaderProtocol,
}

#[derive(Clone, Copy)]
enum Header {
    Ipv4,
    Ipv6,
    Udp,
    GreChecksum,
}

impl Walk {
    /// Walks from the start of `packet` to the header at `target`; `None` when the headers do not end there.
    fn to(packet: &[u8], target: u16) -> Option<Self> {
        let target = usize::from(target);
        let mut at = 0;
        let mut next = match packet.first()? >> 4 {
            4 => next_header::Ipv4,
            6 => next_header::Ipv6,
            _ => return None,
        };
        let mut walk =
            Self { headers: [(Header::Ipv4, 0); MAX_HEADERS], len: 0, ip_headers: 0, protocol: next };
        for _ in 0..MAX_HEADERS {
            if at == target && walk.ip_headers > 0 {
                walk.protocol = next;
                return Some(walk);
            }
            if at >= target {
                return None;
            }
            let rest = packet.get(at..)?;
            (next, at) = match next {
                next_header::Ipv4 => {
                    let header = rest.get(..ipv4::MIN_HEADER_LEN)?;
                    let len = ipv4::header_len(header);
                    if header[0] >> 4 != 4 || len < ipv4::MIN_HEADER_LEN || len > rest.len() {
                        return None;
                    }
                    walk.push(Header::Ipv4, at)?;
                    walk.ip_headers += 1;
                    (IpNextHeaderProtocol(header[ipv4::PROTOCOL]), at + len)
                }
                next_header::Ipv6 => {
                    let header = rest.get(..ipv6::HEADER_LEN)?;
                    if header[0] >> 4 != 6 {
                        return None;
                    }
                    walk.push(Header::Ipv6, at)?;
                    walk.ip_headers += 1;
                    (IpNextHeaderProtocol(header[ipv6::NEXT_HEADER]), at + ipv6::HEADER_LEN)
                }
                next_header::Hopopt | next_header::Ipv6Route | next_header::Ipv6Opts => {
                    (IpNextHeaderProtocol(*rest.first()?), at + ipv6::extension_len(*rest.get(1)?))
                }
                next_header::Gre => {
                    let header_len = gre::header_len(rest)?;
                    if rest[0] & gre::CHECKSUM_PRESENT != 0 {
                        // The checksum covers the GRE header too, so it must be whole.
                        rest.get(..gre::MIN_HEADER_LEN + gre::CHECKSUM_LEN)?;
                        walk.push(Header::GreChecksum, at)?;
                    }
                    let inner = match u16::from_be_bytes(*rest.get(gre::KIND..)?.first_chunk()?) {
                        ethernet::IPV4 => next_header::Ipv4,
                        ethernet::IPV6 => next_header::Ipv6,
                        _ => return None,
                    };
                    (inner, at + header_len)
                }
                next_header::Udp => {
                    walk.push(Header::Udp, at)?;
                    let payload = at + udp::HEADER_LEN;
                    let first = *packet.get(payload)?;
                    match first >> 6 {
                        // GUE variant 0: a header of 4 bytes and 4 more per unit.
                        0 => {
                            let inner = IpNextHeaderProtocol(*packet.get(payload + gue::NEXT_HEADER)?);
                            (inner, payload + gue::header_len(packet.get(payload..)?)?)
                        }
                        // Variant 1, and FOU: an IP header directly.
                        1 if first >> 4 == 4 => (next_header::Ipv4, payload),
                        1 if first >> 4 == 6 => (next_header::Ipv6, payload),
                        _ => return None,
                    }
                }
                _ => return None,
            };
        }
        None
    }

    fn push(&mut self, header: Header, at: usize) -> Option<()> {
        *self.headers.get_mut(self.len)? = (header, at);
        self.len += 1;
        Some(())
    }

    /// Makes lengths, identifications and checksums right for `packet`, the segment `index`. The inner headers
    /// come first: outer checksums cover them.
    fn repair(&self, packet: &mut [u8], index: u16) {
        for &(header, at) in self.headers[..self.len].iter().rev() {
            let (outside, packet) = packet.split_at_mut(at);
            // Lengths have 16 bits: a segment is never longer than the packet it was cut from.
            let len = packet.len();
            match header {
                Header::Ipv4 => {
                    ipv4::set_total_len(packet, len as u16);
                    ipv4::set_id(packet, ipv4::id(packet).wrapping_add(index));
                    ipv4::fill_checksum(packet);
                }
                Header::Ipv6 => ipv6::set_payload_len(packet, (len - ipv6::HEADER_LEN) as u16),
                Header::Udp => {
                    udp::set_length(packet, len as u16);
                    // 0 says "no checksum"; IPv6 allows that for tunnels (RFC 6935).
                    if checksum::field(packet, udp::CHECKSUM) != 0 {
                        let (src, dst) = self.addresses(outside, at);
                        let sum = checksum::transport_checksum(src, dst, next_header::Udp.0, packet);
                        checksum::set_field(packet, udp::CHECKSUM, sum);
                    }
                }
                Header::GreChecksum => {
                    checksum::set_field(packet, gre::CHECKSUM, 0);
                    let sum = !checksum::sum(packet);
                    checksum::set_field(packet, gre::CHECKSUM, sum);
                }
            }
        }
    }

    /// The addresses of the IP header in front of the header at `at`.
    fn addresses(&self, packet: &[u8], at: usize) -> (IpAddr, IpAddr) {
        for &(header, place) in self.headers[..self.len].iter().rev().filter(|(_, place)| *place < at) {
            let ip = &packet[place..];
            match header {
                Header::Ipv4 => return (ipv4::src(ip).into(), ipv4::dst(ip).into()),
                Header::Ipv6 => return (ipv6::src(ip).into(), ipv6::dst(ip).into()),
                Header::Udp | Header::GreChecksum => {}
            }
        }
        // Every walk begins with an IP header.
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into())
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Gso;

    /// A TCP packet over IPv4 with the pseudo-header sum in its checksum field, and its metadata.
    fn tcp_gso(payload: &[u8], size: u16) -> (Vec<u8>, Meta) {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(40_000, 80, 0xffff_fff0, 1000)
            .fin()
            .psh()
            .cwr()
            .ack(7);
        let mut packet = Vec::new();
        builder.write(&mut packet, payload).unwrap();
        let pseudo = pseudo_sum(&packet[12..20], (packet.len() - 20) as u32, 6);
        packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
        let meta = Meta {
            mark: 0,
            checksum: ChecksumState::Partial { start: 20, offset: 16 },
            gso: Some(Gso { kind: GSO_TCPV4 | GSO_ECN, size, header_len: 40 }),
        };
        (packet, meta)
    }

    fn pseudo_sum(addresses: &[u8], len: u32, protocol: u8) -> u16 {
        let mut sum = internet_checksum::Checksum::new();
        sum.add_bytes(addresses);
        sum.add_bytes(&len.to_be_bytes());
        sum.add_bytes(&[0, protocol]);
        !u16::from_be_bytes(sum.checksum())
    }

    fn cut(packet: &[u8], meta: &Meta) -> Vec<Vec<u8>> {
        let mut segments = Vec::new();
        let count = segment(packet, meta, &mut Vec::new(), |bytes| segments.push(bytes.to_vec())).unwrap();
        assert_eq!(count, segments.len());
        segments
    }

    /// Puts `outer` in front and moves the metadata along.
    fn wrap(outer: &[u8], packet: &[u8], meta: &Meta) -> (Vec<u8>, Meta) {
        let shift = outer.len() as u16;
        let mut meta = *meta;
        if let ChecksumState::Partial { start, .. } = &mut meta.checksum {
            *start += shift;
        }
        if let Some(gso) = &mut meta.gso {
            gso.header_len += shift;
        }
        ([outer, packet].concat(), meta)
    }

    fn be16(bytes: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    fn outer_ipv4(protocol: u8) -> [u8; 20] {
        [0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]
    }

    #[test]
    fn a_partial_checksum_is_finished() {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1000, 53);
        let mut whole = Vec::new();
        builder.write(&mut whole, b"question").unwrap();
        let mut partial = whole.clone();
        let pseudo = pseudo_sum(&whole[12..20], 16, 17);
        partial[26..28].copy_from_slice(&pseudo.to_be_bytes());
        finish_checksum(&mut partial, 20, 6);
        assert_eq!(partial, whole);
    }

    #[test]
    fn a_checksum_place_outside_of_the_packet_changes_nothing() {
        let mut packet = [1, 2, 3, 4];
        finish_checksum(&mut packet, 3, 0);
        finish_checksum(&mut packet, 9, 0);
        assert_eq!(packet, [1, 2, 3, 4]);
    }

    #[test]
    fn a_zero_sum_is_written_as_ffff() {
        let mut packet = [0xff, 0xff, 0, 0];
        finish_checksum(&mut packet, 0, 2);
        assert_eq!(packet, [0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn flags_and_sequence_numbers_of_segments() {
        let (packet, meta) = tcp_gso(&[5; 250], 100);
        let segments = cut(&packet, &meta);
        let seen: Vec<_> = segments
            .iter()
            .map(|bytes| {
                let sliced = SlicedPacket::from_ip(bytes).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
                (tcp.sequence_number(), tcp.fin(), tcp.psh(), tcp.cwr(), tcp.ack(), tcp.payload().len())
            })
            .collect();
        assert_eq!(
            seen,
            [
                (0xffff_fff0, false, false, true, true, 100),
                (0x0000_0054, false, false, false, true, 100),
                (0x0000_00b8, true, true, false, true, 50),
            ]
        );
    }

    #[test]
    fn only_a_transport_header_right_behind_ip_is_left_to_the_device() {
        let (packet, meta) = tcp_gso(&[5; 250], 100);
        assert!(device_can_segment(&packet, &meta));
        let (tunnelled, meta) = wrap(&outer_ipv4(4), &packet, &meta);
        assert!(!device_can_segment(&tunnelled, &meta));
        let mut outer = [0u8; 40];
        outer[0] = 0x60;
        outer[6] = 4;
        let (packet, meta) = tcp_gso(&[5; 250], 100);
        let (tunnelled, meta) = wrap(&outer, &packet, &meta);
        assert!(!device_can_segment(&tunnelled, &meta));
    }

    #[test]
    fn a_packet_without_gso_is_refused() {
        let error = segment(&[0x45; 60], &Meta::default(), &mut Vec::new(), |_| {}).unwrap_err();
        assert_eq!(error, SegmentError::NotGso);
        let (packet, mut meta) = tcp_gso(&[5; 250], 100);
        meta.gso = Some(Gso { kind: 3, size: 100, header_len: 28 });
        let error = segment(&packet, &meta, &mut Vec::new(), |_| {}).unwrap_err();
        assert_eq!(error, SegmentError::Kind(3));
    }

    /// Checks every length and checksum of `bytes` from the outside in; returns the TCP payload.
    fn check(mut bytes: &[u8]) -> Vec<u8> {
        loop {
            match bytes[0] >> 4 {
                4 => {
                    assert_eq!(usize::from(be16(bytes, 2)), bytes.len());
                    assert_eq!(internet_checksum::checksum(&bytes[..20]), [0, 0]);
                }
                _ => assert_eq!(usize::from(be16(bytes, 4)) + 40, bytes.len()),
            }
            let (protocol, inner, addresses) = match bytes[0] >> 4 {
                4 => (bytes[9], &bytes[20..], &bytes[12..20]),
                _ => (bytes[6], &bytes[40..], &bytes[8..40]),
            };
            match protocol {
                4 | 41 => bytes = inner,
                47 => {
                    let with_sum = inner[0] & 0x80 != 0;
                    if with_sum {
                        assert_eq!(internet_checksum::checksum(inner), [0, 0]);
                    }
                    bytes = &inner[if with_sum { 8 } else { 4 }..];
                }
                17 => {
                    assert_eq!(usize::from(be16(inner, 4)), inner.len());
                    if be16(inner, 6) != 0 {
                        assert_eq!(transport_sum(addresses, inner, 17), [0, 0]);
                    }
                    bytes = &inner[12..];
                }
                6 => {
                    assert_eq!(transport_sum(addresses, inner, 6), [0, 0]);
                    return inner[20..].to_vec();
                }
                other => panic!("unexpected protocol {other}"),
            }
        }
    }

    /// The checksum over the pseudo header and `transport`: 0 when the one inside is right.
    fn transport_sum(addresses: &[u8], transport: &[u8], protocol: u8) -> [u8; 2] {
        let mut sum = internet_checksum::Checksum::new();
        sum.add_bytes(addresses);
        sum.add_bytes(&(transport.len() as u32).to_be_bytes());
        sum.add_bytes(&[0, protocol]);
        sum.add_bytes(transport);
        sum.checksum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn segments_carry_the_payload_in_right_packets(payload in prop::collection::vec(any::<u8>(), 1..2000),
                                                       size in 1u16..700, tunnel in 0usize..7) {
            let (packet, meta) = tcp_gso(&payload, size);
            let gue = [0x1f, 0x40, 0x17, 0xa5, 0, 0, 0, 0, 0x00, 4, 0, 0];
            let gue_with_sum = [0x1f, 0x40, 0x17, 0xa5, 0, 0, 0xab, 0xcd, 0x00, 4, 0, 0];
            let mut ipv6 = [0u8; 40];
            ipv6[0] = 0x60;
            ipv6[6] = 4;
            ipv6[23] = 1;
            ipv6[39] = 2;
            let mut ipv6_gue = ipv6;
            ipv6_gue[6] = 17;
            let outer = match tunnel {
                0 => Vec::new(),
                1 => outer_ipv4(4).to_vec(),
                2 => [&outer_ipv4(47)[..], &[0, 0, 8, 0]].concat(),
                3 => [&outer_ipv4(47)[..], &[0x80, 0, 8, 0, 1, 2, 0, 0]].concat(),
                4 => [&outer_ipv4(17)[..], &gue].concat(),
                5 => ipv6.to_vec(),
                _ => [&ipv6_gue[..], &gue_with_sum].concat(),
            };
            let (packet, meta) = wrap(&outer, &packet, &meta);
            let segments = cut(&packet, &meta);
            let mut carried = Vec::new();
            for bytes in &segments {
                carried.extend(check(bytes));
            }
            prop_assert_eq!(carried, payload);
        }

        #[test]
        fn hostile_packets_are_survived(packet in prop::collection::vec(any::<u8>(), 0..200), version in prop::bool::ANY,
                                        start in 0u16..120, kind in 0u8..8, size: u16) {
            let mut packet = packet;
            if let Some(first) = packet.first_mut() {
                *first = if version { 0x45 } else { 0x60 };
            }
            let meta = Meta {
                mark: 0,
                checksum: ChecksumState::Partial { start, offset: if kind == 5 { 6 } else { 16 } },
                gso: Some(Gso { kind, size, header_len: 40 }),
            };
            let _ = device_can_segment(&packet, &meta);
            let mut carried = 0;
            if let Ok(count) = segment(&packet, &meta, &mut Vec::new(), |_| carried += 1) {
                prop_assert_eq!(count, carried);
            }
        }
    }
}
