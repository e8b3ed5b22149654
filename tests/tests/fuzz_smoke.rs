//! Random, mutated and nonsensical packets through directors in all modes: no panic, every packet counted once.
//!
//! `LVS_FUZZ_PACKETS=n` sets how many, `LVS_FUZZ_SEED=n` with which numbers. A failure prints the packet.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lvs_core::answer::IcmpLimits;
use lvs_core::conn::{Capacity, Filter};
use lvs_core::fragment::FragmentLimits;
use lvs_core::ipvsadm::rules;
use lvs_core::wire::{ChecksumState, Gso, HEADROOM, Packet, TAILROOM};
use lvs_core::{
    Config, Director, DropReason, Endpoint, Environment, Instant, Limits, MarkRule, PassPolicy, Protocol,
    Route, Sysctl, Verdict,
};
use lvs_tests::packets::{self, Shape, build, endpoint, icmp_error, ip_header};
use lvs_tests::random::Random;

/// Packets of an ordinary run.
const PACKETS: u64 = 1_000_000;

const RULES: &str = "-A -t 10.9.0.1:80 -s wrr --laddr 10.0.2.201
-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 2
-a -t 10.9.0.1:80 -r 10.0.2.12:80 -g
-a -t 10.9.0.1:80 -r 10.0.2.13:80 -i
-a -t 10.9.0.1:80 -r 10.0.2.14:8080 --fullnat -x 20
-a -t 10.9.0.1:80 -r [2001:db8:2::11]:80 -i
-A -u 10.9.0.1:53 -s rr
-a -u 10.9.0.1:53 -r 10.0.2.11:53 -m
-a -u 10.9.0.1:53 -r 10.0.2.13:53 -i --tun-type gre
-a -u 10.9.0.1:53 -r 10.0.2.14:53 -i --tun-type gue --tun-port 5555 --tun-csum
-A -u 10.9.0.2:53 -s sh -o
-a -u 10.9.0.2:53 -r 10.0.2.11:53 -m
-A -u 10.9.0.3:53 -s rr
-A -f 7 -s lc
-a -f 7 -r 10.0.2.11:0 -m
-a -f 7 -r 10.0.2.12:0 -g
-A --sctp-service 10.9.0.1:99 -s rr --laddr 10.0.2.201
-a --sctp-service 10.9.0.1:99 -r 10.0.2.11:99 -m
-a --sctp-service 10.9.0.1:99 -r 10.0.2.12:99 -g
-a --sctp-service 10.9.0.1:99 -r 10.0.2.14:99 --fullnat
-A -t [2001:db8:9::1]:80 -s mh --laddr 2001:db8:2::201
-a -t [2001:db8:9::1]:80 -r [2001:db8:2::11]:8080 -m
-a -t [2001:db8:9::1]:80 -r [2001:db8:2::12]:80 -g
-a -t [2001:db8:9::1]:80 -r [2001:db8:2::13]:80 -i
-a -t [2001:db8:9::1]:80 -r [2001:db8:2::14]:8080 --fullnat
-a -t [2001:db8:9::1]:80 -r 10.0.2.13:80 -i
-A -u [2001:db8:9::1]:53 -s wlc
-a -u [2001:db8:9::1]:53 -r [2001:db8:2::11]:53 -m
-a -u [2001:db8:9::1]:53 -r [2001:db8:2::13]:53 -i --tun-type gue --tun-port 5555";

