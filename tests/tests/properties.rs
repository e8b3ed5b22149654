//! What must hold of the director for all packets, not only for those of an example.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use lvs_core::answer::IcmpLimits;
use lvs_core::conn::{Direction, Filter, State};
use lvs_core::ipvsadm::rules;
use lvs_core::wire::{ChecksumState, HEADROOM, Packet, TAILROOM, Tuple};
use lvs_core::{
    Config, Director, DropReason, Endpoint, Environment, FullNatOptions, Instant, Limits, Protocol, Step,
    Verdict,
};
use lvs_tests::packets::flags::{ACK, FIN, RST, SYN};
use lvs_tests::packets::{
    self, Checksum, Shape, build, build_with, drain, endpoint, endpoints, feed, icmp_error, set_ttl,
    transport_checksum_error, ttl, word,
};
use proptest::prelude::*;

const NOW: Instant = Instant::from_secs(1000);
const LOCALS: &str = "--laddr 10.0.2.201 --laddr 10.0.2.202";
const LOCALS_V6: &str = "--laddr 2001:db8:2::201";

/// One service with one server of every kind that a property asks for.
#[derive(Debug, Clone, Copy)]
struct Route {
    v4: bool,
    protocol: Protocol,
    /// `-m`, `-g`, `-i` or `--fullnat`.
    method: &'static str,
}

impl Route {
    fn vip(self) -> Endpoint {
        endpoint(if self.v4 { "10.9.0.1:80" } else { "[2001:db8:9::1]:80" })
    }

    fn rip(self) -> Endpoint {
        let port = if matches!(self.method, "-g" | "-i") { 80 } else { 8080 };
        Endpoint::new(addr(if self.v4 { "10.0.2.11" } else { "2001:db8:2::11" }), port)
    }

    fn director(self) -> Director {
        let mut director = Director::new(config());
        apply(&mut director, &self.rules());
        director
    }

    fn rules(self) -> String {
        let service = service(self.protocol, self.vip());
        let locals = if self.v4 { LOCALS } else { LOCALS_V6 };
        format!("-A {service} -s rr {locals}\n-a {service} -r {} {}", self.rip(), self.method)
    }
}

fn service(protocol: Protocol, vip: Endpoint) -> String {
    format!("-{} {vip}", if protocol == Protocol::Tcp { 't' } else { 'u' })
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn config() -> Config {
    Config {
        environment: Environment {
            addresses: vec![addr("10.0.2.1"), addr("2001:db8:2::1")],
            ..Environment::default()
        },
        fullnat: FullNatOptions { toa: false, blank_timestamp: false },
        icmp_limits: None::<IcmpLimits>,
        ..Config::default()
    }
}

fn apply(director: &mut Director, text: &str) {
    let commands: Vec<_> = rules::parse(text).expect("rules").into_iter().map(|line| line.command).collect();
    director.apply(&commands, NOW).expect("rules that can be carried out");
}

fn routes(methods: &'static [&'static str]) -> impl Strategy<Value = Route> {
    (any::<bool>(), prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)], proptest::sample::select(methods))
        .prop_map(|(v4, protocol, method)| Route { v4, protocol, method })
}

fn clients(v4: bool) -> impl Strategy<Value = Endpoint> {
    (any::<u32>(), 1..=u16::MAX).prop_filter_map("port 20 opens nothing", move |(host, port)| {
        let addr: IpAddr = if v4 {
            // 172.16.0.0/12
            std::net::Ipv4Addr::from_bits(0xac10_0000 | host & 0xf_ffff).into()
        } else {
            std::net::Ipv6Addr::from_bits(0x2001_0db8_0001_u128 << 80 | u128::from(host)).into()
        };
        (port != 20).then_some(Endpoint::new(addr, port))
    })
}

fn shapes() -> impl Strategy<Value = Shape> {
    let checksum = prop_oneof![
        3 => Just(Checksum::Right),
        1 => (1..0xffffu16).prop_map(Checksum::Wrong),
        1 => Just(Checksum::None),
    ];
    (3..=u8::MAX, any::<u8>(), any::<u16>(), any::<bool>(), checksum).prop_map(
        |(ttl, tos, id, dont_fragment, checksum)| Shape {
            ttl,
            tos,
            id,
            dont_fragment,
            checksum,
            ..Shape::default()
        },
    )
}

