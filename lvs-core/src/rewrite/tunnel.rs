//! LVS/TUN: the headers in front of the packet.
//!
//! | tunnel | behind the outer IP header (20 or 40 bytes) | source |
//! |---|---|---|
//! | IPIP | nothing | RFC 2003, RFC 2473 |
//! | GUE | UDP (8), GUE version 0 (4): `00 next 00 00` | draft-ietf-intarea-gue |
//! | GRE | `00 00 type` (4), with checksum `80 00 type sum 00 00` (8) | RFC 2784 |
//!
//! `next` is 4 or 41, `type` 0x0800 or 0x86DD.

use core::net::IpAddr;

use pnet_packet::ip::IpNextHeaderProtocols as protocol;

use crate::service::{Tunnel, TunnelChecksum};
use crate::wire::checksum::{finish_checksum, ipv4_header_checksum, sum, transport_checksum};
use crate::wire::{ChecksumState, NoRoom, Packet, Parsed, ethernet, gre, gue, ipv4, ipv6, udp};

/// The outer headers of one tunnel, but for what they copy from the packet inside.
///
/// | field | outer IPv4 | outer IPv6 |
/// |---|---|---|
/// | TTL | the inner TTL after its decrement | the same |
/// | TOS | copied; ECN as RFC 6040 (CE inside becomes ECT(0) outside) | the same |
/// | DF | copied from an inner IPv4 when `copy_df`, else 0 | – |
/// | identification | 0 with DF, else `id` | – |
/// | flow label | – | 0 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// The director's address (DIP).
    pub src: IpAddr,
    /// The real server (RIP), of the same family.
    pub dst: IpAddr,
    /// What lies between the outer and the inner IP header.
    pub tunnel: Tunnel,
    /// GUE: the UDP source port, which spreads flows over paths and queues.
    pub source_port: u16,
    /// `pmtu_disc`: copy DF from inside.
    pub copy_df: bool,
    /// Identification where fragmentation is allowed.
    pub id: u16,
}

impl Outer {
    /// Bytes that are put in front of a packet.
    pub const fn overhead(&self) -> u16 {
        let ip = if self.dst.is_ipv4() { ipv4::MIN_HEADER_LEN } else { ipv6::HEADER_LEN } as u16;
        ip + match self.tunnel {
            Tunnel::Ipip => 0,
            Tunnel::Gue { .. } => (udp::HEADER_LEN + gue::MIN_HEADER_LEN) as u16,
            Tunnel::Gre { checksum: TunnelChecksum::None } => gre::MIN_HEADER_LEN as u16,
            Tunnel::Gre { .. } => (gre::MIN_HEADER_LEN + gre::CHECKSUM_LEN) as u16,
        }
    }

    /// Puts the headers in front of a packet whose TTL has been decremented; `inner` describes it before that.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is smaller; nothing is changed then.
    pub(super) fn prepend(&self, packet: &mut Packet<'_>, inner: &Parsed) -> Result<(), NoRoom> {
        let overhead = self.overhead();
        let inner_len = packet.len();
        packet.prepend(usize::from(overhead))?;
        if let ChecksumState::Partial { start, offset } = packet.meta.checksum {
            if self.has_checksum() && packet.meta.gso.is_none() {
                // The tunnel's checksum covers what is inside, so that must be final.
                finish_checksum(packet.bytes_mut(), start.saturating_add(overhead), offset);
                packet.meta.checksum = ChecksumState::Complete;
            } else {
                packet.meta.checksum =
                    ChecksumState::Partial { start: start.saturating_add(overhead), offset };
            }
        }
        if let Some(gso) = &mut packet.meta.gso {
            gso.header_len = gso.header_len.saturating_add(overhead);
        }
        let next = if inner.is_ipv4() { protocol::Ipv4.0 } else { protocol::Ipv6.0 };
        let outer = match self.tunnel {
            Tunnel::Ipip => next,
            Tunnel::Gue { .. } => protocol::Udp.0,
            Tunnel::Gre { .. } => protocol::Gre.0,
        };
        let bytes = packet.bytes_mut();
        let payload = self.put_ip(bytes, inner, outer);
        match self.tunnel {
            Tunnel::Ipip => {}
            Tunnel::Gue { port, .. } => self.put_gue(&mut bytes[payload..], next, port),
            Tunnel::Gre { .. } => self.put_gre(&mut bytes[payload..], inner, inner_len),
        }
        Ok(())
    }

