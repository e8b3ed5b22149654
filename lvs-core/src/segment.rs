//! What a device would have done: finishing checksums and cutting large TCP packets into segments.
//!
//! Needed where the device cannot look, inside a tunnel; elsewhere large packets stay whole.

use crate::wire::{self, ChecksumState, Packet, Parsed, TcpFlags, Transport};

/// Computes the transport checksum of a packet whose field holds the pseudo-header's sum only.
///
/// A packet whose checksum is complete is left alone.
pub fn finish_checksum(packet: &mut Packet<'_>) {
    let ChecksumState::Partial { start, offset } = packet.meta.checksum else { return };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let bytes = packet.bytes_mut();
    if start > bytes.len() || field + 2 > bytes.len() {
        return;
    }
    // The field counts in the sum: it holds the pseudo-header.
    let sum = match !wire::checksum::sum(&bytes[start..]) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    packet.meta.checksum = ChecksumState::Complete;
}

/// Cuts a GSO TCP packet into segments as a device would (TSO): every segment has the headers of the whole,
/// its own length, sequence number and full checksums; FIN and PSH are in the last one only, and IPv4
/// identifications count up.
///
/// `None` when the packet is not TCP or carries no GSO metadata.
pub fn segments(packet: &Packet<'_>, parsed: &Parsed) -> Option<Vec<Vec<u8>>> {
    let size = usize::from(packet.meta.gso?.size);
    let Transport::Tcp { seq, flags, header_len, .. } = parsed.transport else { return None };
    if size == 0 {
        return None;
    }
    let bytes = packet.bytes().get(..parsed.len as usize)?;
    let l4 = usize::from(parsed.l4);
    let (headers, payload) = bytes.split_at_checked(l4 + usize::from(header_len))?;
    let last = payload.len().div_ceil(size).max(1) - 1;
    let build = |(index, chunk): (usize, &[u8])| {
        let mut segment = [headers, chunk].concat();
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap, lengths are below 65536")]
        let (at, index16, len) = ((index * size) as u32, index as u16, segment.len() as u16);
        if parsed.is_ipv4() {
            let id = u16::from_be_bytes([headers[4], headers[5]]).wrapping_add(index16);
            wire::ipv4::set_total_len(&mut segment, len);
            wire::ipv4::set_id(&mut segment, id);
            wire::ipv4::fill_checksum(&mut segment);
        } else {
            wire::ipv6::set_payload_len(&mut segment, len - 40);
        }
        let tcp = &mut segment[l4..];
        wire::tcp::set_seq(tcp, seq.wrapping_add(at));
        if index != last {
            tcp[wire::tcp::FLAGS] = (flags - TcpFlags::FIN - TcpFlags::PSH).bits();
        }
        let sum = wire::checksum::transport_checksum(parsed.src, parsed.dst, parsed.protocol, tcp);
        tcp[wire::tcp::CHECKSUM..wire::tcp::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    };
    if payload.is_empty() {
        Some(vec![build((0, payload))])
    } else {
        Some(payload.chunks(size).enumerate().map(build).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Gso;

    /// IPv4 TCP 10.0.0.1:1000 -> 10.0.0.2:80, PSH|ACK|FIN, `len` bytes of payload, partial checksum.
    fn large(len: usize) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 80, 7, 100)
            .ack(1)
            .psh()
            .fin();
        let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload).unwrap();
        let pseudo = wire::checksum::pseudo_header_sum(
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            6,
            (bytes.len() - 20) as u32,
        );
        bytes[36..38].copy_from_slice(&pseudo.to_be_bytes());
        bytes
    }

    #[test]
    fn segments_carry_the_payload_in_order_with_right_checksums() {
        let mut bytes = large(2500);
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0, len).unwrap();
        packet.meta.gso = Some(Gso { kind: 1, size: 1000, header_len: 40 });
        packet.meta.checksum = ChecksumState::Partial { start: 20, offset: 16 };
        let parsed = wire::parse(packet.bytes()).unwrap();
        let cut = segments(&packet, &parsed).unwrap();
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [1040, 1040, 540]);
        for (index, segment) in cut.iter().enumerate() {
            let one = wire::parse(segment).unwrap();
            let Transport::Tcp { seq, flags, .. } = one.transport else { panic!("not TCP") };
            assert_eq!(seq, 7 + 1000 * index as u32);
            assert_eq!(flags.contains(TcpFlags::FIN), index == 2);
            assert!(wire::checksum::transport_checksum_is_right(one.src, one.dst, 6, &segment[20..]));
        }
        let joined: Vec<u8> = cut.iter().flat_map(|segment| segment[40..].to_vec()).collect();
        assert_eq!(joined, packet.bytes()[40..]);
    }

    #[test]
    fn a_partial_checksum_is_finished() {
        let mut bytes = large(333);
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0, len).unwrap();
        packet.meta.checksum = ChecksumState::Partial { start: 20, offset: 16 };
        finish_checksum(&mut packet);
        assert_eq!(packet.meta.checksum, ChecksumState::Complete);
        let parsed = wire::parse(packet.bytes()).unwrap();
        assert!(wire::checksum::transport_checksum_is_right(
            parsed.src,
            parsed.dst,
            6,
            &packet.bytes()[20..]
        ));
    }
}
