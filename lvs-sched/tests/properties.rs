//! Properties that hold for every list of servers and every sequence of changes.

use lvs_sched::{
    Change, Endpoint, Flow, Instant, LeastConnection, Load, Maglev, MaglevHashing, MhTableIndex, Overhead,
    Protocol, RoundRobin, Scheduler, SchedulerFlags, SchedulerKind, Server, ServerId, Weight,
    WeightedLeastConnection, WeightedRoundRobin,
};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// No sequence of changes makes a scheduler panic, leave the list or choose an unavailable server.
    #[test]
    fn only_available_servers_are_chosen(
        kind in prop::sample::select(SchedulerKind::ALL.to_vec()),
        flags in (0u8..4).prop_map(SchedulerFlags::from_bits_truncate),
        steps in vec(step(), 0..80),
    ) {
        let mut list = List::default();
        let mut scheduler = kind.build(flags);
        for step in steps {
            list.apply(step, &mut *scheduler);
            if let Some(index) = scheduler.schedule(&flow(step.client), &list.servers, Instant::ZERO) {
                prop_assert!(index < list.servers.len());
                prop_assert!(list.servers[index].is_available());
            }
        }
    }

    /// While a server is available these schedulers find one.
    #[test]
    fn somebody_is_chosen_while_somebody_is_available(
        kind in prop::sample::select(vec![
            SchedulerKind::RoundRobin, SchedulerKind::WeightedRoundRobin, SchedulerKind::LeastConnection,
            SchedulerKind::WeightedLeastConnection, SchedulerKind::Maglev,
        ]),
        steps in vec(step(), 0..60),
    ) {
        let mut list = List::default();
        let mut scheduler = kind.build(SchedulerFlags::FALLBACK);
        for step in steps {
            list.apply(step, &mut *scheduler);
            let chosen = scheduler.schedule(&flow(step.client), &list.servers, Instant::ZERO);
            prop_assert_eq!(chosen.is_some(), list.servers.iter().any(Server::is_available));
        }
    }

    /// `rr` agrees with a cursor on a linked list that knows its neighbours by name.
    #[test]
    fn rr_is_a_cursor_on_a_linked_list(steps in vec(step(), 0..120)) {
        let mut list = List::default();
        let mut ours = RoundRobin::new();
        let mut cursor: Option<ServerId> = None;
        for step in steps {
            let before: Vec<ServerId> = list.servers.iter().map(|server| server.id).collect();
            list.apply(step, &mut ours);
            // A removed cursor steps back to its former neighbour.
            if let Some(id) = cursor && !list.servers.iter().any(|server| server.id == id) {
                let index = before.iter().position(|other| *other == id).expect("it was in the list");
                cursor = index.checked_sub(1).map(|previous| before[previous]);
            }
            let at = cursor.and_then(|id| list.servers.iter().position(|server| server.id == id));
            let count = list.servers.len();
            let model = (1..=count)
                .map(|offset| at.map_or(offset - 1, |at| (at + offset) % count))
                .find(|&index| list.servers[index].is_available());
            let chosen = ours.schedule(&flow(0), &list.servers, Instant::ZERO);
            prop_assert_eq!(chosen, model);
            if let Some(index) = model {
                cursor = Some(list.servers[index].id);
            }
        }
    }

    /// `wrr` agrees with the plain walk that goes down level by level.
    #[test]
    fn wrr_is_a_walk_over_levels(steps in vec(step(), 0..120)) {
        let mut list = List::default();
        let mut pair = Both { ours: WeightedRoundRobin::new(), model: LevelWalk::default() };
        for step in steps {
            list.apply(step, &mut pair);
            let chosen = pair.ours.schedule(&flow(0), &list.servers, Instant::ZERO);
            prop_assert_eq!(chosen, pair.model.schedule(&flow(0), &list.servers, Instant::ZERO));
        }
    }

    /// `rr` gives every available server its turn before any has two.
    #[test]
    fn rr_is_fair(count in 1usize..20, rounds in 1usize..5) {
        let servers = equal_servers(count);
        let mut rr = RoundRobin::new();
        let mut turns = vec![0; count];
        for _ in 0..count * rounds {
            turns[rr.schedule(&flow(0), &servers, Instant::ZERO).expect("all are available")] += 1;
        }
        prop_assert_eq!(turns, vec![rounds; count]);
    }

    /// One cycle of `wrr` chooses each server exactly weight ÷ gcd times, from any place in the cycle.
    #[test]
    fn wrr_shares_are_exact(weights in vec(0u32..30, 1..8), skipped in 0usize..50) {
        let servers = weighted_servers(&weights);
        let divisor = weights.iter().fold(0, |a, &b| gcd(a, b));
        prop_assume!(divisor > 0);
        let cycle: u32 = weights.iter().map(|weight| weight / divisor).sum();
        let mut wrr = WeightedRoundRobin::new();
        let mut turns = vec![0; weights.len()];
        for turn in 0..skipped + cycle as usize {
            let index = wrr.schedule(&flow(0), &servers, Instant::ZERO).expect("a weight is above 0");
            if turn >= skipped {
                turns[index] += 1;
            }
        }
        prop_assert_eq!(turns, weights.iter().map(|weight| weight / divisor).collect::<Vec<_>>());
    }

    /// When connections stay, `wlc` fills servers in proportion to their weights, to within one connection.
    #[test]
    fn wlc_balances(weights in vec(1u32..20, 1..8), rounds in 1u32..5) {
        let servers = weighted_servers(&weights);
        let total: u32 = weights.iter().sum();
        let mut wlc = WeightedLeastConnection::new();
        for _ in 0..total * rounds {
            let index = wlc.schedule(&flow(0), &servers, Instant::ZERO).expect("all are available");
            servers[index].load.add_active();
        }
        for (server, weight) in servers.iter().zip(&weights) {
            prop_assert!(server.load.active().abs_diff(weight * rounds) <= 1, "{:?}", servers);
        }
    }

    /// `wlc` chooses the first server with the smallest overhead ÷ weight, and `lc` with equal weights alike.
    #[test]
    fn wlc_takes_the_smallest_quotient(
        rows in vec((0u32..4, 0u32..600, 1u32..6), 1..8),
        overhead in prop::sample::select(vec![Overhead::Classic, Overhead::TotalConns]),
    ) {
        let servers = weighted_servers(&rows.iter().map(|row| row.2).collect::<Vec<_>>());
        for (server, &(active, inactive, _)) in servers.iter().zip(&rows) {
            (0..active).for_each(|_| server.load.add_active());
            (0..inactive).for_each(|_| server.load.add_inactive());
        }
        // 60 is a multiple of all weights, so the quotients are whole.
        let quotient = |server: &Server| overhead.of(&server.load) * 60 / u64::from(server.weight.get());
        let smallest = |key: &dyn Fn(&Server) -> u64| {
            let least = servers.iter().map(key).min();
            servers.iter().position(|server| Some(key(server)) == least)
        };
        let wlc = WeightedLeastConnection::with_overhead(overhead).schedule(&flow(0), &servers, Instant::ZERO);
        prop_assert_eq!(wlc, smallest(&quotient));
        let lc = LeastConnection::with_overhead(overhead).schedule(&flow(0), &servers, Instant::ZERO);
        prop_assert_eq!(lc, smallest(&|server| overhead.of(&server.load)));
    }

    /// `mh`: when one of *n* servers leaves, its clients move and few others do.
    #[test]
    fn mh_moves_few_clients(count in 3usize..12, leaver in any::<prop::sample::Index>()) {
        let moved = moved_share(&mut MaglevHashing::new(SchedulerFlags::empty()), count, leaver.index(count));
        prop_assert!(moved < 0.15, "{moved}");
    }

    /// `maglev`: when one of *n* servers leaves, its clients move and very few others do.
    #[test]
    fn maglev_moves_very_few_clients(count in 3usize..12, leaver in any::<prop::sample::Index>()) {
        let moved = moved_share(&mut Maglev::new(SchedulerFlags::empty()), count, leaver.index(count));
        prop_assert!(moved < 0.05, "{moved}");
    }

    /// `sh`, `mh` and `maglev` send a client to its server again and again, whatever the load.
    #[test]
    fn hashing_ignores_load(
        kind in prop::sample::select(vec![
            SchedulerKind::SourceHashing, SchedulerKind::MaglevHashing, SchedulerKind::Maglev,
        ]),
        weights in vec(1u32..10, 1..10),
        client in any::<u32>(),
    ) {
        let servers = weighted_servers(&weights);
        let mut scheduler = kind.build(SchedulerFlags::empty());
        let chosen = scheduler.schedule(&flow(client), &servers, Instant::ZERO).expect("all are available");
        servers[chosen].load.add_active();
        prop_assert_eq!(scheduler.schedule(&flow(client), &servers, Instant::ZERO), Some(chosen));
        // A second scheduler, which knows nothing of the first, agrees.
        let mut other = kind.build(SchedulerFlags::empty());
        prop_assert_eq!(other.schedule(&flow(client), &servers, Instant::ZERO), Some(chosen));
    }

    /// `mh` without gaps: every client has a server while one has a weight, in every table size.
    #[test]
    fn mh_fills_every_slot(
        weights in vec(prop_oneof![0u32..50, Just(i32::MAX as u32)], 1..12),
        index in 8u8..=13,
        clients in vec(any::<u32>(), 50),
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let servers = weighted_servers(&weights);
        let index = MhTableIndex::new(index).expect("in range");
        let mut mh = MaglevHashing::with_table_index(SchedulerFlags::empty(), index);
        for client in clients {
            // Servers that are added quiesced have no slots, so nobody can be sent to them.
            prop_assert!(mh.schedule(&flow(client), &servers, Instant::ZERO).is_some());
        }
    }

    /// `maglev` spreads clients by weight to within a few percent.
    #[test]
    fn maglev_is_balanced(weights in vec(1u32..6, 2..6)) {
        const CLIENTS: u32 = 20_000;
        let servers = weighted_servers(&weights);
        let mut maglev = Maglev::new(SchedulerFlags::empty());
        let mut hits = vec![0u32; weights.len()];
        for client in 0..CLIENTS {
            hits[maglev.schedule(&flow(client), &servers, Instant::ZERO).expect("all are available")] += 1;
        }
        let total: u32 = weights.iter().sum();
        for (hit, weight) in hits.iter().zip(&weights) {
            let share = f64::from(*hit) / f64::from(CLIENTS);
            prop_assert!((share - f64::from(*weight) / f64::from(total)).abs() < 0.02, "{hits:?} for {weights:?}");
        }
    }

    /// Unknown words never panic, and a guess is offered only for a name.
    #[test]
    fn names_are_read_without_harm(word in ".{0,80}") {
        for kind in SchedulerKind::ALL {
            let _: Result<SchedulerFlags, _> = SchedulerFlags::parse(kind, &word);
        }
        match word.parse::<SchedulerKind>() {
            Ok(kind) => prop_assert_eq!(kind.name(), word),
            Err(error) => prop_assert!(error.to_string().contains("Expected rr, wrr, lc, wlc, sh, mh or maglev")),
        }
    }
}

