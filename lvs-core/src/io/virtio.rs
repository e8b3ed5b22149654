//! The 10-byte virtio network header that TUN and `AF_PACKET` put in front of a packet, and what it means.
//!
//! Layout (Linux `struct virtio_net_hdr`, host byte order on TUN unless told otherwise):
//!
//! | bytes | field |
//! |---|---|
//! | 0 | flags: 1 the checksum is partial, 2 the checksum was verified |
//! | 1 | GSO type: 0 none, 1 TCP over IPv4, 4 TCP over IPv6, 5 UDP; 0x80 added: ECN |
//! | 2..4 | length of the headers of each segment; from the kernel only a hint |
//! | 4..6 | payload bytes of each segment |
//! | 6..8 | where checksumming starts, from the start of the packet |
//! | 8..10 | where the checksum goes, from there |

use crate::wire::{ChecksumState, Gso, Meta, tcp, udp};

/// Length of the header in bytes.
pub const VIRTIO_HEADER: usize = 10;

/// Flag: the checksum field holds only the pseudo-header sum.
pub const NEEDS_CSUM: u8 = 1;
/// GSO type: not a GSO packet.
pub const GSO_NONE: u8 = 0;
/// GSO type: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// GSO type: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// GSO type: UDP datagrams of one size.
pub const GSO_UDP_L4: u8 = 5;
/// Added to a GSO type: the first segment alone has CWR.
pub const GSO_ECN: u8 = 0x80;

/// A virtio network header as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtioHeader {
    /// Flag bits.
    pub flags: u8,
    /// GSO type.
    pub gso_type: u8,
    /// Length of the headers of each segment, in bytes.
    pub header_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where checksumming starts, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Where the checksum goes, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// Reads a header in the host's byte order.
    pub const fn decode(bytes: [u8; VIRTIO_HEADER]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        Self {
            flags,
            gso_type,
            header_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Writes the header in the host's byte order.
    pub const fn encode(&self) -> [u8; VIRTIO_HEADER] {
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Makes the header that tells the kernel what `meta` says of a packet that starts at its IP header.
    pub const fn from_meta(meta: &Meta) -> Self {
        let mut header =
            Self { flags: 0, gso_type: 0, header_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0 };
        if let ChecksumState::Partial { start, offset } = meta.checksum {
            header.flags = NEEDS_CSUM;
            header.csum_start = start;
            header.csum_offset = offset;
        }
        if let Some(gso) = meta.gso {
            header.gso_type = gso.kind;
            header.gso_size = gso.size;
            header.header_len = gso.header_len;
        }
        header
    }

    /// Says what the header means for `packet`, which starts at its IP header.
    ///
    /// The kernel's header length is only a hint (how much of its buffer is linear), so the true one is taken
    /// from the transport header. A checksum place outside of the packet is ignored.
    pub fn meta(&self, packet: &[u8]) -> Meta {
        let start = usize::from(self.csum_start);
        let inside = start + usize::from(self.csum_offset) + 2 <= packet.len();
        let partial = self.flags & NEEDS_CSUM != 0 && inside;
        let checksum = if partial {
            ChecksumState::Partial { start: self.csum_start, offset: self.csum_offset }
        } else {
            ChecksumState::Complete
        };
        let header_len = match self.gso_type & !GSO_ECN {
            GSO_TCPV4 | GSO_TCPV6 if partial => packet
                .get(start..)
                .filter(|segment| segment.len() > tcp::DATA_OFFSET)
                .map(|segment| self.csum_start.saturating_add(tcp::header_len(segment) as u16)),
            GSO_UDP_L4 if partial => Some(self.csum_start.saturating_add(udp::HEADER_LEN as u16)),
            _ => None,
        };
        let gso = (self.gso_type != GSO_NONE).then_some(Gso {
            kind: self.gso_type,
            size: self.gso_size,
            header_len: header_len.unwrap_or(self.header_len),
        });
        Meta { mark: 0, checksum, gso }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_tcp_gso_header_as_the_kernel_sends_it() {
        // NEEDS_CSUM, TCPV4, linear part of 66 bytes, MSS 1460, checksum from 20 at +16.
        let header = VirtioHeader::decode([1, 1, 66, 0, 0xb4, 0x05, 20, 0, 16, 0]);
        let mut packet = [0u8; 3000];
        packet[0] = 0x45;
        packet[32] = 0x80; // 32 bytes of TCP header
        let meta = header.meta(&packet);
        assert_eq!(meta.checksum, ChecksumState::Partial { start: 20, offset: 16 });
        assert_eq!(meta.gso, Some(Gso { kind: GSO_TCPV4, size: 1460, header_len: 52 }));
        assert_eq!(VirtioHeader::from_meta(&meta).encode(), [1, 1, 52, 0, 0xb4, 0x05, 20, 0, 16, 0]);
    }

    #[test]
    fn a_header_of_zeros_means_a_complete_packet() {
        assert_eq!(VirtioHeader::decode([0; 10]).meta(&[0x45; 40]), Meta::default());
        assert_eq!(VirtioHeader::from_meta(&Meta::default()).encode(), [0; 10]);
    }

    #[test]
    fn a_verified_checksum_is_a_complete_one() {
        assert_eq!(VirtioHeader::decode([2, 0, 0, 0, 0, 0, 0, 0, 0, 0]).meta(&[0x45; 40]), Meta::default());
    }

    #[test]
    fn a_checksum_place_outside_of_the_packet_is_ignored() {
        let header =
            VirtioHeader { flags: NEEDS_CSUM, csum_start: 20, csum_offset: 16, ..VirtioHeader::default() };
        assert_eq!(header.meta(&[0x45; 37]).checksum, ChecksumState::Complete);
        assert_ne!(header.meta(&[0x45; 38]).checksum, ChecksumState::Complete);
    }

    #[test]
    fn a_tunnel_shifts_what_the_kernel_is_told() {
        let meta = Meta {
            mark: 0,
            checksum: ChecksumState::Partial { start: 40, offset: 16 },
            gso: Some(Gso { kind: GSO_TCPV4, size: 1400, header_len: 72 }),
        };
        let header = VirtioHeader::from_meta(&meta);
        assert_eq!((header.csum_start, header.header_len), (40, 72));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn decode_then_encode_is_the_identity(bytes: [u8; VIRTIO_HEADER]) {
            prop_assert_eq!(VirtioHeader::decode(bytes).encode(), bytes);
        }

        #[test]
        fn any_header_over_any_packet_is_survived(bytes: [u8; VIRTIO_HEADER],
                                                  packet in prop::collection::vec(any::<u8>(), 0..80)) {
            let meta = VirtioHeader::decode(bytes).meta(&packet);
            if let ChecksumState::Partial { start, offset } = meta.checksum {
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= packet.len());
            }
        }
    }
}