    /// Whether the tunnel header carries a checksum. GUE's remote checksum offload needs a device that finishes
    /// checksums behind the tunnel; as the kernel does for received packets, a full checksum is sent instead.
    const fn has_checksum(&self) -> bool {
        match self.tunnel {
            Tunnel::Ipip => false,
            Tunnel::Gue { checksum, .. } | Tunnel::Gre { checksum } => {
                !matches!(checksum, TunnelChecksum::None)
            }
        }
    }

    /// Writes the outer IP header; returns its length.
    fn put_ip(&self, bytes: &mut [u8], inner: &Parsed, protocol: u8) -> usize {
        // A GSO packet may be longer than the field can say; whoever cuts it writes the lengths anew.
        let field = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        let ttl = inner.ttl.saturating_sub(1);
        let tos = outer_tos(inner.tos);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let df = self.copy_df && inner.is_ipv4() && inner.dont_fragment;
                let (id, flags) = if df { (0, ipv4::DONT_FRAGMENT) } else { (self.id, 0) };
                let total = field(bytes.len());
                let header = &mut bytes[..ipv4::MIN_HEADER_LEN];
                header[ipv4::VERSION_IHL] = 0x45;
                header[ipv4::TOS] = tos;
                ipv4::set_total_len(header, total);
                ipv4::set_id(header, id);
                ipv4::set_flags(header, flags);
                ipv4::set_ttl(header, ttl);
                ipv4::set_protocol(header, protocol);
                ipv4::set_src(header, src);
                ipv4::set_dst(header, dst);
                let checksum = ipv4_header_checksum(header);
                ipv4::set_checksum(header, checksum);
                ipv4::MIN_HEADER_LEN
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes[..4].copy_from_slice(&(0x6000_0000 | u32::from(tos) << 20).to_be_bytes());
                ipv6::set_payload_len(bytes, field(bytes.len() - ipv6::HEADER_LEN));
                ipv6::set_next_header(bytes, protocol);
                ipv6::set_hop_limit(bytes, ttl);
                ipv6::set_src(bytes, src);
                ipv6::set_dst(bytes, dst);
                ipv6::HEADER_LEN
            }
            _ => {
                debug_assert!(false, "both ends of a tunnel are of one family");
                0
            }
        }
    }

    /// Writes UDP and GUE headers; `segment` reaches to the end of the packet.
    fn put_gue(&self, segment: &mut [u8], next: u8, port: u16) {
        let len = u16::try_from(segment.len()).unwrap_or(u16::MAX);
        segment[..2].copy_from_slice(&self.source_port.to_be_bytes());
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        segment[4..6].copy_from_slice(&len.to_be_bytes());
        segment[6..12].copy_from_slice(&[0, 0, 0, next, 0, 0]);
        if self.has_checksum() {
            let checksum = transport_checksum(self.src, self.dst, protocol::Udp.0, segment);
            segment[6..8].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    /// Writes the GRE header; `segment` reaches to the end of the packet.
    fn put_gre(&self, segment: &mut [u8], inner: &Parsed, inner_len: usize) {
        debug_assert!(segment.len() > inner_len, "the GRE header stands in front of the inner packet");
        let kind = if inner.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
        segment[..2].copy_from_slice(&[0, 0]);
        segment[gre::KIND..gre::KIND + 2].copy_from_slice(&kind.to_be_bytes());
        if self.has_checksum() {
            segment[0] = gre::CHECKSUM_PRESENT;
            segment[4..8].fill(0);
            let checksum = !sum(segment);
            segment[4..6].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

/// RFC 6040 section 4.1 "normal mode" with the kernel's full-functionality encapsulation.
const fn outer_tos(inner: u8) -> u8 {
    if inner & 3 == 3 { inner & !3 | 2 } else { inner }
}
