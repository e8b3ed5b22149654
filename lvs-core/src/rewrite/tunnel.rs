//! LVS/TUN: the outer header (RFC 2003 IP in IP, RFC 2473 in IPv6).

use core::net::IpAddr;

use crate::wire::{self, ChecksumState, NoRoom, Packet, Parsed};

const IPV4_LEN: u16 = 20;
const IPV6_LEN: u16 = 40;
const PROTOCOL_IPIP: u8 = 4;
const PROTOCOL_IPV6: u8 = 41;

/// The outer header of one tunnel, but for what it copies from the packet inside.
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
    /// `pmtu_disc`: copy DF from inside.
    pub copy_df: bool,
    /// Identification where fragmentation is allowed.
    pub id: u16,
}

impl Outer {
    /// Length of the header in bytes.
    pub const fn len(&self) -> u16 {
        if self.dst.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
    }

    /// Never: a header has a length.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Puts the header in front of a packet whose TTL has been decremented; `inner` describes it before that.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is smaller; nothing is changed then.
    pub(super) fn prepend(&self, packet: &mut Packet<'_>, inner: &Parsed) -> Result<(), NoRoom> {
        let inner_len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        let header_len = self.len();
        packet.prepend(usize::from(header_len))?;
        let ttl = inner.ttl.saturating_sub(1);
        let tos = outer_tos(inner.tos);
        let protocol = if inner.is_ipv4() { PROTOCOL_IPIP } else { PROTOCOL_IPV6 };
        let header = packet.bytes_mut();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let df = self.copy_df && inner.is_ipv4() && inner.dont_fragment;
                let (id, flags) = if df { (0, 0x40) } else { (self.id, 0) };
                header[0] = 0x45;
                header[1] = tos;
                header[2..4].copy_from_slice(&inner_len.saturating_add(IPV4_LEN).to_be_bytes());
                header[4..6].copy_from_slice(&id.to_be_bytes());
                header[6..8].copy_from_slice(&[flags, 0]);
                header[8..12].copy_from_slice(&[ttl, protocol, 0, 0]);
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                let sum = wire::checksum::ipv4_header_checksum(&header[..20]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                header[..4].copy_from_slice(&(0x6000_0000 | u32::from(tos) << 20).to_be_bytes());
                header[4..6].copy_from_slice(&inner_len.to_be_bytes());
                header[6..8].copy_from_slice(&[protocol, ttl]);
                header[8..24].copy_from_slice(&src.octets());
                header[24..40].copy_from_slice(&dst.octets());
            }
            _ => debug_assert!(false, "both ends of a tunnel are of one family"),
        }
        if let ChecksumState::Partial { start, .. } = &mut packet.meta.checksum {
            *start = start.saturating_add(header_len);
        }
        if let Some(gso) = &mut packet.meta.gso {
            gso.header_len = gso.header_len.saturating_add(header_len);
        }
        Ok(())
    }
}

/// RFC 6040 section 4.1 "normal mode" with the kernel's full-functionality encapsulation.
const fn outer_tos(inner: u8) -> u8 {
    if inner & 3 == 3 { inner & !3 | 2 } else { inner }
}
