//! Builds packets, and makes one packet into that of another client without building it anew.

use core::net::IpAddr;

use etherparse::PacketBuilder;
use lvs_core::Endpoint;
use lvs_core::wire::Delta;

/// Initial TTL or hop limit.
const TTL: u8 = 64;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment with SYN.
    Syn,
    /// A TCP segment with ACK.
    Ack,
    /// A UDP datagram.
    Udp,
}

/// Builds an IP packet with `payload` bytes behind the transport header; all checksums are right.
///
/// # Panics
/// Panics when the addresses are of two families or the payload is longer than a packet can be.
pub fn packet(kind: Kind, src: Endpoint, dst: Endpoint, payload: usize) -> Vec<u8> {
    let ip = match (src.addr, dst.addr) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => panic!("{src} and {dst} are of two address families"),
    };
    let payload = vec![0x5a; payload];
    let mut bytes = Vec::new();
    let written = match kind {
        Kind::Syn => ip.tcp(src.port, dst.port, 1000, 65535).syn().write(&mut bytes, &payload),
        Kind::Ack => ip.tcp(src.port, dst.port, 1001, 65535).ack(1).write(&mut bytes, &payload),
        Kind::Udp => ip.udp(src.port, dst.port).write(&mut bytes, &payload),
    };
    written.expect("the payload fits into a packet");
    bytes
}

/// A packet of client number 0 that is written into buffers as that of any client.
///
/// The clients of a template differ in the last four bytes of their address.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the last four bytes of the source address are.
    source: usize,
    /// Those bytes.
    first: u32,
    /// Where the IPv4 header checksum is.
    header_checksum: Option<usize>,
    /// Where the transport checksum is.
    checksum: usize,
}

impl Template {
    /// Makes a template of a packet from `src`.
    pub fn new(kind: Kind, src: Endpoint, dst: Endpoint, payload: usize) -> Self {
        let bytes = packet(kind, src, dst, payload);
        let (source, header_checksum, transport) = match src.addr {
            IpAddr::V4(_) => (12, Some(10), 20),
            IpAddr::V6(_) => (20, None, 40),
        };
        let checksum = transport + if kind == Kind::Udp { 6 } else { 16 };
        let first = read_u32(&bytes, source);
        Self { bytes, source, first, header_checksum, checksum }
    }

    /// Length of the packet in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a packet has headers.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the packet of client `number` to the start of `out`.
    ///
    /// # Panics
    /// Panics when `out` is shorter than the packet.
    #[inline]
    pub fn write(&self, number: u32, out: &mut [u8]) {
        let out = &mut out[..self.bytes.len()];
        out.copy_from_slice(&self.bytes);
        let new = self.first.wrapping_add(number);
        out[self.source..self.source + 4].copy_from_slice(&new.to_be_bytes());
        let delta = Delta::of_u32(self.first, new);
        for at in self.header_checksum.into_iter().chain([self.checksum]) {
            let field = u16::from_be_bytes([out[at], out[at + 1]]);
            out[at..at + 2].copy_from_slice(&delta.apply(field).to_be_bytes());
        }
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::{CLIENT_PORT, Ip, client, vip};

    #[test]
    fn a_template_writes_what_the_builder_builds() {
        for ip in [Ip::V4, Ip::V6] {
            for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
                let template = Template::new(kind, client(ip, 0), vip(ip), 33);
                for number in [0, 1, 255, 65_536, 999_999] {
                    let mut out = vec![0; template.len()];
                    template.write(number, &mut out);
                    assert_eq!(
                        out,
                        packet(kind, client(ip, number), vip(ip), 33),
                        "{ip:?} {kind:?} {number}"
                    );
                    assert_eq!(client(ip, number).port, CLIENT_PORT);
                }
            }
        }
    }
}