/// A route, a client, and a packet that opens a connection on it.
fn openings(methods: &'static [&'static str]) -> impl Strategy<Value = (Route, Endpoint, Vec<u8>, Shape)> {
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    (routes(methods), shapes(), payload).prop_flat_map(|(route, shape, payload)| {
        clients(route.v4).prop_map(move |client| {
            let packet = build_with(route.protocol, client, route.vip(), &shape, &payload);
            (route, client, packet, shape)
        })
    })
}

/// The packet with both ends exchanged: its checksums stay as right or wrong as they were.
fn mirrored(packet: &[u8]) -> Vec<u8> {
    let mut mirror = packet.to_vec();
    let (at, len) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    mirror[at..at + len].copy_from_slice(&packet[at + len..at + 2 * len]);
    mirror[at + len..at + 2 * len].copy_from_slice(&packet[at..at + len]);
    let l4 = packets::transport_at(packet);
    mirror[l4..l4 + 2].copy_from_slice(&packet[l4 + 2..l4 + 4]);
    mirror[l4 + 2..l4 + 4].copy_from_slice(&packet[l4..l4 + 2]);
    mirror
}

fn transmitted(director: &mut Director, packet: &[u8]) -> (IpAddr, Vec<u8>) {
    let fed = feed(director, packet, NOW);
    match fed.verdict {
        Verdict::Transmit { next_hop } => (next_hop, fed.bytes),
        other => panic!("{other:?}"),
    }
}

