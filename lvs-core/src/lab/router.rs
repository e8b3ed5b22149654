//! A router: sends every packet on towards its destination, one hop poorer.

use core::net::IpAddr;

use super::{Node, Outbox};
use crate::Instant;
use crate::wire;

/// A plain router. It says nothing by itself: packets out of hops are dropped and counted.
#[derive(Debug, Default)]
pub struct Router {
    /// Packets sent on.
    pub forwarded: u64,
    /// Packets dropped: damaged header, or no hops left.
    pub dropped: u64,
}

impl Router {
    /// Makes a router.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Node for Router {
    fn handle_packet(&mut self, mut packet: Vec<u8>, _now: Instant, out: &mut Outbox) {
        match destination_and_hops(&packet) {
            Some((destination, hops)) if hops > 1 => {
                match destination {
                    IpAddr::V4(_) => wire::ipv4::decrement_ttl(&mut packet),
                    IpAddr::V6(_) => packet[wire::ipv6::HOP_LIMIT] -= 1,
                }
                self.forwarded += 1;
                out.send(destination, packet);
            }
            _ => self.dropped += 1,
        }
    }
}

/// Destination and TTL or hop limit, when the header is sound.
fn destination_and_hops(packet: &[u8]) -> Option<(IpAddr, u8)> {
    let parsed = wire::parse(packet).ok()?;
    Some((parsed.dst, parsed.ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ttl: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 20, 0, 1, 0, 0, ttl, 253, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1];
        wire::ipv4::fill_checksum(&mut packet);
        packet
    }

    #[test]
    fn takes_one_hop_and_keeps_the_checksum_right() {
        let (mut router, mut out) = (Router::new(), Outbox::default());
        router.handle_packet(packet(64), Instant::ZERO, &mut out);
        assert_eq!(out.take_packets(), [("10.0.1.1".parse().unwrap(), packet(63))]);
    }

    #[test]
    fn the_last_hop_and_damage_end_here() {
        let (mut router, mut out) = (Router::new(), Outbox::default());
        router.handle_packet(packet(1), Instant::ZERO, &mut out);
        let mut damaged = packet(64);
        damaged[16] ^= 1;
        router.handle_packet(damaged, Instant::ZERO, &mut out);
        assert_eq!((out.take_packets(), router.dropped), (vec![], 2));
    }
}
