//! Changes to a packet's bytes: other addresses and ports, the option TOA, fragments.

use std::net::IpAddr;

use lvs_core::Endpoint;

use crate::packets::{self, word};

pub(super) fn readdress(packet: &mut [u8], src: Endpoint, dst: Endpoint) {
    match (src.addr, dst.addr) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet[8..24].copy_from_slice(&src.octets());
            packet[24..40].copy_from_slice(&dst.octets());
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
    let l4 = packets::transport_at(packet);
    packet[l4..l4 + 2].copy_from_slice(&src.port.to_be_bytes());
    packet[l4 + 2..l4 + 4].copy_from_slice(&dst.port.to_be_bytes());
}

/// Puts the option TOA behind the TCP base header, if it fits: kind 254, length, port, address.
pub(super) fn tell_client(packet: &mut Vec<u8>, client: Endpoint, mtu: usize) {
    let mut option = vec![254, if client.addr.is_ipv4() { 8 } else { 20 }];
    option.extend(client.port.to_be_bytes());
    match client.addr {
        IpAddr::V4(addr) => option.extend(addr.octets()),
        IpAddr::V6(addr) => option.extend(addr.octets()),
    }
    let len = packet.len() + option.len();
    if len > mtu {
        return;
    }
    let l4 = packets::transport_at(packet);
    packet[l4 + 12] += (option.len() as u8 / 4) << 4;
    packet.splice(l4 + 20..l4 + 20, option);
    let (at, says) = if packet[0] >> 4 == 4 { (2, len) } else { (4, len - 40) };
    packet[at..at + 2].copy_from_slice(&(says as u16).to_be_bytes());
}

/// Fragments of at most `mtu` bytes (RFC 791 section 3.2, RFC 8200 section 4.5); no options, no extensions.
pub(super) fn cut(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let (header, room) = if v4 { (20, mtu - 20) } else { (40, mtu - 48) };
    let payload = &packet[header..];
    let mut pieces = Vec::new();
    let mut offset = 0;
    while offset < payload.len() {
        // Only the last piece need not end at a multiple of 8.
        let left = payload.len() - offset;
        let more = left > room;
        let part = &payload[offset..][..if more { room / 8 * 8 } else { left }];
        let mut piece = packet[..header].to_vec();
        if v4 {
            let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 } | word(packet, 6) & 0x4000;
            piece[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            piece[6..8].copy_from_slice(&field.to_be_bytes());
            packets::set_ipv4_checksum(&mut piece);
        } else {
            piece[4..6].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            piece[6] = 44;
            let field = offset as u16 | u16::from(more);
            piece.extend([packet[6], 0]);
            piece.extend(field.to_be_bytes());
            piece.extend([0; 4]);
        }
        piece.extend(part);
        pieces.push(piece);
        offset += part.len();
    }
    pieces
}