const EDITS: [&str; 6] = [
    "-d -t 10.9.0.1:80 -r 10.0.2.11:8080",
    "-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 2",
    "-e -t 10.9.0.1:80 -r 10.0.2.12:80 -m",
    "-e -t 10.9.0.1:80 -r 10.0.2.12:80 -g -w 0",
    "-D -u [2001:db8:9::1]:53",
    "-A -u [2001:db8:9::1]:53 -s wlc\n-a -u [2001:db8:9::1]:53 -r [2001:db8:2::11]:53 -m",
];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The directors that every packet goes through: the switches that change the way, each both ways.
fn directors(seed: u64) -> Vec<Subject> {
    let route = |to: &str, mtu| Route { prefix: to.parse().expect("a prefix"), mtu };
    [PassPolicy::Pass, PassPolicy::Answer]
        .into_iter()
        .map(|pass| {
            let other = pass == PassPolicy::Answer;
            let config = Config {
                limits: Limits {
                    connections: Capacity { ipv4: 400, ipv6: 200 },
                    fragments: FragmentLimits { datagrams: 64, ..FragmentLimits::default() },
                    local_ports: 1024..=1100,
                    outgoing: 256,
                    paths: 4,
                    ..Limits::default()
                },
                sysctl: Sysctl {
                    sloppy_tcp: other,
                    expire_nodest_conn: other,
                    nat_icmp_send: other,
                    pmtu_disc: !other,
                    conn_reuse_mode: if other { 3 } else { 1 },
                    ..Sysctl::default()
                },
                environment: Environment {
                    addresses: vec![addr("10.0.2.1"), addr("2001:db8:2::1")],
                    mtu: 1500,
                    routes: vec![route("10.0.2.13", 600), route("172.16.0.3", 68), route("10.0.2.12", 576)],
                },
                pass,
                mark_rules: vec![MarkRule {
                    protocol: None,
                    destination: "10.9.0.7".parse().expect("a prefix"),
                    ports: 0..=u16::MAX,
                    mark: 7,
                }],
                icmp_limits: if other { None } else { Some(IcmpLimits::default()) },
                seed,
                ..Config::default()
            };
            let mut director = Director::new(config);
            apply(&mut director, RULES, Instant::ZERO).expect("rules that can be carried out");
            Subject { director, verdicts: BTreeMap::new(), drops: BTreeMap::new(), released: 0 }
        })
        .collect()
}

fn apply(director: &mut Director, text: &str, now: Instant) -> Result<(), String> {
    let lines = rules::parse(text).map_err(|errors| errors.to_string())?;
    let commands: Vec<_> = lines.into_iter().map(|line| line.command).collect();
    director.apply(&commands, now).map_err(|error| error.to_string())
}

/// A director and what it said, counted here.
struct Subject {
    director: Director,
    verdicts: BTreeMap<&'static str, u64>,
    drops: BTreeMap<DropReason, u64>,
    released: u64,
}

impl Subject {
    /// Gives it a packet; what leaves is returned.
    fn take(&mut self, case: &Case, now: Instant) -> Vec<Vec<u8>> {
        let mut buffer = [vec![0xa5; case.headroom], case.bytes.clone(), vec![0x5a; case.tailroom]].concat();
        let end = case.headroom + case.bytes.len();
        let mut packet = Packet::new(&mut buffer, case.headroom, end).expect("inside the buffer");
        packet.meta.checksum = case.checksum;
        packet.meta.gso = case.gso;
        packet.meta.mark = case.mark;
        let verdict = self.director.process(&mut packet, now);
        *self.verdicts.entry(verdict.name()).or_insert(0) += 1;
        let mut out = Vec::new();
        match verdict {
            Verdict::Drop(reason) => *self.drops.entry(reason).or_insert(0) += 1,
            Verdict::Pass => assert_eq!(packet.bytes(), case.bytes, "a passed packet is unchanged"),
            Verdict::Transmit { .. } | Verdict::Reply { .. } => {
                check_outgoing(packet.bytes());
                out.push(packet.bytes().to_vec());
            }
            Verdict::Queued => {}
        }
        while let Some(outgoing) = self.director.poll_transmit() {
            self.released += 1;
            if outgoing.verdict != Verdict::Pass {
                check_outgoing(&outgoing.packet);
            }
            out.push(outgoing.packet);
        }
        out
    }

    /// Every packet has one verdict, and every verdict one counter.
    fn check_conservation(&self) {
        let counters = self.director.counters();
        let said = |name: &str| self.verdicts.get(name).copied().unwrap_or(0);
        let sums =
            [counters.transmitted, counters.replied, counters.passed, counters.queued, counters.released];
        assert_eq!(sums, [said("transmit"), said("reply"), said("pass"), said("queued"), self.released]);
        assert_eq!(counters.received, self.verdicts.values().sum::<u64>());
        for (reason, count) in counters.drops() {
            let said = self.drops.get(&reason).copied().unwrap_or(0);
            // Fragments that were queued at first may be given up later.
            let late = matches!(
                reason,
                DropReason::FragmentOverlap | DropReason::FragmentLimit | DropReason::FragmentTimeout
            );
            assert!(count == said || late && count >= said, "{reason}: counted {count}, said {said}");
        }
    }

