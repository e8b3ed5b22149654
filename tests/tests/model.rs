//! Random commands and packets through the engine and through the reference director, compared after every step.
//!
//! `LVS_MODEL_SEEDS=n` runs seeds 0 to n (exclusive) instead of [`SEEDS`]; `LVS_MODEL_SEED=n` runs one seed. A
//! difference prints its seed and the fewest steps that still show it.

use std::fmt::Write;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lvs_core::answer::IcmpLimits;
use lvs_core::conn::{Capacity, Filter};
use lvs_core::service::{
    Command, ForwardingMethod, RealServer, ServiceKey, TimeoutSettings, Tunnel, VirtualService,
};
use lvs_core::wire::{HEADROOM, Packet, TAILROOM};
use lvs_core::{
    Config, Director, Endpoint, Environment, FullNatOptions, Instant, Limits, Protocol, Route,
    SchedulerFlags, SchedulerKind, Sysctl, Verdict, Weight,
};
use lvs_tests::packets::{self, Checksum, Fed, Shape, build, drain, endpoint, feed, flags};
use lvs_tests::random::Random;
use lvs_tests::reference::{Answer, Reference, Row, ServerNumbers, long_name};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2000;
/// Steps of one seed.
const STEPS: usize = 300;
/// A sixteenth of a second: the engine's clock, so that both end connections at the same step.
const TICK: u64 = 1_000_000_000 / 16;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Command(Command),
    /// A packet between any two endpoints.
    Packet(Protocol, Endpoint, Endpoint, Shape),
    /// A packet of the client of the connection at this place (modulo their number) of the sorted list.
    Follow(usize, Shape),
    /// A packet of the server of that connection.
    Answer(usize, Shape),
    /// Time passes, in ticks.
    Wait(u64),
    /// `handle_timeout`.
    Sweep,
}

#[test]
fn engine_and_reference_agree() {
    let one = std::env::var("LVS_MODEL_SEED").ok().map(|text| text.parse::<u64>().expect("a number"));
    let many = std::env::var("LVS_MODEL_SEEDS").map_or(SEEDS, |text| text.parse().expect("a number"));
    let seeds = one.map_or(0..many, |seed| seed..seed + 1);
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        let (config, steps) = scenario(seed);
        if let Err(why) = run(&config, &steps, &mut seen) {
            let (steps, why) = minimise(&config, steps, why);
            let mut list = String::new();
            for step in &steps {
                writeln!(list, "    {step:?}").expect("a string takes text");
            }
            panic!("seed {seed}: {why}\nswitches: {:?}\nsteps:\n{list}", config.sysctl);
        }
    }
    // A generator that no longer reaches the interesting places must not go unnoticed.
    if one.is_none() {
        let per_seed = |count: u64| count / (seeds.end - seeds.start);
        assert!(per_seed(seen.transmitted) >= 60, "{seen:?}");
        assert!(per_seed(seen.replied) >= 5 && per_seed(seen.passed) >= 5 && seen.queued > 0, "{seen:?}");
        assert!(seen.dropped > 0 && seen.expired > 0 && per_seed(seen.conns) >= 10, "{seen:?}");
    }
}

/// What the runs came across.
#[derive(Debug, Default)]
struct Seen {
    transmitted: u64,
    replied: u64,
    passed: u64,
    queued: u64,
    dropped: u64,
    expired: u64,
    conns: u64,
}

/// Drops steps as long as what is left still fails.
fn minimise(config: &Config, mut steps: Vec<Step>, mut why: String) -> (Vec<Step>, String) {
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match run(config, &fewer, &mut Seen::default()) {
                Err(still) => (steps, why) = (fewer, still),
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    (steps, why)
}

/// Runs steps through both; the first difference is the error. A panic of either is a difference too.
fn run(config: &Config, steps: &[Step], seen: &mut Seen) -> Result<(), String> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut pair = Pair {
            engine: Director::new(config.clone()),
            reference: Reference::new(config.clone()),
            now: Instant::from_secs(1000),
        };
        for (n, step) in steps.iter().enumerate() {
            pair.step(step).map_err(|why| format!("step {n}: {why}"))?;
        }
        let counters = pair.engine.counters();
        seen.transmitted += counters.transmitted;
        seen.replied += counters.replied;
        seen.passed += counters.passed;
        seen.queued += counters.queued;
        seen.dropped += counters.dropped_total();
        seen.expired += counters.expired;
        seen.conns += pair.reference.len() as u64;
        Ok(())
    }));
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| panic.downcast_ref::<&str>().map_or("panic", |text| text).to_owned()))
    })
}

