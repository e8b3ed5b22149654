//! The kernel's scheduler recordings through the whole director: real packets in, server of each flow out.
//!
//! The recordings are those of `lvs-sched` (see the README beside them). A UDP "open" is one datagram, a TCP
//! "open" a handshake, a "close" both FINs and the last ACK. Every server uses LVS/NAT, as in the recording.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use lvs_core::answer::IcmpLimits;
use lvs_core::ipvsadm::rules;
use lvs_core::{Config, Director, Endpoint, Environment, Instant, Protocol, Verdict};
use lvs_tests::packets::flags::{ACK, FIN, SYN};
use lvs_tests::packets::{Shape, build, endpoints, feed, protocol_of, transport_at};
use serde_json::Value;

#[test]
fn rr() {
    replay_all("rr", 9, 116);
}

#[test]
fn wrr() {
    replay_all("wrr", 18, 448);
}

#[test]
fn lc() {
    replay_all("lc", 9, 222);
}

#[test]
fn wlc() {
    replay_all("wlc", 9, 222);
}

#[test]
fn sh() {
    replay_all("sh", 23, 6581);
}

#[test]
fn mh() {
    replay_all("mh", 23, 6581);
}

/// Replays a file; `cases` and `picks` guard against a file that lost lines.
fn replay_all(scheduler: &str, cases: usize, picks: usize) {
    let name = format!("../lvs-sched/tests/data/sched-{scheduler}.jsonl");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = std::fs::read_to_string(&path).expect("the recordings are in the repository");
    let mut seen = (0, 0);
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case per line");
        seen.0 += 1;
        let mut replay = Replay::new(scheduler, &case);
        seen.1 += replay.run(&case["events"]);
        wrong.append(&mut replay.wrong);
    }
    assert!(wrong.is_empty(), "{} of {} events differ: {wrong:#?}", wrong.len(), seen.1);
    assert_eq!(seen, (cases, picks));
}

struct Replay {
    case: String,
    director: Director,
    protocol: Protocol,
    /// `-t 10.9.0.1:80`
    service: String,
    vip: Endpoint,
    addrs: Vec<String>,
    thresholds: Vec<(u64, u64)>,
    /// Client and server of every connection, in order of opening.
    connections: Vec<Option<(Endpoint, Endpoint)>>,
    now: u64,
    wrong: Vec<String>,
}

impl Replay {
    fn new(scheduler: &str, case: &Value) -> Self {
        let list = case["servers"].as_array().expect("servers");
        let protocol: Protocol = text(&case["proto"]).parse().expect("tcp or udp");
        let vip =
            Endpoint::new(text(&case["vip"]).parse().expect("an address"), number(&case["vport"]) as u16);
        let letter = if protocol == Protocol::Tcp { 't' } else { 'u' };
        let mut replay = Self {
            case: text(&case["case"]).to_owned(),
            director: Director::new(Config {
                environment: Environment {
                    addresses: ["10.0.2.1", "2001:db8:2::1"]
                        .map(|addr| addr.parse().expect("an address"))
                        .into(),
                    ..Environment::default()
                },
                icmp_limits: None::<IcmpLimits>,
                ..Config::default()
            }),
            protocol,
            service: format!("-{letter} {vip}"),
            vip,
            addrs: list.iter().map(|server| text(&server[0]).to_owned()).collect(),
            thresholds: list.iter().map(|server| (number(&server[2]), number(&server[3]))).collect(),
            connections: Vec::new(),
            now: 0,
            wrong: Vec::new(),
        };
        let mut add = format!("-A {} -s {scheduler}", replay.service);
        if !text(&case["flags"]).is_empty() {
            write!(add, " -b {}", text(&case["flags"])).expect("a string takes text");
        }
        if case["ops"] == true {
            add += " -o";
        }
        replay.apply(&add);
        for (server, recorded) in (0..number(&case["present"])).zip(list) {
            replay.add(server, number(&recorded[1]));
        }
        replay.check_order(&case["order"]);
        replay
    }

    fn run(&mut self, events: &Value) -> usize {
        let mut picks = 0;
        for event in events.as_array().expect("events") {
            match text(&event[0]) {
                "open" => {
                    picks += 1;
                    let client =
                        Endpoint::new(text(&event[2]).parse().expect("an address"), number(&event[3]) as u16);
                    let chosen = self.open(client);
                    let expected = event[4].as_u64().map(|server| self.addrs[server as usize].clone());
                    if chosen.map(|addr| addr.to_string()) != expected {
                        self.wrong.push(format!("{}: {event}: {chosen:?}", self.case));
                    }
                    self.check_counters(&event[5], event);
                }
                "close" => {
                    self.close(number(&event[1]) as usize);
                    self.check_counters(&event[2], event);
                }
                "weight" => {
                    let rule = self.server_rule('e', number(&event[1]), number(&event[2]));
                    self.apply(&rule);
                }
                "add" => {
                    self.add(number(&event[1]), number(&event[2]));
                    self.check_order(&event[3]);
                }
                "del" => {
                    let rule = format!("-d {} -r {}", self.service, self.server(number(&event[1])));
                    self.apply(&rule);
                    self.check_order(&event[2]);
                }
                other => panic!("{}: unknown event {other}", self.case),
            }
        }
        picks
    }