    /// Nothing is left after a long silence, and nothing was counted down twice.
    fn check_quiet(&mut self, mut now: Instant) {
        for _ in 0..100 {
            now = Instant::from_nanos(now.as_nanos() + 100_000_000_000);
            self.director.handle_timeout(now);
        }
        assert_eq!(self.director.connections(Filter::default()).count(), 0);
        assert_eq!(self.director.poll_timeout(), None, "there is nothing left to wait for");
        for row in self.director.services().iter().flat_map(|row| &row.servers) {
            assert_eq!((row.active, row.inactive), (0, 0), "{}", row.server.endpoint);
        }
    }
}

/// What leaves is a packet: right version, length and header checksum.
fn check_outgoing(packet: &[u8]) {
    match packet[0] >> 4 {
        4 => {
            assert_eq!(usize::from(packets::word(packet, 2)), packet.len());
            assert!(packets::ipv4_checksum_is_right(packet), "{packet:02x?}");
        }
        6 => assert_eq!(usize::from(packets::word(packet, 4)) + 40, packet.len()),
        version => panic!("version {version} leaves"),
    }
}

/// One packet with its buffer.
#[derive(Debug, Clone)]
struct Case {
    bytes: Vec<u8>,
    headroom: usize,
    tailroom: usize,
    checksum: ChecksumState,
    gso: Option<Gso>,
    mark: u32,
}

impl Case {
    fn plain(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            headroom: HEADROOM,
            tailroom: TAILROOM,
            checksum: ChecksumState::Complete,
            gso: None,
            mark: 0,
        }
    }
}

/// Makes packets; remembers what left, to answer and quote it.
struct Generator {
    random: Random,
    seen: VecDeque<Vec<u8>>,
    pending: Vec<Vec<u8>>,
}

impl Generator {
    fn case(&mut self) -> Case {
        let fragment = if self.random.chance(25) { self.pending.pop() } else { None };
        let mut bytes = match fragment {
            Some(fragment) => fragment,
            None => self.bytes(),
        };
        if self.random.chance(30) {
            self.mutate(&mut bytes);
        }
        let random = &mut self.random;
        let mut case = Case::plain(bytes);
        if random.chance(3) {
            case.headroom = random.below(70) as usize;
            case.tailroom = random.below(30) as usize;
        }
        if random.chance(3) {
            case.mark = 7;
        }
        if random.chance(6) {
            let l4 = match case.bytes.first() {
                Some(first) if first >> 4 == 4 => u16::from(first & 15) * 4,
                _ => 40,
            };
            let wild = random.chance(20);
            let start = if wild { random.word() as u16 } else { l4 };
            let offset = if wild { random.word() as u16 } else { random.pick(&[16, 6]) };
            case.checksum = ChecksumState::Partial { start, offset };
        }
        if random.chance(3) {
            let header_len = if random.chance(50) { 40 } else { random.word() as u16 };
            case.gso = Some(Gso { kind: 1, size: random.word() as u16, header_len });
        }
        case
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.random.below(100) {
            0..45 => self.client_packet(),
            45..68 => self.answer(),
            68..78 => self.error(),
            78..88 if self.pending.is_empty() => {
                let packet = self.client_packet();
                self.pending = self.fragments(&packet);
                self.pending.pop().unwrap_or(packet)
            }
            78..88 => self.client_packet(),
            88..90 => self.echo(),
            90..93 => self.sctp(),
            93..95 => self.with_extensions(),
            _ => {
                let len = self.random.below(120) as usize;
                let mut noise: Vec<u8> = (0..len).map(|_| self.random.word() as u8).collect();
                if let Some(first) = noise.first_mut() {
                    *first = self.random.pick(&[0x45, 0x46, 0x4f, 0x60, *first]);
                }
                noise
            }
        }
    }

    fn shape(&mut self) -> Shape {
        let random = &mut self.random;
        Shape {
            flags: random.pick(&[2, 2, 2, 0x10, 0x10, 0x18, 0x11, 0x12, 4, 0x14, 1, 0, 0xff]),
            ttl: if random.chance(90) { 64 } else { random.pick(&[255, 2, 1, 0]) },
            tos: random.word() as u8,
            id: random.word() as u16,
            dont_fragment: random.chance(50),
            payload: if random.chance(85) { random.below(64) } else { random.below(1700) } as usize,
            ..Shape::default()
        }
    }

