//! Directors from rules, packets from addresses.

use std::net::IpAddr;

use lvs_core::conn::{Connection, Filter, State};
use lvs_core::ipvsadm::rules;
use lvs_core::wire::checksum::{icmp_checksum, ipv4_header_checksum, transport_checksum};
use lvs_core::wire::{HEADROOM, Meta, Packet, TAILROOM, TcpFlags};
use lvs_core::{Config, Director, DropReason, Endpoint, Environment, Instant, Verdict};

pub(crate) const SYN: TcpFlags = TcpFlags::SYN;
pub(crate) const ACK: TcpFlags = TcpFlags::ACK;
pub(crate) const FIN: TcpFlags = TcpFlags::FIN;
pub(crate) const RST: TcpFlags = TcpFlags::RST;

pub(crate) const CLIENT: &str = "172.16.0.9:30000";
pub(crate) const VIP: &str = "10.9.0.1:80";
pub(crate) const RIP1: &str = "10.0.2.11:8080";
pub(crate) const RIP2: &str = "10.0.2.12:8080";

pub(crate) fn at(text: &str) -> Endpoint {
    text.parse().expect("an endpoint")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn secs(secs: u64) -> Instant {
    Instant::from_secs(secs)
}

/// Own addresses of both families, no limit on ICMP answers.
pub(crate) fn config() -> Config {
    Config {
        environment: Environment {
            addresses: vec![ip("10.0.2.1"), ip("2001:db8:2::1")],
            ..Environment::default()
        },
        icmp_limits: None,
        ..Config::default()
    }
}

pub(crate) fn with_sysctl(settings: &[(&str, &str)]) -> Config {
    let mut config = config();
    for (name, value) in settings {
        config.sysctl.set(name, value).expect("a known switch");
    }
    config
}

pub(crate) fn director(config: Config, rules: &str) -> Director {
    let mut director = Director::new(config);
    apply(&mut director, rules, Instant::ZERO);
    director
}

/// A service at [`VIP`] with these lines (`-a -t VIP` left out) behind `-A -t VIP -s rr`.
pub(crate) fn apply(director: &mut Director, text: &str, now: Instant) {
    let lines = rules::parse(text).expect("rules");
    let commands: Vec<_> = lines.into_iter().map(|line| line.command).collect();
    director.apply(&commands, now).expect("rules that can be carried out");
}

pub(crate) fn nat() -> Director {
    director(config(), NAT)
}

pub(crate) const NAT: &str = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m";

/// What a director made of one packet.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) verdict: Verdict,
    pub(crate) bytes: Vec<u8>,
    pub(crate) meta: Meta,
    /// Packets that left beside it.
    pub(crate) beside: Vec<(Verdict, Vec<u8>)>,
}

impl Out {
    pub(crate) fn transmitted(&self, hop: &str) -> &[u8] {
        assert_eq!(self.verdict, Verdict::Transmit { next_hop: ip(hop) });
        &self.bytes
    }

    pub(crate) fn replied(&self, hop: &str) -> &[u8] {
        assert_eq!(self.verdict, Verdict::Reply { next_hop: ip(hop) });
        &self.bytes
    }

    pub(crate) fn next_hop(&self) -> IpAddr {
        match self.verdict {
            Verdict::Transmit { next_hop } => next_hop,
            other => panic!("expected a packet that is sent on, got {other:?}"),
        }
    }
}

pub(crate) fn feed(director: &mut Director, packet: &[u8], now: Instant) -> Out {
    feed_with(director, packet, Meta::default(), now)
}

pub(crate) fn feed_with(director: &mut Director, packet: &[u8], meta: Meta, now: Instant) -> Out {
    let mut buffer = vec![0; HEADROOM + packet.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
    let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + packet.len()).expect("inside");
    packet.meta = meta;
    let verdict = director.process(&mut packet, now);
    let (bytes, meta) = (packet.bytes().to_vec(), packet.meta);
    let beside =
        std::iter::from_fn(|| director.poll_transmit()).map(|out| (out.verdict, out.packet)).collect();
    Out { verdict, bytes, meta, beside }
}

pub(crate) fn dropped(director: &mut Director, packet: &[u8], now: Instant, reason: DropReason) {
    let before = director.counters().dropped(reason);
    assert_eq!(feed(director, packet, now).verdict, Verdict::Drop(reason));
    assert_eq!(director.counters().dropped(reason), before + 1, "{reason} is counted");
}

pub(crate) fn connections(director: &Director) -> Vec<Connection> {
    director.connections(Filter::default()).map(|(_, conn)| conn).collect()
}

pub(crate) fn states(director: &Director) -> Vec<State> {
    connections(director).iter().map(|conn| conn.state).collect()
}

/// Active and inactive connections of each server of the first service, in list order.
pub(crate) fn loads(director: &Director) -> Vec<(u32, u32)> {
    director.services()[0].servers.iter().map(|server| (server.active, server.inactive)).collect()
}

/// Handshake of a client; returns the server it reached.
pub(crate) fn establish(director: &mut Director, client: &str, now: Instant) -> IpAddr {
    let (client, vip) = (at(client), at(VIP));
    let hop = feed(director, &tcp(client, vip, SYN), now).next_hop();
    feed(director, &tcp(client, vip, ACK), now).transmitted(&hop.to_string());
    hop
}

pub(crate) fn client(n: u16) -> String {
    format!("172.16.{}.{}:{}", n >> 8, n & 0xff, 30000 + n)
}