    /// Opens a flow; the server that was chosen, or `None` when the answer was "port unreachable".
    fn open(&mut self, client: Endpoint) -> Option<IpAddr> {
        let payload = if self.protocol == Protocol::Udp { 5 } else { 0 };
        let first = Shape { payload, ..Shape::default() };
        let (verdict, out) = self.send(client, self.vip, &first);
        let server = match verdict {
            Verdict::Transmit { next_hop } => {
                let (_, server) = endpoints(&out);
                assert_eq!(server.addr, next_hop, "{}", self.case);
                server
            }
            Verdict::Reply { next_hop } => {
                let icmp = transport_at(&out);
                let answer = (next_hop, protocol_of(&out), out[icmp], out[icmp + 1]);
                let unreachable = if client.addr.is_ipv4() { (1, 3, 3) } else { (58, 1, 4) };
                let (protocol, kind, code) = unreachable;
                assert_eq!(answer, (client.addr, protocol, kind, code), "{}", self.case);
                self.connections.push(None);
                return None;
            }
            other => panic!("{}: {other:?} for a new flow", self.case),
        };
        if self.protocol == Protocol::Tcp {
            self.pass(server, client, SYN | ACK);
            self.pass(client, self.vip, ACK);
        }
        self.connections.push(Some((client, server)));
        Some(server.addr)
    }

    fn close(&mut self, connection: usize) {
        let (client, server) = self.connections[connection].expect("a connection that was opened");
        self.pass(client, self.vip, FIN | ACK);
        self.pass(server, client, FIN | ACK);
        self.pass(client, self.vip, ACK);
    }

    /// Sends a packet that must be forwarded.
    fn pass(&mut self, src: Endpoint, dst: Endpoint, flags: u8) {
        let (verdict, _) = self.send(src, dst, &Shape { flags, ..Shape::default() });
        assert!(matches!(verdict, Verdict::Transmit { .. }), "{}: {verdict:?}", self.case);
    }

    fn send(&mut self, src: Endpoint, dst: Endpoint, shape: &Shape) -> (Verdict, Vec<u8>) {
        self.now += 1;
        let packet = build(self.protocol, src, dst, shape);
        let fed = feed(&mut self.director, &packet, Instant::from_millis(self.now));
        (fed.verdict, fed.bytes)
    }

    fn add(&mut self, server: u64, weight: u64) {
        let rule = self.server_rule('a', server, weight);
        self.apply(&rule);
    }

    fn server_rule(&self, verb: char, server: u64, weight: u64) -> String {
        let endpoint = self.server(server);
        let (upper, lower) = self.thresholds[server as usize];
        format!("-{verb} {} -r {endpoint} -m -w {weight} -x {upper} -y {lower}", self.service)
    }

    fn server(&self, server: u64) -> Endpoint {
        Endpoint::new(self.addrs[server as usize].parse().expect("an address"), self.vip.port)
    }

    fn apply(&mut self, rule: &str) {
        let lines = rules::parse(rule).expect("a rule");
        let commands: Vec<_> = lines.into_iter().map(|line| line.command).collect();
        self.director.apply(&commands, Instant::from_millis(self.now)).expect("it can be carried out");
    }

    fn check_order(&self, order: &Value) {
        let services = self.director.services();
        let ours: Vec<_> =
            services[0].servers.iter().map(|row| row.server.endpoint.addr.to_string()).collect();
        let order = order.as_array().expect("an order");
        let kernels: Vec<_> =
            order.iter().map(|server| self.addrs[number(server) as usize].clone()).collect();
        assert_eq!(ours, kernels, "{}: list order", self.case);
    }

    fn check_counters(&mut self, counters: &Value, event: &Value) {
        let services = self.director.services();
        for (addr, counter) in self.addrs.iter().zip(counters.as_array().into_iter().flatten()) {
            let rows = &services[0].servers;
            let Some(row) = rows.iter().find(|row| row.server.endpoint.addr.to_string() == *addr) else {
                continue;
            };
            let ours = (u64::from(row.active), u64::from(row.inactive));
            if ours != (number(&counter[0]), number(&counter[1])) {
                self.wrong.push(format!("{}: {event}: {addr} has {ours:?}", self.case));
            }
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
