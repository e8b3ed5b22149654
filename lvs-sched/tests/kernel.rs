//! Replays recordings of the Linux kernel's schedulers (`tests/data`): every choice and every counter.

use std::collections::HashMap;

use lvs_sched::{
    Change, Endpoint, Flow, Instant, Protocol, Scheduler, SchedulerFlags, SchedulerKind, Server, ServerId,
    Thresholds, Weight,
};
use serde_json::Value;

#[test]
fn rr() {
    replay_all(SchedulerKind::RoundRobin, include_str!("data/sched-rr.jsonl"), 9, 116);
}

#[test]
fn wrr() {
    replay_all(SchedulerKind::WeightedRoundRobin, include_str!("data/sched-wrr.jsonl"), 18, 448);
}

#[test]
fn lc() {
    replay_all(SchedulerKind::LeastConnection, include_str!("data/sched-lc.jsonl"), 9, 222);
}

#[test]
fn wlc() {
    replay_all(SchedulerKind::WeightedLeastConnection, include_str!("data/sched-wlc.jsonl"), 9, 222);
}

#[test]
fn sh() {
    replay_all(SchedulerKind::SourceHashing, include_str!("data/sched-sh.jsonl"), 23, 6581);
}

#[test]
fn mh() {
    replay_all(SchedulerKind::MaglevHashing, include_str!("data/sched-mh.jsonl"), 23, 6581);
}

/// Replays a file; `cases` and `picks` guard against a file that lost lines.
fn replay_all(kind: SchedulerKind, recording: &str, cases: usize, picks: usize) {
    let mut seen = (0, 0);
    for line in recording.lines() {
        let case: Value = serde_json::from_str(line).expect("a case per line");
        seen.0 += 1;
        seen.1 += Replay::new(kind, &case).run(&case["events"]);
    }
    assert_eq!(seen, (cases, picks));
}

struct Replay {
    name: String,
    scheduler: Box<dyn Scheduler>,
    /// In the kernel's list order; the id is the server's position in the recording.
    servers: Vec<Server>,
    thresholds: Vec<Thresholds>,
    /// Servers that have left: the kernel gives a returning one its counters back.
    trash: HashMap<u32, Server>,
    protocol: Protocol,
    one_packet: bool,
    service: Endpoint,
    addrs: Vec<String>,
    /// Chosen server of every connection, in order of opening.
    connections: HashMap<u64, Server>,
    /// UDP clients that have a connection.
    clients: HashMap<Endpoint, Server>,
}

impl Replay {
    fn new(kind: SchedulerKind, case: &Value) -> Self {
        let recorded = case["servers"].as_array().expect("servers");
        let vport = number(&case["vport"]) as u16;
        let flags = SchedulerFlags::parse(kind, text(&case["flags"])).expect("flags of this scheduler");
        let threshold = |server: &Value| {
            Thresholds::new(number(&server[2]) as u32, number(&server[3]) as u32).expect("in order")
        };
        let mut replay = Self {
            name: text(&case["case"]).to_owned(),
            scheduler: kind.build(flags),
            servers: Vec::new(),
            thresholds: recorded.iter().map(threshold).collect(),
            trash: HashMap::new(),
            protocol: text(&case["proto"]).parse().expect("tcp or udp"),
            one_packet: case["ops"] == true,
            service: endpoint(text(&case["vip"]), vport),
            addrs: recorded.iter().map(|server| text(&server[0]).to_owned()).collect(),
            connections: HashMap::new(),
            clients: HashMap::new(),
        };
        for (id, server) in (0..number(&case["present"])).zip(recorded) {
            replay.add(id as u32, number(&server[1]) as u32);
        }
        replay.check_order(&case["order"]);
        replay
    }