/// What one step of a random history does before its choice.
#[derive(Debug, Clone, Copy)]
struct Step {
    action: Action,
    client: u32,
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Add { place: prop::sample::Index, weight: u32 },
    Remove(prop::sample::Index),
    Edit(prop::sample::Index, u32),
    Overload(prop::sample::Index, bool),
    Connect(prop::sample::Index),
    Nothing,
}

fn step() -> impl Strategy<Value = Step> {
    let place = any::<prop::sample::Index>;
    let action = prop_oneof![
        3 => (place(), weight()).prop_map(|(place, weight)| Action::Add { place, weight }),
        1 => place().prop_map(Action::Remove),
        1 => (place(), weight()).prop_map(|(place, weight)| Action::Edit(place, weight)),
        1 => (place(), any::<bool>()).prop_map(|(place, on)| Action::Overload(place, on)),
        1 => place().prop_map(Action::Connect),
        4 => Just(Action::Nothing),
    ];
    (action, any::<u32>()).prop_map(|(action, client)| Step { action, client })
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0), 4 => 1u32..12, 1 => (1u32..6).prop_map(|weight| weight * 6)]
}

/// A list of servers that tells its scheduler of every change.
#[derive(Default)]
struct List {
    servers: Vec<Server>,
    added: u32,
}

