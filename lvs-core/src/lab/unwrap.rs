//! What a real server of LVS/TUN does before its stack sees a packet: take the outer header off.

use pnet_packet::ip::IpNextHeaderProtocols as next_header;

use crate::wire::{Parsed, Transport, gre, gue, udp};

/// UDP port of GUE that a Lab host listens on, the kernel's default for `--tun-port`.
pub(super) const GUE_PORT: u16 = 6080;

const IPIP: u8 = next_header::Ipv4.0;
const IPV6_IN_IP: u8 = next_header::Ipv6.0;
const GRE: u8 = next_header::Gre.0;

/// The packet inside an IPIP, GRE or GUE packet; `None` when it is none of them.
pub(super) fn inner(packet: &[u8], parsed: &Parsed) -> Option<Vec<u8>> {
    let payload = packet.get(usize::from(parsed.l4)..parsed.len as usize)?;
    let inner = match (parsed.protocol, parsed.transport) {
        (IPIP | IPV6_IN_IP, _) => payload,
        (GRE, _) => payload.get(gre::header_len(payload)?..)?,
        (_, Transport::Udp { dport: GUE_PORT, .. }) => {
            let header = payload.get(udp::HEADER_LEN..)?;
            header.get(gue::header_len(header)?..)?
        }
        _ => return None,
    };
    matches!(inner.first()? >> 4, 4 | 6).then(|| inner.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    const INNER: [u8; 20] = [0x45, 0, 0, 20, 0, 1, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 9, 0, 1];

    fn outer(protocol: u8, header: &[u8]) -> Vec<u8> {
        let len = 20 + header.len() + INNER.len();
        let mut packet =
            vec![0x45, 0, 0, len as u8, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 1, 10, 0, 2, 11];
        wire::ipv4::fill_checksum(&mut packet);
        packet.extend_from_slice(header);
        packet.extend_from_slice(&INNER);
        packet
    }

    fn unwrapped(packet: &[u8]) -> Option<Vec<u8>> {
        inner(packet, &wire::parse(packet).expect("a sound outer header"))
    }

    #[test]
    fn takes_every_outer_header_off() {
        assert_eq!(unwrapped(&outer(IPIP, &[])).as_deref(), Some(&INNER[..]));
        assert_eq!(unwrapped(&outer(GRE, &[0, 0, 8, 0])).as_deref(), Some(&INNER[..]));
        assert_eq!(unwrapped(&outer(GRE, &[0x80, 0, 8, 0, 1, 2, 0, 0])).as_deref(), Some(&INNER[..]));
        let gue = [0x9c, 0x40, 0x17, 0xc0, 0, 32, 0, 0, 0, 4, 0, 0];
        assert_eq!(unwrapped(&outer(17, &gue)).as_deref(), Some(&INNER[..]));
    }

    #[test]
    fn leaves_other_packets_alone() {
        let other_port = [0x9c, 0x40, 0, 53, 0, 32, 0, 0, 0, 4, 0, 0];
        assert_eq!(unwrapped(&outer(17, &other_port)), None);
        assert_eq!(unwrapped(&outer(253, &[])), None);
    }
}
