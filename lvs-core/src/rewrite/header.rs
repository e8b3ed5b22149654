//! TTL and addresses of the IP header, with the IPv4 header checksum kept right by increments.

use core::net::IpAddr;

use crate::wire::Delta;

/// Decrements the TTL and sets new addresses; `delta` is the sum over the address changes.
#[inline]
pub(super) fn rewrite_ipv4(bytes: &mut [u8], src: Option<IpAddr>, dst: Option<IpAddr>, delta: Delta) {
    let ttl_word = u16::from_be_bytes([bytes[8], bytes[9]]);
    bytes[8] = bytes[8].saturating_sub(1);
    let delta = delta.plus(Delta::of_word(ttl_word, u16::from_be_bytes([bytes[8], bytes[9]])));
    let field = u16::from_be_bytes([bytes[10], bytes[11]]);
    bytes[10..12].copy_from_slice(&delta.apply(field).to_be_bytes());
    if let Some(IpAddr::V4(src)) = src {
        bytes[12..16].copy_from_slice(&src.octets());
    }
    if let Some(IpAddr::V4(dst)) = dst {
        bytes[16..20].copy_from_slice(&dst.octets());
    }
}

/// Decrements the hop limit and sets new addresses.
#[inline]
pub(super) fn rewrite_ipv6(bytes: &mut [u8], src: Option<IpAddr>, dst: Option<IpAddr>) {
    bytes[7] = bytes[7].saturating_sub(1);
    if let Some(IpAddr::V6(src)) = src {
        bytes[8..24].copy_from_slice(&src.octets());
    }
    if let Some(IpAddr::V6(dst)) = dst {
        bytes[24..40].copy_from_slice(&dst.octets());
    }
}