struct Pair {
    engine: Director,
    reference: Reference,
    now: Instant,
}

impl Pair {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Command(command) => {
                let engine = self.engine.apply(std::slice::from_ref(command), self.now);
                let reference = self.reference.apply(command, self.now);
                if engine.is_ok() != reference {
                    return Err(format!("{command:?}: engine {engine:?}, reference {reference}"));
                }
            }
            Step::Packet(protocol, src, dst, shape) => {
                self.packet(&build(*protocol, *src, *dst, shape))?;
            }
            Step::Follow(place, shape) => {
                let rows = self.reference.connections();
                let Some(row) = rows.get(place % rows.len().max(1)) else { return Ok(()) };
                self.packet(&build(row.protocol, row.client, row.service, shape))?;
            }
            Step::Answer(place, shape) => {
                let rows = self.reference.connections();
                let Some(row) = rows.get(place % rows.len().max(1)) else { return Ok(()) };
                // A tunnel may lead into the other family; its server does not answer this way.
                if row.server.addr.is_ipv4() == row.local.addr.is_ipv4() {
                    self.packet(&build(row.protocol, row.server, row.local, shape))?;
                }
            }
            Step::Wait(ticks) => self.now = Instant::from_nanos(self.now.as_nanos() + ticks * TICK),
            Step::Sweep => {
                self.engine.handle_timeout(self.now);
                self.reference.sweep(self.now);
                if self.engine.poll_timeout().is_some_and(|due| due <= self.now) {
                    return Err("handle_timeout left something to do".to_owned());
                }
            }
        }
        self.compare_tables()
    }

    fn packet(&mut self, bytes: &[u8]) -> Result<(), String> {
        let fed = feed(&mut self.engine, bytes, self.now);
        let first = match fed.verdict {
            Verdict::Transmit { .. } => Some(&fed.bytes),
            Verdict::Queued => fed.queue.first().map(|(_, packet)| packet),
            _ => None,
        };
        let chosen = first.map(|packet| packets::endpoints(packet).0);
        let expected = self.reference.process(bytes, chosen, self.now);
        if let Some(why) = difference(&fed, &expected, bytes) {
            return Err(format!(
                "{why}\n  in     {}\n{}{}",
                hex(bytes),
                engine_text(&fed),
                reference_text(&expected)
            ));
        }
        let counters = self.engine.counters();
        let sum = counters.transmitted + counters.replied + counters.passed + counters.queued;
        if counters.received != sum + counters.dropped_total() {
            return Err(format!("not every packet is counted once: {counters:?}"));
        }
        Ok(())
    }

    fn compare_tables(&self) -> Result<(), String> {
        let mut ours: Vec<Row> = self
            .engine
            .connections(Filter::default())
            .map(|(_, conn)| Row {
                protocol: conn.protocol,
                client: conn.client,
                service: conn.service,
                server: conn.server,
                local: conn.local,
                state: conn.state.name(),
                expires: conn.expires.as_nanos(),
            })
            .collect();
        ours.sort();
        let mut theirs = self.reference.connections();
        for row in &mut theirs {
            row.state = long_name(row.state);
        }
        theirs.sort();
        if ours != theirs {
            return Err(format!("connections\n  engine    {ours:#?}\n  reference {theirs:#?}"));
        }
        let services = self.engine.services();
        let ours: Vec<_> = services
            .iter()
            .map(|row| {
                let servers: Vec<_> = row
                    .servers
                    .iter()
                    .map(|server| ServerNumbers {
                        endpoint: server.server.endpoint,
                        active: server.active,
                        inactive: server.inactive,
                        numbers: [
                            server.stats.connections,
                            server.stats.in_packets,
                            server.stats.out_packets,
                            server.stats.in_bytes,
                            server.stats.out_bytes,
                        ],
                    })
                    .collect();
                (row.service.key, servers)
            })
            .collect();
        let theirs = self.reference.tables();
        if ours != theirs {
            return Err(format!("servers\n  engine    {ours:?}\n  reference {theirs:?}"));
        }
        match (self.engine.poll_timeout(), self.reference.first_expiry()) {
            (due, Some(end)) if due.is_none_or(|due| due > end) => {
                Err(format!("a connection ends at {end:?}, poll_timeout says {due:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// What differs, if anything does.
fn difference(fed: &Fed, expected: &Answer, bytes: &[u8]) -> Option<String> {
    match (fed.verdict, expected) {
        (Verdict::Pass, Answer::Pass) => {
            (fed.bytes != bytes).then(|| "a passed packet was changed".to_owned())
        }
        (Verdict::Drop(ours), Answer::Drop(theirs)) => {
            (ours != *theirs).then(|| "another drop reason".to_owned())
        }
        (Verdict::Reply { next_hop }, Answer::Reply { to, packet }) => {
            let same = next_hop == *to && masked(&fed.bytes, true, false) == masked(packet, true, false);
            (!same).then(|| "another reply".to_owned())
        }
        (
            Verdict::Transmit { next_hop },
            Answer::Transmit { next_hop: hop, pieces, own_header, wrong_checksum },
        ) => {
            let same = pieces.len() == 1
                && next_hop == *hop
                && masked(&fed.bytes, *own_header, *wrong_checksum)
                    == masked(&pieces[0], *own_header, *wrong_checksum);
            (!same).then(|| "another packet".to_owned())
        }
        (Verdict::Queued, Answer::Transmit { next_hop, pieces, own_header, wrong_checksum }) => {
            let way = Verdict::Transmit { next_hop: *next_hop };
            let same = fed.queue.len() == pieces.len()
                && pieces.len() > 1
                && fed.queue.iter().zip(pieces).all(|((verdict, ours), theirs)| {
                    *verdict == way
                        && masked(ours, *own_header, *wrong_checksum)
                            == masked(theirs, *own_header, *wrong_checksum)
                });
            (!same).then(|| "other fragments".to_owned())
        }
        _ => Some("another verdict".to_owned()),
    }
}

/// A packet without what the director draws: the identification of a header of its own (and so the header's
/// checksum, which is checked here). `None` when an IPv4 header checksum is wrong.
fn masked(packet: &[u8], own_header: bool, wrong_checksum: bool) -> Option<Vec<u8>> {
    if !packets::ipv4_checksum_is_right(packet) {
        return None;
    }
    let mut packet = packet.to_vec();
    let is_first = packet[0] >> 4 == 6 || packets::word(&packet, 6) & 0x1fff == 0;
    if own_header && packet[0] >> 4 == 4 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    } else if own_header && packet[6] == 44 {
        packet[44..48].fill(0);
    }
    if wrong_checksum && !own_header && is_first {
        let at = packets::checksum_at(&packet)?;
        if packets::word(&packet, at) == 0xffff {
            packet[at..at + 2].fill(0);
        }
    }
    Some(packet)
}

// ---- scenarios ----

const CLIENTS_V4: [&str; 4] = ["172.16.0.1", "172.16.0.2", "172.16.0.3", "10.0.2.11"];
const CLIENTS_V6: [&str; 3] = ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::3"];
const VIPS_V4: [&str; 2] = ["10.9.0.1", "10.9.0.2"];
const VIPS_V6: [&str; 2] = ["2001:db8:9::1", "2001:db8:9::2"];
const SERVERS_V4: [&str; 4] = ["10.0.2.11", "10.0.2.12", "10.0.2.13", "10.0.2.14"];
const SERVERS_V6: [&str; 3] = ["2001:db8:2::11", "2001:db8:2::12", "2001:db8:2::13"];
const LOCALS: [&str; 3] = ["10.0.2.201", "10.0.2.202", "2001:db8:2::201"];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn scenario(seed: u64) -> (Config, Vec<Step>) {
    let mut random = Random::new(seed);
    let config = config(&mut random, seed);
    let mut steps = Vec::new();
    for key in service_keys() {
        if random.chance(85) {
            steps.push(Step::Command(Command::AddService(service(&mut random, key))));
            for _ in 0..random.below(4) + 1 {
                steps.push(Step::Command(Command::AddServer(key, server(&mut random, key))));
            }
        }
    }
    while steps.len() < STEPS {
        steps.push(step(&mut random));
    }
    (config, steps)
}

fn config(random: &mut Random, seed: u64) -> Config {
    let route = |to: &str, mtu| Route { prefix: to.parse().expect("a prefix"), mtu };
    let ports = if random.chance(50) { 1024..=1029 } else { 1024..=65535 };
    Config {
        limits: Limits {
            connections: Capacity { ipv4: 2048, ipv6: 2048 },
            local_ports: ports,
            ..Limits::default()
        },
        sysctl: Sysctl {
            conn_reuse_mode: random.below(4) as u8,
            expire_nodest_conn: random.chance(50),
            nat_icmp_send: random.chance(50),
            pmtu_disc: random.chance(70),
            sloppy_tcp: random.chance(30),
            ..Sysctl::default()
        },
        environment: Environment {
            addresses: vec![addr("10.0.2.1"), addr("2001:db8:2::1")],
            mtu: 1500,
            routes: vec![
                route("10.0.2.13", 600),
                route("10.0.0.0/16", 1480),
                route("10.0.2.14", 80),
                route("2001:db8:2::12", 1280),
                route("172.16.0.3", 576),
            ],
        },
        fullnat: FullNatOptions { toa: random.chance(50), blank_timestamp: false },
        icmp_limits: None::<IcmpLimits>,
        seed,
        ..Config::default()
    }
}

fn service_keys() -> Vec<ServiceKey> {
    let mut keys = Vec::new();
    for vip in VIPS_V4.iter().chain(&VIPS_V6) {
        for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
            keys.push(ServiceKey::Address { protocol, endpoint: Endpoint::new(addr(vip), port) });
        }
    }
    keys
}

fn of_key(key: ServiceKey) -> (Protocol, Endpoint) {
    match key {
        ServiceKey::Address { protocol, endpoint } => (protocol, endpoint),
        ServiceKey::Mark { .. } => panic!("no marks here"),
    }
}

fn service(random: &mut Random, key: ServiceKey) -> VirtualService {
    let kind = random.pick(&[
        SchedulerKind::RoundRobin,
        SchedulerKind::WeightedRoundRobin,
        SchedulerKind::LeastConnection,
        SchedulerKind::WeightedLeastConnection,
        SchedulerKind::SourceHashing,
        SchedulerKind::MaglevHashing,
    ]);
    let mut service = VirtualService::new(key, kind);
    if matches!(kind, SchedulerKind::SourceHashing | SchedulerKind::MaglevHashing) {
        let text = match (kind, random.below(4)) {
            (_, 0) => "",
            (SchedulerKind::SourceHashing, 1) => "sh-port",
            (SchedulerKind::SourceHashing, 2) => "sh-fallback",
            (SchedulerKind::SourceHashing, _) => "sh-port,sh-fallback",
            (_, 1) => "mh-port",
            (_, 2) => "mh-fallback",
            _ => "mh-port,mh-fallback",
        };
        service.flags = SchedulerFlags::parse(kind, text).expect("flags of this scheduler");
    }
    if random.chance(80) {
        service.local_addresses = LOCALS.map(addr).into();
    }
    service
}

fn server(random: &mut Random, key: ServiceKey) -> RealServer {
    let (protocol, vip) = of_key(key);
    let method = random.pick(&[
        ForwardingMethod::Masquerade,
        ForwardingMethod::Masquerade,
        ForwardingMethod::DirectRoute,
        ForwardingMethod::Tunnel(Tunnel::Ipip),
        ForwardingMethod::FullNat,
    ]);
    let tunnel = matches!(method, ForwardingMethod::Tunnel(_));
    let other_family = random.chance(if tunnel { 40 } else { 2 });
    let addrs: &[&str] = if vip.addr.is_ipv4() == other_family { &SERVERS_V6 } else { &SERVERS_V4 };
    let port = match protocol {
        Protocol::Tcp if random.chance(50) => 8080,
        _ => vip.port,
    };
    let mut server = RealServer::new(Endpoint::new(addr(random.pick(addrs)), port), method);
    server.weight = Weight::new(random.pick(&[0, 1, 1, 2, 3, 4, 6, 100])).expect("in range");
    if random.chance(25) {
        server.upper_threshold = random.below(6) as u32;
        server.lower_threshold = random.below(5) as u32;
    }
    server
}

fn client(random: &mut Random, v4: bool) -> Endpoint {
    let host = if v4 { random.pick(&CLIENTS_V4) } else { random.pick(&CLIENTS_V6) };
    Endpoint::new(addr(host), random.pick(&[1024, 40000, 40001, 65535, 20, 80]))
}

fn shape(random: &mut Random) -> Shape {
    use flags::{ACK, FIN, PSH, RST, SYN};
    let odd = [0, SYN | FIN, SYN | RST, FIN, FIN | RST, 0xff, PSH, 0x20];
    let flags = match random.below(100) {
        0..35 => SYN,
        35..58 => ACK,
        58..72 => FIN | ACK,
        72..78 => RST,
        78..81 => RST | ACK,
        81..87 => SYN | ACK,
        87..93 => PSH | ACK,
        _ => random.pick(&odd),
    };
    Shape {
        flags,
        ttl: if random.chance(90) { 64 } else { random.pick(&[0, 1, 1, 2, 255]) },
        tos: random.pick(&[0, 0, 3, 2, 0xb9, 0xff]),
        id: random.word() as u16,
        dont_fragment: random.chance(60),
        payload: match random.below(10) {
            0..6 => random.below(60) as usize,
            6..8 => random.below(700) as usize + 400,
            _ => random.below(240) as usize + 1240,
        },
        checksum: match random.below(20) {
            0 => Checksum::None,
            1 | 2 => Checksum::Wrong(random.below(0xfffe) as u16 + 1),
            _ => Checksum::Right,
        },
    }
}

fn step(random: &mut Random) -> Step {
    let keys = service_keys();
    let key = random.pick(&keys);
    let (protocol, vip) = of_key(key);
    let v4 = vip.addr.is_ipv4();
    match random.below(100) {
        0..36 => Step::Packet(protocol, client(random, v4), vip, shape(random)),
        36..38 => {
            let elsewhere = Endpoint::new(vip.addr, random.pick(&[80, 53, 81, 0]));
            Step::Packet(protocol, client(random, v4), elsewhere, shape(random))
        }
        38..56 => Step::Follow(random.word() as usize, shape(random)),
        56..74 => Step::Answer(random.word() as usize, shape(random)),
        74..77 => {
            let host = if v4 { random.pick(&SERVERS_V4) } else { random.pick(&SERVERS_V6) };
            let src = Endpoint::new(addr(host), random.pick(&[80, 8080, 53]));
            Step::Packet(protocol, src, client(random, v4), shape(random))
        }
        77..78 => {
            let src =
                endpoint(random.pick(&["127.0.0.1:1", "224.0.0.1:1", "255.255.255.255:1", "0.0.0.0:1"]));
            Step::Packet(protocol, src, endpoint("10.9.0.1:80"), shape(random))
        }
        78..85 => Step::Wait(random.below(64) + 1),
        85..88 => Step::Wait(16 * random.pick(&[2, 10, 30, 60, 119, 120, 300, 900])),
        88..92 => Step::Sweep,
        _ => Step::Command(command(random, key)),
    }
}

fn command(random: &mut Random, key: ServiceKey) -> Command {
    match random.below(100) {
        0..4 => Command::AddService(service(random, key)),
        4..12 => Command::EditService(service(random, key)),
        12..14 => Command::DeleteService(key),
        14..40 => Command::AddServer(key, server(random, key)),
        40..78 => Command::EditServer(key, server(random, key)),
        78..96 => Command::DeleteServer(key, server(random, key).endpoint),
        _ => {
            let seconds = |random: &mut Random| std::time::Duration::from_secs(random.below(40));
            Command::SetTimeouts(TimeoutSettings {
                tcp: seconds(random),
                tcp_fin: seconds(random),
                udp: seconds(random),
            })
        }
    }
}

// ---- one by one and in batches ----

#[test]
fn batches_give_the_same_verdicts_and_bytes() {
    for seed in 0..40 {
        let mut random = Random::new(seed ^ 0xba7c);
        let (config, steps) = scenario(seed);
        let (mut single, mut batch) = (Director::new(config.clone()), Director::new(config));
        let mut now = Instant::from_secs(1000);
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            if let Step::Packet(protocol, src, dst, shape) = &step {
                // A datagram in one packet and its answer in the same batch: order must be kept.
                waiting.push(build(*protocol, *src, *dst, shape));
                waiting.push(build(*protocol, *dst, *src, shape));
                if random.chance(97) {
                    continue;
                }
            }
            compare_batch(&mut single, &mut batch, &mut waiting, now, seed);
            match step {
                Step::Command(command) => {
                    let command = [command];
                    assert_eq!(single.apply(&command, now), batch.apply(&command, now));
                }
                Step::Wait(ticks) => now = Instant::from_nanos(now.as_nanos() + ticks * TICK),
                Step::Sweep => {
                    single.handle_timeout(now);
                    batch.handle_timeout(now);
                }
                // The connections to follow are those of one director; both have the same.
                Step::Follow(place, shape) | Step::Answer(place, shape) => {
                    let rows: Vec<_> = single.connections(Filter::default()).collect();
                    if let Some((_, conn)) = rows.get(place % rows.len().max(1)) {
                        waiting.push(build(conn.protocol, conn.client, conn.service, &shape));
                        waiting.push(build(conn.protocol, conn.client, conn.service, &shape));
                    }
                }
                Step::Packet(..) => {}
            }
        }
        compare_batch(&mut single, &mut batch, &mut waiting, now, seed);
        assert_eq!(single.counters(), batch.counters());
    }
}

fn compare_batch(
    single: &mut Director,
    batch: &mut Director,
    waiting: &mut Vec<Vec<u8>>,
    now: Instant,
    seed: u64,
) {
    let mut queue = Vec::new();
    let one_by_one: Vec<_> = waiting
        .iter()
        .map(|bytes| {
            let fed = feed(single, bytes, now);
            queue.extend(fed.queue);
            (fed.verdict, fed.bytes)
        })
        .collect();
    let mut buffers: Vec<Vec<u8>> =
        waiting.drain(..).map(|bytes| [vec![0; HEADROOM], bytes, vec![0; TAILROOM]].concat()).collect();
    let mut packets: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| {
            let end = buffer.len() - TAILROOM;
            Packet::new(buffer, HEADROOM, end).expect("inside the buffer")
        })
        .collect();
    let mut verdicts = Vec::new();
    batch.process_batch(&mut packets, now, &mut verdicts);
    let batched: Vec<_> = verdicts
        .into_iter()
        .zip(&packets)
        .map(|(verdict, packet)| (verdict, packet.bytes().to_vec()))
        .collect();
    assert_eq!(one_by_one.len(), batched.len(), "seed {seed}");
    for (n, (single, batched)) in one_by_one.iter().zip(&batched).enumerate() {
        assert_eq!(single, batched, "seed {seed}, packet {n} of the batch");
    }
    assert_eq!(queue, drain(batch), "seed {seed}");
}

fn engine_text(fed: &Fed) -> String {
    let mut text = format!("  engine {:?}\n", fed.verdict);
    if fed.verdict.next_hop().is_some() {
        writeln!(text, "         {}", hex(&fed.bytes)).expect("a string takes text");
    }
    for (verdict, packet) in &fed.queue {
        writeln!(text, "         {verdict:?} {}", hex(packet)).expect("a string takes text");
    }
    text
}

fn reference_text(answer: &Answer) -> String {
    match answer {
        Answer::Transmit { next_hop, pieces, .. } => {
            let mut text = format!("  expected transmit to {next_hop}\n");
            for piece in pieces {
                writeln!(text, "         {}", hex(piece)).expect("a string takes text");
            }
            text
        }
        Answer::Reply { to, packet } => format!("  expected reply to {to}\n         {}\n", hex(packet)),
        other => format!("  expected {other:?}\n"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes text");
        text
    })
}