/// What a server's own stack sees of a tunnelled packet.
fn unwrapped(packet: &[u8], method: &str) -> Vec<u8> {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    packet[if method == "-i" { header } else { 0 }..].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn nat_there_and_back_is_identity((route, client, packet, shape) in openings(&["-m", "--fullnat"])) {
        let mut director = route.director();
        let (to, at_server) = transmitted(&mut director, &packet);
        prop_assert_eq!(to, route.rip().addr);
        let (back_to, at_client) = transmitted(&mut director, &mirrored(&at_server));
        prop_assert_eq!(back_to, client.addr);
        let mut expected = mirrored(&packet);
        set_ttl(&mut expected, shape.ttl - 2);
        packets::set_ipv4_checksum(&mut expected);
        if shape.checksum == Checksum::None && route.protocol == Protocol::Udp {
            packets::set_transport_checksum(&mut expected);
        }
        if !matches!(shape.checksum, Checksum::Wrong(_)) {
            prop_assert_eq!(at_client, expected);
        } else {
            // The field of a wrong checksum may be 0 or 0xFFFF: as wrong is as wrong.
            let at = packets::checksum_at(&packet).expect("TCP and UDP have one");
            prop_assert_eq!(transport_checksum_error(&at_client), transport_checksum_error(&expected));
            prop_assert_eq!(&at_client[..at], &expected[..at]);
            prop_assert_eq!(&at_client[at + 2..], &expected[at + 2..]);
        }
    }

    #[test]
    fn a_checksum_leaves_as_right_or_wrong_as_it_came(
        (route, _, packet, shape) in openings(&["-m", "--fullnat", "-g", "-i"])
    ) {
        let (_, out) = transmitted(&mut route.director(), &packet);
        prop_assert!(packets::ipv4_checksum_is_right(&out));
        let inner = unwrapped(&out, route.method);
        prop_assert!(packets::ipv4_checksum_is_right(&inner));
        prop_assert_eq!(ttl(&inner), shape.ttl - 1);
        let at = packets::checksum_at(&packet).expect("TCP and UDP have one");
        let none = shape.checksum == Checksum::None && route.protocol == Protocol::Udp;
        match (none, route.method) {
            (true, "-g" | "-i") => prop_assert_eq!(word(&inner, at), 0, "DR and TUN keep it"),
            (true, _) => {
                prop_assert_eq!(transport_checksum_error(&inner), 0, "NAT computes one");
                prop_assert_ne!(word(&inner, at), 0);
            }
            (false, _) => {
                prop_assert_eq!(transport_checksum_error(&inner), transport_checksum_error(&packet));
            }
        }
    }

    /// A datagram whose checksum behind the director computes to 0 says 0xFFFF (RFC 768), on both ways and
    /// whether the checksum was changed or made anew.
    #[test]
    fn a_udp_checksum_of_zero_is_written_as_all_ones(
        (_, client, _, shape) in openings(&["-m"]),
        filled in any::<bool>(),
        method in proptest::sample::select(&["-m", "--fullnat"][..]),
    ) {
        let route = Route { v4: client.addr.is_ipv4(), protocol: Protocol::Udp, method };
        let checksum = if filled { Checksum::None } else { Checksum::Right };
        let shape = Shape { checksum, ..shape };
        let mut director = route.director();
        let mut send = |payload: &[u8]| {
            let (_, out) = transmitted(&mut director, &build_with(Protocol::Udp, client, route.vip(), &shape, payload));
            out
        };
        let first = send(&[0, 0]);
        let at = packets::checksum_at(&first).expect("UDP has one");
        let missing = word(&first, at);
        let out = send(&missing.to_be_bytes());
        prop_assert_eq!(word(&out, at), 0xffff);
        prop_assert_eq!(transport_checksum_error(&out), 0);
    }

    /// Finishing what leaves equals rewriting what was finished before.
    #[test]
    fn partial_checksums_stay_partial_and_right(
        (route, client, _, shape) in openings(&["-m", "--fullnat", "-g", "-i"]),
        payload in 0usize..1700,
        dont_fragment in any::<bool>(),
    ) {
        let shape = Shape { payload, dont_fragment, checksum: Checksum::Right, ..shape };
        let packet = build(route.protocol, client, route.vip(), &shape);
        let finished = feed(&mut route.director(), &packet, NOW);

        let l4 = packets::transport_at(&packet);
        let at = packets::checksum_at(&packet).expect("TCP and UDP have one");
        let mut partial = packet.clone();
        partial[at..at + 2].copy_from_slice(&pseudo_header_sum(&packet).to_be_bytes());
        let mut buffer = [vec![0; HEADROOM], partial, vec![0; TAILROOM]].concat();
        let end = buffer.len() - TAILROOM;
        let mut offloaded = Packet::new(&mut buffer, HEADROOM, end).expect("inside the buffer");
        offloaded.meta.checksum = ChecksumState::Partial { start: l4 as u16, offset: (at - l4) as u16 };
        let mut director = route.director();
        let verdict = director.process(&mut offloaded, NOW);

        prop_assert_eq!(verdict, finished.verdict);
        let queue = drain(&mut director);
        prop_assert_eq!(queue.len(), finished.queue.len());
        if route.protocol == Protocol::Udp {
            // TCP's checksum may be finished as 0 or as 0xFFFF.
            prop_assert_eq!(queue, finished.queue, "cut packets are finished before");
        }
        let mut out = offloaded.bytes().to_vec();
        match (verdict, offloaded.meta.checksum) {
            (Verdict::Transmit { .. }, ChecksumState::Partial { start, offset }) => {
                finish(&mut out, usize::from(start), usize::from(offset), route.protocol);
                prop_assert_eq!(out, finished.bytes);
            }
            (Verdict::Transmit { .. }, ChecksumState::Complete) => prop_assert_eq!(out, finished.bytes),
            _ => {}
        }
    }

    /// Random flows, some of which want the same return tuple: the table knows both tuples of a flow or none.
    #[test]
    fn the_table_knows_both_tuples_or_none(
        flows in proptest::collection::vec((0u8..4, 0u16..3, any::<bool>(), any::<bool>()), 1..40),
        kill in any::<bool>(),
    ) {
        let mut director = Director::new(config());
        let (one, two) = (endpoint("10.9.0.1:80"), endpoint("10.9.0.2:80"));
        for vip in [one, two] {
            let service = service(Protocol::Tcp, vip);
            apply(&mut director, &format!("-A {service} -s rr {LOCALS}"));
            for server in ["10.0.2.11:8080 -m", "10.0.2.12:8080 -m", "10.0.2.13:80 -g", "10.0.2.14:80 --fullnat"] {
                apply(&mut director, &format!("-a {service} -r {server}"));
            }
        }
        for (host, port, second, reset) in flows {
            let client = Endpoint::new(IpAddr::from([172, 16, 0, host]), 40_000 + port);
            let vip = if second { two } else { one };
            let shape = Shape { flags: if reset { RST } else { SYN }, ..Shape::default() };
            let _ = feed(&mut director, &build(Protocol::Tcp, client, vip, &shape), NOW);
            check_tuples(&director)?;
        }
        let before: Vec<_> = director.connections(Filter::default()).map(|(_, conn)| conn).collect();
        let later = if kill {
            prop_assert_eq!(director.kill(Filter::default()), before.len());
            NOW
        } else {
            let later = Instant::from_secs(2000);
            director.handle_timeout(later);
            later
        };
        prop_assert_eq!(director.connection_count(), 0);
        for conn in before {
            for tuple in [(conn.client, conn.service), (conn.server, conn.local)] {
                prop_assert_eq!(hit(&director, conn.protocol, tuple, later), None);
            }
        }
        for row in director.services().iter().flat_map(|row| &row.servers) {
            prop_assert_eq!((row.active, row.inactive), (0, 0));
        }
    }

    #[test]
    fn wrr_shares_are_the_weights(weights in proptest::collection::vec(0u32..12, 1..6), rounds in 1u32..4) {
        let total: u32 = weights.iter().sum();
        let mut director = Director::new(config());
        apply(&mut director, "-A -u 10.9.0.1:80 -s wrr");
        for (n, weight) in weights.iter().enumerate() {
            apply(&mut director, &format!("-a -u 10.9.0.1:80 -r 10.0.2.{}:80 -m -w {weight}", n + 11));
        }
        let mut picks = BTreeMap::new();
        for flow in 0..total * rounds {
            let client = Endpoint::new(IpAddr::from([172, 16, 0, 1]), 1024 + flow as u16);
            let packet = build(Protocol::Udp, client, endpoint("10.9.0.1:80"), &Shape::default());
            *picks.entry(transmitted(&mut director, &packet).0).or_insert(0) += 1;
        }
        for (n, weight) in weights.iter().enumerate() {
            let server = IpAddr::from([10, 0, 2, n as u8 + 11]);
            prop_assert_eq!(picks.get(&server).copied().unwrap_or(0), weight * rounds);
        }
    }

    #[test]
    fn snapshot_and_restore_keep_flows_going(
        flows in proptest::collection::vec((0u8..8, 0u16..8, any::<bool>(), 0u8..4), 1..40),
        wait in 0u64..50,
    ) {
        let rules = "-A -t 10.9.0.1:80 -s wlc --laddr 10.0.2.201
            -a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m
            -a -t 10.9.0.1:80 -r 10.0.2.12:80 -g -w 2
            -a -t 10.9.0.1:80 -r 10.0.2.13:80 -i
            -a -t 10.9.0.1:80 -r 10.0.2.14:80 --fullnat
            -a -t 10.9.0.1:80 -r 2001:db8:2::11:80 -i
            -A -u 10.9.0.1:53 -s rr
            -a -u 10.9.0.1:53 -r 10.0.2.11:53 -m
            -a -u 10.9.0.1:53 -r 10.0.2.12:53 -m".replace("2001:db8:2::11:80", "[2001:db8:2::11]:80");
        let (tcp, udp) = (endpoint("10.9.0.1:80"), endpoint("10.9.0.1:53"));
        let mut old = Director::new(config());
        apply(&mut old, &rules);
        let mut clients = HashSet::new();
        for (host, port, is_tcp, progress) in flows {
            let client = Endpoint::new(IpAddr::from([172, 16, 0, host]), 40_000 + port);
            let (protocol, vip) = if is_tcp { (Protocol::Tcp, tcp) } else { (Protocol::Udp, udp) };
            for flags in &[SYN, ACK, ACK | FIN, ACK][..usize::from(progress) + 1] {
                let shape = Shape { flags: *flags, ..Shape::default() };
                let _ = feed(&mut old, &build(protocol, client, vip, &shape), NOW);
            }
            clients.insert((protocol, client, vip));
        }
        let bytes = old.snapshot(NOW);
        // The new director's clock has another beginning, and its tables another secret.
        let mut new = Director::new(Config { seed: 99, ..config() });
        apply(&mut new, &rules);
        let then = Instant::from_secs(5);
        prop_assert_eq!(new.restore(&bytes, then), Ok(old.connection_count()));
        let numbers = |director: &Director| {
            let rows = director.services();
            let servers = rows.iter().flat_map(|row| row.servers.iter());
            servers.map(|row| (row.server.endpoint, row.active, row.inactive)).collect::<Vec<_>>()
        };
        prop_assert_eq!(numbers(&old), numbers(&new));
        let wait = std::time::Duration::from_secs(wait);
        for (protocol, client, vip) in clients {
            let shape = Shape { flags: ACK, ..Shape::default() };
            let packet = build(protocol, client, vip, &shape);
            let (ours, theirs) = (feed(&mut old, &packet, NOW + wait), feed(&mut new, &packet, then + wait));
            prop_assert_eq!(&ours, &theirs);
            if let Verdict::Transmit { .. } = ours.verdict
                && ours.bytes[9] != 4 && ours.bytes[0] >> 4 == 4 && endpoints(&ours.bytes).1 != vip
            {
                let answer = mirrored(&ours.bytes);
                prop_assert_eq!(feed(&mut old, &answer, NOW + wait), feed(&mut new, &answer, then + wait));
            }
        }
        prop_assert_eq!(numbers(&old), numbers(&new));
    }

    /// ICMP errors that quote a live flow, with any ports and any text, change nothing of it.
    #[test]
    fn icmp_errors_change_no_connection(
        (route, client, packet, _) in openings(&["-m", "--fullnat", "-g", "-i"]),
        kind in any::<u8>(), code in any::<u8>(), rest in any::<u32>(), from_server in any::<bool>(),
    ) {
        let mut director = route.director();
        let (_, out) = transmitted(&mut director, &packet);
        let before: Vec<_> = director.connections(Filter::default()).collect();
        let quote = if from_server { unwrapped(&out, "-m") } else { mirrored(&packet) };
        let (src, dst) = packets::addresses(&quote);
        let error = icmp_error(dst, src, kind, code, rest, &quote);
        let _ = feed(&mut director, &error, NOW);
        let after: Vec<_> = director.connections(Filter::default()).collect();
        prop_assert_eq!(before, after);
        let again = Shape { flags: ACK, ..Shape::default() };
        let fed = feed(&mut director, &build(route.protocol, client, route.vip(), &again), NOW);
        prop_assert_eq!(fed.verdict, Verdict::Transmit { next_hop: route.rip().addr });
    }

    #[test]
    fn a_used_up_ttl_is_told_by_the_vip(
        (route, client, packet, _) in openings(&["-m", "--fullnat", "-g", "-i"]), left in 0u8..2,
    ) {
        let mut packet = packet;
        set_ttl(&mut packet, left);
        packets::set_ipv4_checksum(&mut packet);
        let mut director = route.director();
        let fed = feed(&mut director, &packet, NOW);
        prop_assert_eq!(fed.verdict, Verdict::Reply { next_hop: client.addr });
        prop_assert_eq!(packets::addresses(&fed.bytes), (route.vip().addr, client.addr));
        let l4 = packets::transport_at(&fed.bytes);
        prop_assert_eq!(fed.bytes[l4], if route.v4 { 11 } else { 3 });
        prop_assert_eq!(transport_checksum_error(&fed.bytes), 0);
        let quote = &fed.bytes[l4 + 8..];
        prop_assert_eq!(quote, &packet[..quote.len()], "the original is quoted");
        prop_assert_eq!(director.connection_count(), 0, "nothing was opened");
    }
}