impl List {
    fn apply(&mut self, step: Step, scheduler: &mut dyn Scheduler) {
        let count = self.servers.len();
        match step.action {
            Action::Add { place, weight } => {
                let index = place.index(count + 1);
                self.servers.insert(index, server(self.added, weight));
                self.added += 1;
                scheduler.changed(Change::Added { index }, &self.servers);
            }
            Action::Remove(place) if count > 0 => {
                let index = place.index(count);
                let id = self.servers.remove(index).id;
                scheduler.changed(Change::Removed { index, id }, &self.servers);
            }
            Action::Edit(place, weight) if count > 0 => {
                let index = place.index(count);
                self.servers[index].set_weight(Weight::new(weight).expect("in range"));
                scheduler.changed(Change::Edited { index }, &self.servers);
            }
            Action::Overload(place, on) if count > 0 => self.load(place).set_overloaded(on),
            Action::Connect(place) if count > 0 => self.load(place).add_active(),
            _ => {}
        }
    }

    fn load(&self, place: prop::sample::Index) -> &Load {
        &self.servers[place.index(self.servers.len())].load
    }
}

/// Weighted round robin as its description reads, one level after the other.
#[derive(Debug, Default)]
struct LevelWalk {
    cursor: Option<usize>,
    level: u32,
    told: bool,
}