    fn client_packet(&mut self) -> Vec<u8> {
        let shape = self.shape();
        let random = &mut self.random;
        let v4 = random.chance(60);
        let tcp = random.chance(60);
        let port = if random.chance(5) {
            99
        } else if tcp {
            80
        } else {
            53
        };
        let vip = if v4 {
            let last = random.pick(&[1, 1, 1, 1, 2, 3, 7, 9]);
            Endpoint::new(IpAddr::from([10, 9, 0, last]), port)
        } else {
            Endpoint::new(addr("2001:db8:9::1"), port)
        };
        let number = random.below(300) as u16;
        let host = if v4 {
            IpAddr::from([172, 16, 0, random.below(4) as u8])
        } else {
            IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, random.below(4) as u16])
        };
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        build(protocol, Endpoint::new(host, 40_000 + number), vip, &shape)
    }

    fn recent(&mut self) -> Option<Vec<u8>> {
        let place = self.random.index(self.seen.len().max(1));
        self.seen.get(place).cloned()
    }

    /// Both ends of a packet that left, exchanged.
    fn answer(&mut self) -> Vec<u8> {
        let Some(packet) = self.recent() else { return self.client_packet() };
        let protocol = match packets::protocol_of(&packet) {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return self.client_packet(),
        };
        if packet.len() < packets::transport_at(&packet) + 8 {
            return packet;
        }
        let (src, dst) = packets::endpoints(&packet);
        let shape = self.shape();
        build(protocol, dst, src, &shape)
    }

    /// An ICMP error that quotes what left, or what came in.
    fn error(&mut self) -> Vec<u8> {
        let quote = match self.recent() {
            Some(packet) if self.random.chance(80) => packet,
            _ => self.client_packet(),
        };
        let random = &mut self.random;
        let v4 = quote[0] >> 4 == 4;
        let (src, dst) = packets::addresses(&quote);
        let (kind, code) = if v4 {
            random.pick(&[(3, 4), (3, 3), (3, 1), (11, 0), (4, 0), (5, 1), (12, 0)])
        } else {
            random.pick(&[(2, 0), (1, 4), (3, 0), (4, 1), (127, 0), (0, 0)])
        };
        let len = if random.chance(50) { quote.len() } else { random.index(quote.len()) + 1 };
        let router = if v4 { addr("10.0.2.77") } else { addr("2001:db8:2::77") };
        let from = random.pick(&[dst, router]);
        let rest = random.pick(&[0, 68, 576, 1280, 1400, 0xffff_ffff]);
        let quote = if random.chance(20) { self.mutated(&quote) } else { quote };
        icmp_error(from, src, kind, code, rest, &quote[..len.min(quote.len())])
    }

    fn echo(&mut self) -> Vec<u8> {
        let v4 = self.random.chance(50);
        let (src, dst) = if v4 {
            (addr("172.16.0.1"), addr("10.9.0.1"))
        } else {
            (addr("2001:db8:1::1"), addr("2001:db8:2::1"))
        };
        let kinds: [u8; 4] = if v4 { [8, 0, 13, 17] } else { [128, 129, 135, 200] };
        let kind = self.random.pick(&kinds);
        icmp_error(src, dst, kind, 0, 0x1234_0001, b"ping")
    }

    /// An SCTP packet of any first chunk, from a client or back.
    fn sctp(&mut self) -> Vec<u8> {
        let shape = self.shape();
        let (client, vip) = (addr("172.16.0.1"), addr("10.9.0.1"));
        let random = &mut self.random;
        let mut message = vec![0x9c, random.below(4) as u8, 0, 99, 0, 0, 0, 1, 0, 0, 0, 0];
        for _ in 0..random.below(3) {
            message.extend([random.below(16) as u8, 0, 0, random.pick(&[4, 8, 0, 200]), 0, 0, 0, 0]);
        }
        let (src, dst) = if random.chance(70) {
            (client, vip)
        } else {
            message.swap(0, 2);
            message.swap(1, 3);
            (addr("10.0.2.11"), client)
        };
        let mut packet = ip_header(src, dst, 132, &shape, message.len());
        packet.extend(message);
        packet
    }

    /// IPv6 extension headers or IPv4 options in front of the transport header.
    fn with_extensions(&mut self) -> Vec<u8> {
        let mut packet = self.client_packet();
        if packet[0] >> 4 == 4 {
            let words = self.random.index(10) + 1;
            let options: Vec<u8> =
                (0..words * 4).map(|_| self.random.pick(&[0, 1, 1, 1, 7, 4, 0x94, 0x83, 131, 8])).collect();
            packet.splice(20..20, options);
            packet[0] = 0x45 + words as u8;
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            packets::set_ipv4_checksum(&mut packet);
        } else {
            for _ in 0..=self.random.below(9) {
                let kind = self.random.pick(&[0u8, 43, 44, 60, 60, 51]);
                let next = std::mem::replace(&mut packet[6], kind);
                let mut header = vec![next, 0, 0, 0, 0, 0, 0, 0];
                if kind == 51 || kind == 43 && self.random.chance(50) {
                    header[1] = self.random.below(3) as u8;
                    header[2] = self.random.below(3) as u8;
                }
                packet.splice(40..40, header);
            }
            let len = packet.len() as u16 - 40;
            packet[4..6].copy_from_slice(&len.to_be_bytes());
        }
        packet
    }

    /// Pieces of a packet, in any order, some twice, some overlapping, some lost.
    fn fragments(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let l4 = packets::transport_at(packet);
        let payload = packet[l4..].to_vec();
        let (src, dst) = packets::addresses(packet);
        let room = if self.random.chance(10) { 8 } else { 8 * (self.random.index(40) + 4) };
        let shape = self.shape();
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < payload.len() {
            let end = (at + room).min(payload.len());
            let more = u8::from(end < payload.len());
            let overlap = if self.random.chance(5) { 8 } else { 0 };
            let offset = (at as u16).saturating_sub(overlap);
            let mut piece;
            if src.is_ipv4() {
                piece = ip_header(src, dst, packet[9], &shape, end - at);
                let field = (u16::from(more) << 13) | (offset / 8);
                piece[6..8].copy_from_slice(&field.to_be_bytes());
                packets::set_ipv4_checksum(&mut piece);
            } else {
                piece = ip_header(src, dst, 44, &shape, end - at + 8);
                piece.extend([packet[6], 0]);
                piece.extend((offset | u16::from(more)).to_be_bytes());
                piece.extend(u32::from(shape.id).to_be_bytes());
            }
            piece.extend(&payload[at..end]);
            if !self.random.chance(3) {
                pieces.push(piece.clone());
            }
            if self.random.chance(3) {
                pieces.push(piece);
            }
            at = end;
        }
        if self.random.chance(30) {
            pieces.reverse();
        }
        pieces
    }

    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = bytes.to_vec();
        self.mutate(&mut copy);
        copy
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.random.below(3) {
            if bytes.is_empty() {
                return;
            }
            let random = &mut self.random;
            // Headers are where it matters.
            let at =
                if random.chance(80) { random.index(bytes.len().min(80)) } else { random.index(bytes.len()) };
            match random.below(8) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
                3 => bytes[at] = random.word() as u8,
                4 => {
                    let count = random.index(40);
                    bytes.extend((0..count).map(|_| random.word() as u8));
                }
                5 => {
                    let end = (at + random.index(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
                6 => {
                    let value = random.word() as u8;
                    bytes.insert(at, value);
                }
                _ => {
                    let to = random.index(bytes.len());
                    bytes.swap(at, to);
                }
            }
        }
        // A wrong header checksum or length stops a packet at once; most go on.
        if self.random.chance(75) && bytes.len() >= 20 && bytes[0] >> 4 == 4 {
            if self.random.chance(70) {
                let len = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
            if usize::from(bytes[0] & 15) * 4 <= bytes.len() && bytes[0] & 15 >= 5 {
                packets::set_ipv4_checksum(bytes);
            }
        } else if bytes.len() >= 40 && bytes[0] >> 4 == 6 && self.random.chance(70) {
            let len = bytes.len() as u16 - 40;
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
        }
    }
}

fn environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_packet_breaks_a_director() {
    let packets = environment("LVS_FUZZ_PACKETS", PACKETS);
    let seed = environment("LVS_FUZZ_SEED", 1);
    let mut subjects = directors(seed);
    let mut generator = Generator { random: Random::new(seed), seen: VecDeque::new(), pending: Vec::new() };
    let mut now = Instant::from_secs(1000);
    for n in 0..packets {
        // Each packet goes to one of them; both see the same kinds.
        let subject = &mut subjects[(n % 2) as usize];
        let case = generator.case();
        let taken = catch_unwind(AssertUnwindSafe(|| subject.take(&case, now)));
        let Ok(out) = taken else { panic!("packet {n} of seed {seed} at {now:?}: {case:02x?}") };
        for packet in out {
            generator.seen.push_back(packet);
            if generator.seen.len() > 200 {
                generator.seen.pop_front();
            }
        }
        let random = &mut generator.random;
        now = Instant::from_nanos(now.as_nanos() + random.below(4_000_000));
        if random.below(1000) == 0 {
            now = Instant::from_nanos(now.as_nanos() + random.below(200) * 1_000_000_000);
            subject.director.handle_timeout(now);
        }
        if random.below(2000) == 0 {
            // Some cannot be carried out as things stand.
            let _ = apply(&mut subject.director, random.pick(&EDITS), now);
        }
    }
    let mut text = String::new();
    let mut rewritten = 0;
    for (subject, policy) in subjects.iter_mut().zip(["pass", "answer"]) {
        subject.check_conservation();
        let counters = subject.director.counters();
        let drops: BTreeMap<_, _> = counters
            .drops()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| (reason.name(), count))
            .collect();
        text += &format!(
            "{policy}: {} packets, {:?}, expired {}, evicted {}, drops {drops:?}\n",
            counters.received, subject.verdicts, counters.expired, counters.evicted
        );
        rewritten += counters.transmitted;
        subject.check_quiet(now);
        subject.check_conservation();
    }
    show(&text);
    assert!(rewritten * 5 >= packets, "only {rewritten} of {packets} reached a rewrite");
}