    /// Returns the number of choices.
    fn run(mut self, events: &Value) -> usize {
        let mut picks = 0;
        for (step, event) in events.as_array().expect("events").iter().enumerate() {
            let counters = match text(&event[0]) {
                "open" => {
                    picks += 1;
                    let client = endpoint(text(&event[2]), number(&event[3]) as u16);
                    let chosen = self.open(number(&event[1]), client).map(u64::from);
                    assert_eq!(chosen, event[4].as_u64(), "{} step {step}: {event}", self.name);
                    &event[5]
                }
                "close" => {
                    self.close(number(&event[1]));
                    &event[2]
                }
                "weight" => {
                    self.set_weight(number(&event[1]) as u32, number(&event[2]) as u32);
                    &Value::Null
                }
                "add" => {
                    self.add(number(&event[1]) as u32, number(&event[2]) as u32);
                    self.check_order(&event[3]);
                    &Value::Null
                }
                "del" => {
                    self.remove(number(&event[1]) as u32);
                    self.check_order(&event[2]);
                    &Value::Null
                }
                other => panic!("{}: unknown event {other}", self.name),
            };
            if !counters.is_null() {
                self.check_counters(counters, step);
            }
        }
        picks
    }

    fn open(&mut self, connection: u64, client: Endpoint) -> Option<u32> {
        let sticks = self.protocol == Protocol::Udp && !self.one_packet;
        if sticks && let Some(server) = self.clients.get(&client) {
            return Some(server.id.0);
        }
        let flow = Flow { protocol: self.protocol, client, service: self.service };
        let index = self.scheduler.schedule(&flow, &self.servers, Instant::ZERO)?;
        let server = self.servers[index].clone();
        if !self.one_packet {
            match self.protocol {
                Protocol::Udp => server.load.add_inactive(),
                _ => server.load.add_active(),
            }
            self.thresholds[server.id.0 as usize].opened(&server.load);
        }
        self.clients.insert(client, server.clone());
        let id = server.id.0;
        self.connections.insert(connection, server);
        Some(id)
    }

    fn close(&mut self, connection: u64) {
        let server = &self.connections[&connection];
        server.load.sub_active();
        server.load.add_inactive();
    }

    fn set_weight(&mut self, id: u32, weight: u32) {
        let index = self.position(id);
        self.servers[index].set_weight(Weight::new(weight).expect("in range"));
        self.scheduler.changed(Change::Edited { index }, &self.servers);
    }

    fn add(&mut self, id: u32, weight: u32) {
        let key = endpoint(&self.addrs[id as usize], self.service.port);
        let mut server = Server::new(ServerId(id), key, Weight::new(weight).expect("in range"));
        if let Some(old) = self.trash.remove(&id) {
            server.load = old.load;
        }
        self.servers.insert(0, server);
        self.scheduler.changed(Change::Added { index: 0 }, &self.servers);
    }

    fn remove(&mut self, id: u32) {
        let index = self.position(id);
        let server = self.servers.remove(index);
        self.trash.insert(id, server);
        self.scheduler.changed(Change::Removed { index, id: ServerId(id) }, &self.servers);
    }

    fn position(&self, id: u32) -> usize {
        self.servers.iter().position(|server| server.id == ServerId(id)).expect("the server is in the list")
    }

    fn check_order(&self, order: &Value) {
        let ours: Vec<u64> = self.servers.iter().map(|server| server.id.0.into()).collect();
        let kernel: Vec<u64> = order.as_array().expect("an order").iter().map(number).collect();
        assert_eq!(ours, kernel, "{}: list order", self.name);
    }

    fn check_counters(&self, counters: &Value, step: usize) {
        for (id, counter) in (0..).zip(counters.as_array().expect("counters")) {
            let Some(server) = self.servers.iter().find(|server| server.id == ServerId(id)) else { continue };
            let ours = (u64::from(server.load.active()), u64::from(server.load.inactive()));
            assert_eq!(ours, (number(&counter[0]), number(&counter[1])), "{} step {step}", self.name);
        }
    }
}

fn endpoint(addr: &str, port: u16) -> Endpoint {
    Endpoint::new(addr.parse().expect("an address"), port)
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