fn pseudo_header_sum(packet: &[u8]) -> u16 {
    let l4 = packets::transport_at(packet);
    let (at, len) = if packet[0] >> 4 == 4 { (12, 8) } else { (8, 32) };
    let protocol = u64::from(packets::protocol_of(packet));
    packets::fold(packets::sum(&packet[at..at + len]) + protocol + (packet.len() - l4) as u64)
}

/// What a device does with a partial checksum.
fn finish(packet: &mut [u8], start: usize, offset: usize, protocol: Protocol) {
    let checksum = !packets::fold(packets::sum(&packet[start..]));
    let checksum = if checksum == 0 && protocol == Protocol::Udp { 0xffff } else { checksum };
    packet[start + offset..start + offset + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Which way a packet of this tuple would travel, if its connection is known.
fn hit(
    director: &Director,
    protocol: Protocol,
    (src, dst): (Endpoint, Endpoint),
    now: Instant,
) -> Option<(Endpoint, Direction)> {
    let explanation = director.explain(Tuple { protocol, src, dst }, 0, now);
    explanation.steps.iter().find_map(|step| match step {
        Step::Hit { connection, direction } => Some((connection.client, *direction)),
        _ => None,
    })
}

fn check_tuples(director: &Director) -> Result<(), TestCaseError> {
    for (_, conn) in director.connections(Filter::default()) {
        let there = hit(director, conn.protocol, (conn.client, conn.service), NOW);
        prop_assert_eq!(there, Some((conn.client, Direction::In)));
        if conn.method.sees_replies() {
            let back = hit(director, conn.protocol, (conn.server, conn.local), NOW);
            prop_assert_eq!(back, Some((conn.client, Direction::Out)));
        }
    }
    Ok(())
}

#[test]
fn fullnat_never_gives_a_local_endpoint_twice_and_recovers_from_exhaustion() {
    let limits = Limits { local_ports: 1024..=1026, ..Limits::default() };
    let mut director = Director::new(Config { limits, ..config() });
    apply(
        &mut director,
        "-A -u 10.9.0.1:53 -s rr --laddr 10.0.2.201 --laddr 10.0.2.202
         -a -u 10.9.0.1:53 -r 10.0.2.11:53 --fullnat
         -A -u 10.9.0.1:54 -s rr --laddr 10.0.2.201 --laddr 10.0.2.202
         -a -u 10.9.0.1:54 -r 10.0.2.12:53 --fullnat",
    );
    let shape = Shape { payload: 4, ..Shape::default() };
    for cycle in 0..100u64 {
        let now = Instant::from_secs(1000 + 301 * cycle);
        director.handle_timeout(now);
        let mut open = |port: u16, vip: &str| {
            let client = Endpoint::new(addr("172.16.0.1"), port);
            feed(&mut director, &build(Protocol::Udp, client, endpoint(vip), &shape), now)
        };
        let mut seen = HashSet::new();
        for port in 0..6 {
            let fed = open(2000 + port, "10.9.0.1:53");
            assert_eq!(fed.verdict, Verdict::Transmit { next_hop: addr("10.0.2.11") }, "cycle {cycle}");
            assert!(seen.insert(endpoints(&fed.bytes).0), "cycle {cycle}: a local endpoint came twice");
        }
        let refused = open(3000, "10.9.0.1:53").verdict;
        assert_eq!(refused, Verdict::Drop(DropReason::LocalPortsExhausted));
        let elsewhere = open(3000, "10.9.0.1:54").verdict;
        assert_eq!(
            elsewhere,
            Verdict::Transmit { next_hop: addr("10.0.2.12") },
            "another server has its own"
        );
    }
    assert_eq!(director.counters().dropped(DropReason::LocalPortsExhausted), 100);
}

#[test]
fn one_local_address_carries_over_60_000_flows_to_one_server() {
    let mut director = Director::new(config());
    apply(
        &mut director,
        "-A -u 10.9.0.1:53 -s rr --laddr 10.0.2.201\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 --fullnat",
    );
    let mut seen = HashSet::new();
    let mut flow = 0u32;
    let refused = loop {
        let client =
            Endpoint::new(IpAddr::from([172, 16, (flow >> 15) as u8, 1]), 1024 + (flow & 0x7fff) as u16);
        let packet = build(Protocol::Udp, client, endpoint("10.9.0.1:53"), &Shape::default());
        let fed = feed(&mut director, &packet, NOW);
        match fed.verdict {
            Verdict::Transmit { .. } => assert!(seen.insert(endpoints(&fed.bytes).0)),
            other => break other,
        }
        flow += 1;
    };
    assert_eq!(refused, Verdict::Drop(DropReason::LocalPortsExhausted));
    assert_eq!(flow, 65_536 - 1024);
}

/// One client port used again and again: no SYN waits, and a server that left gets no more of them.
#[test]
fn a_client_port_used_again_in_time_wait_opens_at_once() {
    let route = Route { v4: true, protocol: Protocol::Tcp, method: "-m" };
    let mut director = route.director();
    apply(&mut director, "-a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m");
    let client = endpoint("172.16.0.1:40000");
    for round in 0..10_000u64 {
        let now = Instant::from_millis(1_000_000 + round);
        if round == 5000 {
            apply(&mut director, "-e -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 0");
        }
        let mut send = |src: Endpoint, dst: Endpoint, flags: u8| {
            let packet = build(Protocol::Tcp, src, dst, &Shape { flags, ..Shape::default() });
            let fed = feed(&mut director, &packet, now);
            assert!(matches!(fed.verdict, Verdict::Transmit { .. }), "round {round}: {:?}", fed.verdict);
            endpoints(&fed.bytes).1
        };
        let server = send(client, route.vip(), SYN);
        assert!(round < 5000 || server.addr == addr("10.0.2.12"), "round {round}");
        send(server, client, SYN | ACK);
        send(client, route.vip(), ACK);
        send(client, route.vip(), FIN | ACK);
        send(server, client, FIN | ACK);
        send(client, route.vip(), ACK);
        let state = director.connections(Filter::default()).next().map(|(_, conn)| conn.state);
        assert_eq!((state, director.connection_count()), (Some(State::TimeWait), 1), "round {round}");
    }
}

/// A reset that a stranger sent does not move a flow: its mapping lives on for the CLOSE timeout, and the next
/// real segment still reaches the same server.
#[test]
fn a_forged_reset_moves_no_flow() {
    for method in ["-m", "--fullnat", "-g", "-i"] {
        let route = Route { v4: true, protocol: Protocol::Tcp, method };
        let mut director = route.director();
        apply(&mut director, &format!("-a -t 10.9.0.1:80 -r 10.0.2.12:80 {method}"));
        let client = endpoint("172.16.0.1:40000");
        let mut send = |flags: u8, now: Instant| {
            let packet = build(Protocol::Tcp, client, route.vip(), &Shape { flags, ..Shape::default() });
            feed(&mut director, &packet, now).verdict
        };
        let first = send(SYN, NOW);
        assert!(matches!(first, Verdict::Transmit { .. }));
        assert_eq!(send(ACK, NOW), first);
        for n in 0..1000u64 {
            assert_eq!(send(RST, Instant::from_millis(1_000_000 + n)), first, "{method}");
        }
        assert_eq!(send(ACK, Instant::from_millis(1_010_990)), first, "{method}");
    }
}

/// A tunnel over IPv6 that must cut its packets names each of them differently.
#[test]
fn cut_tunnel_packets_have_identifications_of_their_own() {
    let mut director = Director::new(config());
    apply(&mut director, "-A -u 10.9.0.1:53 -s rr\n-a -u 10.9.0.1:53 -r [2001:db8:2::11]:53 -i");
    let shape = Shape { payload: 1470, dont_fragment: false, ..Shape::default() };
    let packet = build(Protocol::Udp, endpoint("172.16.0.1:1"), endpoint("10.9.0.1:53"), &shape);
    let mut seen = HashSet::new();
    for _ in 0..100 {
        let fed = feed(&mut director, &packet, NOW);
        assert_eq!((fed.verdict, fed.queue.len()), (Verdict::Queued, 2));
        let ids: Vec<&[u8]> = fed.queue.iter().map(|(_, piece)| &piece[44..48]).collect();
        assert_eq!(ids[0], ids[1]);
        assert!(seen.insert(ids[0].to_vec()), "an identification came twice");
    }
}