impl LevelWalk {
    fn top_and_step(servers: &[Server]) -> (u32, u32) {
        let largest = servers.iter().map(|server| server.weight.get()).max().unwrap_or(0);
        let step = servers.iter().fold(0, |a, server| gcd(a, server.weight.get())).max(1);
        ((largest + 1).saturating_sub(step), step)
    }
}

impl Scheduler for LevelWalk {
    fn schedule(&mut self, _flow: &Flow, servers: &[Server], _now: Instant) -> Option<usize> {
        let (top, step) = Self::top_and_step(servers);
        if !self.told {
            self.changed(Change::Added { index: 0 }, servers);
        }
        if top == 0 {
            return None;
        }
        let (mut level, mut from) = (self.level, self.cursor.map_or(0, |last| last + 1));
        // Two cycles of levels pass every place.
        for _ in 0..=2 * top.div_ceil(step) {
            let reaches =
                |index: &usize| servers[*index].is_available() && servers[*index].weight.get() >= level;
            if let Some(index) = (from..servers.len()).find(reaches) {
                (self.cursor, self.level) = (Some(index), level);
                return Some(index);
            }
            from = 0;
            level = if level > step { level - step } else { top };
        }
        if self.cursor.is_none() {
            self.level = top;
        }
        None
    }

    fn changed(&mut self, _change: Change, servers: &[Server]) {
        let (top, step) = Self::top_and_step(servers);
        self.told = true;
        self.cursor = None;
        if self.level == 0 || self.level > top {
            self.level = top;
        } else if step > 1 {
            self.level = self.level / step * step + 1;
        }
    }
}

/// Tells two schedulers of the same changes.
#[derive(Debug)]
struct Both {
    ours: WeightedRoundRobin,
    model: LevelWalk,
}

impl Scheduler for Both {
    fn schedule(&mut self, flow: &Flow, servers: &[Server], now: Instant) -> Option<usize> {
        self.ours.schedule(flow, servers, now)
    }

    fn changed(&mut self, change: Change, servers: &[Server]) {
        self.ours.changed(change, servers);
        self.model.changed(change, servers);
    }
}

/// The share of clients of the servers that stay which change their server when one leaves.
fn moved_share(scheduler: &mut dyn Scheduler, count: usize, leaver: usize) -> f64 {
    const CLIENTS: u32 = 4000;
    let mut servers = equal_servers(count);
    let choose = |scheduler: &mut dyn Scheduler, servers: &[Server]| -> Vec<ServerId> {
        (0..CLIENTS)
            .map(|client| {
                scheduler.schedule(&flow(client), servers, Instant::ZERO).expect("all are available")
            })
            .map(|index| servers[index].id)
            .collect()
    };
    let before = choose(scheduler, &servers);
    let id = servers.remove(leaver).id;
    scheduler.changed(Change::Removed { index: leaver, id }, &servers);
    let after = choose(scheduler, &servers);
    let stayers = before.iter().zip(&after).filter(|(old, _)| **old != id);
    let moved = stayers.clone().filter(|(old, new)| old != new).count();
    moved as f64 / stayers.count() as f64
}

fn equal_servers(count: usize) -> Vec<Server> {
    weighted_servers(&vec![1; count])
}

fn weighted_servers(weights: &[u32]) -> Vec<Server> {
    (0..).zip(weights).map(|(id, &weight)| server(id, weight)).collect()
}

fn server(id: u32, weight: u32) -> Server {
    let addr = std::net::Ipv4Addr::from_bits(0x0a00_0100 + id);
    Server::new(ServerId(id), Endpoint::new(addr.into(), 80), Weight::new(weight).expect("in range"))
}

fn flow(client: u32) -> Flow {
    Flow {
        protocol: Protocol::Tcp,
        client: Endpoint::new(std::net::Ipv4Addr::from_bits(client).into(), (client % 50_000) as u16 + 1024),
        service: Endpoint::new(std::net::Ipv4Addr::new(10, 0, 0, 1).into(), 80),
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