#[expect(clippy::print_stdout, reason = "the numbers are what a reader of the test wants to see")]
fn show(text: &str) {
    println!("{text}");
}

/// Every header cut at every byte, and every bit of it flipped, with the checksums as they come out and repaired.
#[test]
fn every_truncation_and_every_flipped_bit_is_survived() {
    let mut subjects = directors(7);
    let now = Instant::from_secs(1000);
    let shape = Shape { payload: 12, ..Shape::default() };
    let mut bases = Vec::new();
    for (src, dst) in [("172.16.0.1:40000", "10.9.0.1:80"), ("[2001:db8:1::1]:40000", "[2001:db8:9::1]:80")] {
        let (src, dst) = (endpoint(src), endpoint(dst));
        for _ in 0..5 {
            // One for each server, and so for each method.
            bases.push(build(
                Protocol::Tcp,
                Endpoint::new(src.addr, src.port + bases.len() as u16),
                dst,
                &shape,
            ));
        }
        let dns = Endpoint::new(dst.addr, 53);
        bases.push(build(Protocol::Udp, src, dns, &shape));
        let own = if src.addr.is_ipv4() { "10.0.2.1" } else { "2001:db8:2::1" };
        let echo = if src.addr.is_ipv4() { 8 } else { 128 };
        bases.push(icmp_error(src.addr, addr(own), echo, 0, 1, b"ping"));
        let quoted = build(Protocol::Udp, dns, src, &shape);
        let unreachable = if src.addr.is_ipv4() { (3, 3) } else { (1, 4) };
        bases.push(icmp_error(src.addr, dst.addr, unreachable.0, unreachable.1, 0, &quoted));
    }
    let mut cases = Vec::new();
    for base in &bases {
        cases.push(base.clone());
        for len in 0..base.len() {
            cases.push(base[..len].to_vec());
            let mut told = base[..len].to_vec();
            if len >= 40 {
                let at = if told[0] >> 4 == 4 { 2 } else { 4 };
                let says = (len - if at == 2 { 0 } else { 40 }) as u16;
                told[at..at + 2].copy_from_slice(&says.to_be_bytes());
                packets::set_ipv4_checksum(&mut told);
                cases.push(told);
            }
        }
        for bit in 0..base.len() * 8 {
            let mut flipped = base.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            cases.push(flipped.clone());
            if flipped[0] >> 4 == 4 && (20..=base.len()).contains(&(usize::from(flipped[0] & 15) * 4)) {
                packets::set_ipv4_checksum(&mut flipped);
                cases.push(flipped);
            }
        }
    }
    for bytes in cases {
        for subject in &mut subjects {
            let case = Case::plain(bytes.clone());
            let taken = catch_unwind(AssertUnwindSafe(|| subject.take(&case, now)));
            assert!(taken.is_ok(), "{:02x?}", case.bytes);
        }
    }
    for subject in &mut subjects {
        subject.check_conservation();
        subject.check_quiet(now);
    }
}
