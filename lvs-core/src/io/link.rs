//! Ethernet headers as backends keep them: read once on the way in, written again on the way out.

use core::net::IpAddr;

use crate::wire::ethernet::{self, Ethernet, HEADER_LEN, MacAddr};
#[cfg(any(feature = "pcap", test))]
use crate::wire::{ipv4, ipv6};

/// Length of a MAC address.
const MAC: usize = size_of::<MacAddr>();
/// Longest header that is kept.
const MAX_LEN: usize = HEADER_LEN + ethernet::MAX_VLAN_TAGS * ethernet::VLAN_TAG_LEN;

const IPV4: [u8; 2] = ethernet::IPV4.to_be_bytes();
const IPV6: [u8; 2] = ethernet::IPV6.to_be_bytes();

/// The link header of a frame: Ethernet with up to two VLAN tags, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkHeader {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl LinkHeader {
    /// No link header: the packet came without one.
    pub const NONE: Self = Self { bytes: [0; MAX_LEN], len: 0 };

    /// Reads the header of an Ethernet frame that holds an IP packet. `None` for anything else (ARP, LLC, more
    /// than two VLAN tags, too short).
    pub fn parse_ethernet(frame: &[u8]) -> Option<Self> {
        let header = Ethernet::parse(frame).ok()?;
        if !matches!(header.ethertype, ethernet::IPV4 | ethernet::IPV6) {
            return None;
        }
        let len = header.l3();
        let mut bytes = [0; MAX_LEN];
        bytes[..len].copy_from_slice(&frame[..len]);
        Some(Self { bytes, len: len as u8 })
    }

    /// Makes a header for a packet that came in no frame. Both addresses are locally administered and show the
    /// next hop: from 02:00:00:00:00:01 to 02:01 and the last four bytes of the next hop's IP address.
    pub fn synthetic(next_hop: IpAddr) -> Self {
        let mut header = Self { bytes: [0; MAX_LEN], len: HEADER_LEN as u8 };
        let low = match next_hop {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                [a, b, c, d]
            }
        };
        header.bytes[..2].copy_from_slice(&[0x02, 0x01]);
        header.bytes[2..MAC].copy_from_slice(&low);
        header.bytes[MAC..2 * MAC].copy_from_slice(&[0x02, 0, 0, 0, 0, 1]);
        header.bytes[HEADER_LEN - 2..HEADER_LEN].copy_from_slice(&IPV4);
        header
    }

    /// Returns the header's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Returns whether there is no header.
    pub const fn is_none(&self) -> bool {
        self.len == 0
    }

    /// Exchanges the source and destination addresses, for an answer to the sender.
    pub fn swap(&mut self) {
        if !self.is_none() {
            let (destination, source) = self.bytes[..2 * MAC].split_at_mut(MAC);
            destination.swap_with_slice(source);
        }
    }

    /// Sets the Ethernet type by the IP version of `packet`: a tunnel may have changed it.
    pub fn set_ip_version(&mut self, packet: &[u8]) {
        let len = usize::from(self.len);
        if len >= HEADER_LEN {
            let version = packet.first().map_or(4, |byte| byte >> 4);
            self.bytes[len - 2..len].copy_from_slice(if version == 6 { &IPV6 } else { &IPV4 });
        }
    }
}

/// Returns `packet` without what follows the IP packet, such as the padding of short Ethernet frames. Bytes that
/// are no whole IP header, or are shorter than it says, are returned as they are.
#[cfg(any(feature = "pcap", test))]
pub(crate) fn without_padding(packet: &[u8]) -> &[u8] {
    let total = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= ipv4::MIN_HEADER_LEN => usize::from(ipv4::total_len(packet)),
        Some(6) if packet.len() >= ipv6::HEADER_LEN => match ipv6::payload_len(packet) {
            0 => packet.len(), // no payload, or a jumbogram: the length is not here
            len => ipv6::HEADER_LEN + usize::from(len),
        },
        _ => packet.len(),
    };
    // A length below that of the header is wrong; whoever parses the packet says so.
    if total < ipv4::MIN_HEADER_LEN { packet } else { packet.get(..total).unwrap_or(packet) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 16] = [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x00, 0x45, 0];

    #[test]
    fn an_ethernet_header_is_kept_and_swapped() {
        let mut header = LinkHeader::parse_ethernet(&FRAME).unwrap();
        assert_eq!(header.bytes(), &FRAME[..14]);
        header.swap();
        assert_eq!(header.bytes(), [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0x08, 0x00]);
    }

    #[test]
    fn two_vlan_tags_are_kept_and_three_are_not_ip() {
        let mut frame = FRAME[..12].to_vec();
        frame.extend([0x88, 0xa8, 0, 7, 0x81, 0x00, 0, 9, 0x86, 0xdd, 0x60, 0]);
        let header = LinkHeader::parse_ethernet(&frame).unwrap();
        assert_eq!(header.bytes(), &frame[..22]);
        let mut deeper = FRAME[..12].to_vec();
        deeper.extend([0x81, 0x00, 0, 1, 0x81, 0x00, 0, 2, 0x81, 0x00, 0, 3, 0x08, 0x00]);
        assert_eq!(LinkHeader::parse_ethernet(&deeper), None);
    }

    #[test]
    fn arp_and_cut_frames_are_not_ip() {
        let mut arp = FRAME;
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(LinkHeader::parse_ethernet(&arp), None);
        for len in 0..14 {
            assert_eq!(LinkHeader::parse_ethernet(&FRAME[..len]), None);
        }
    }

    #[test]
    fn the_type_follows_the_packet() {
        let mut header = LinkHeader::parse_ethernet(&FRAME).unwrap();
        header.set_ip_version(&[0x60]);
        assert_eq!(header.bytes()[12..], IPV6);
        header.set_ip_version(&[0x45]);
        assert_eq!(header.bytes()[12..], IPV4);
    }

    #[test]
    fn a_synthetic_header_shows_the_next_hop() {
        let header = LinkHeader::synthetic("10.1.2.3".parse().unwrap());
        assert_eq!(header.bytes(), [0x02, 0x01, 10, 1, 2, 3, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00]);
        let header = LinkHeader::synthetic("fd00::1:2".parse().unwrap());
        assert_eq!(header.bytes()[..6], [0x02, 0x01, 0, 1, 0, 2]);
    }

    #[test]
    fn padding_goes_and_everything_else_stays() {
        let mut packet = [0u8; 46];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 28]);
        assert_eq!(without_padding(&packet).len(), 28);
        packet[3] = 200; // longer than the frame: cut capture
        assert_eq!(without_padding(&packet).len(), 46);
        packet[3] = 3; // shorter than a header
        assert_eq!(without_padding(&packet).len(), 46);
        packet[..6].copy_from_slice(&[0x60, 0, 0, 0, 0, 2]);
        assert_eq!(without_padding(&packet).len(), 42);
        packet[5] = 0;
        assert_eq!(without_padding(&packet).len(), 46);
        assert_eq!(without_padding(&[]).len(), 0);
        assert_eq!(without_padding(&[0x45, 0, 0]).len(), 3);
    }
}