/// How a packet of these tests differs from the usual.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) ttl: u8,
    pub(crate) df: bool,
    pub(crate) id: u16,
    pub(crate) payload: usize,
}

pub(crate) const PLAIN: Shape = Shape { ttl: 64, df: true, id: 0x1234, payload: 0 };

pub(crate) fn tcp(src: Endpoint, dst: Endpoint, flags: TcpFlags) -> Vec<u8> {
    tcp_with(src, dst, flags, PLAIN)
}

pub(crate) fn tcp_with(src: Endpoint, dst: Endpoint, flags: TcpFlags, shape: Shape) -> Vec<u8> {
    let mut segment = vec![0; 20 + shape.payload];
    segment[..2].copy_from_slice(&src.port.to_be_bytes());
    segment[2..4].copy_from_slice(&dst.port.to_be_bytes());
    segment[4..8].copy_from_slice(&0x0102_0304u32.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags.bits();
    fill(&mut segment[20..]);
    let sum = transport_checksum(src.addr, dst.addr, 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    packet(src.addr, dst.addr, 6, shape, &segment)
}

pub(crate) fn udp(src: Endpoint, dst: Endpoint) -> Vec<u8> {
    udp_with(src, dst, Shape { df: false, payload: 5, ..PLAIN })
}

pub(crate) fn udp_with(src: Endpoint, dst: Endpoint, shape: Shape) -> Vec<u8> {
    let mut segment = vec![0; 8 + shape.payload];
    segment[..2].copy_from_slice(&src.port.to_be_bytes());
    segment[2..4].copy_from_slice(&dst.port.to_be_bytes());
    let len = segment.len() as u16;
    segment[4..6].copy_from_slice(&len.to_be_bytes());
    fill(&mut segment[8..]);
    let sum = transport_checksum(src.addr, dst.addr, 17, &segment);
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
    packet(src.addr, dst.addr, 17, shape, &segment)
}

fn fill(bytes: &mut [u8]) {
    bytes.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 8) as u8);
}

/// An IP packet around a segment.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, protocol: u8, shape: Shape, segment: &[u8]) -> Vec<u8> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + segment.len() as u16).to_be_bytes());
            header.extend(shape.id.to_be_bytes());
            header.extend([if shape.df { 0x40 } else { 0 }, 0, shape.ttl, protocol, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            let sum = ipv4_header_checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((segment.len() as u16).to_be_bytes());
            header.extend([protocol, shape.ttl]);
            header.extend(src.octets());
            header.extend(dst.octets());
            header
        }
        _ => panic!("{src} and {dst} are of two families"),
    };
    packet.extend_from_slice(segment);
    packet
}

/// An ICMP or ICMPv6 message.
pub(crate) fn icmp(src: &str, dst: &str, kind: u8, code: u8, rest: u32, data: &[u8]) -> Vec<u8> {
    let (src, dst) = (ip(src), ip(dst));
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend_from_slice(data);
    let protocol = if src.is_ipv4() { 1 } else { 58 };
    let sum = if src.is_ipv4() {
        icmp_checksum(&message)
    } else {
        transport_checksum(src, dst, protocol, &message)
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(src, dst, protocol, Shape { df: false, ..PLAIN }, &message)
}

/// The same packet in IPv4 fragments of at most `mtu` bytes.
pub(crate) fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    lvs_core::fragment::cut(packet, &[], mtu, 0xfeed).expect("a whole packet")
}

/// Puts fragments that left together again: their payloads by offset, behind the first header.
pub(crate) fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    use lvs_core::fragment::{FragmentLimits, FragmentStore, Outcome};
    let mut store = FragmentStore::new(FragmentLimits::default(), 1);
    for piece in pieces {
        let parsed = lvs_core::wire::parse(piece).expect("a sound fragment");
        if let Outcome::Complete(datagram) = store.insert(&parsed, piece, 0, Instant::ZERO) {
            return datagram.bytes;
        }
    }
    panic!("{} pieces are no whole datagram", pieces.len());
}

/// Checks all checksums of a packet and returns its sender and receiver.
pub(crate) fn checked(bytes: &[u8]) -> (Endpoint, Endpoint) {
    let parsed = lvs_core::wire::parse(bytes).expect("a sound packet");
    let segment = &bytes[usize::from(parsed.l4)..parsed.len as usize];
    let right = lvs_core::wire::checksum::transport_checksum_is_right;
    assert!(right(parsed.src, parsed.dst, parsed.protocol, segment), "the transport checksum is right");
    let tuple = parsed.tuple().expect("ports");
    (tuple.src, tuple.dst)
}

/// Kind, code and bytes 4 to 8 of an ICMP message, and what it quotes; its checksum is right.
pub(crate) fn icmp_parts(bytes: &[u8]) -> (u8, u8, u32, &[u8]) {
    let parsed = lvs_core::wire::parse(bytes).expect("a sound packet");
    let message = &bytes[usize::from(parsed.l4)..parsed.len as usize];
    if parsed.is_ipv4() {
        assert!(lvs_core::wire::checksum::icmp_checksum_is_right(message));
    } else {
        let right = lvs_core::wire::checksum::transport_checksum_is_right;
        assert!(right(parsed.src, parsed.dst, 58, message));
    }
    let rest = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    (message[0], message[1], rest, &message[8..])
}

pub(crate) fn src_of(bytes: &[u8]) -> IpAddr {
    lvs_core::wire::parse(bytes).expect("a sound packet").src
}
