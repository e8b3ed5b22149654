//! The connection table alone, beside a hash map of the standard library with the same keys.
//!
//! Both hold two keys per connection and are asked in bursts of 32 tuples in random order; an answer counts as
//! found only after the entry's expiry was read. `fill` is what making the tuples costs.

use core::net::IpAddr;
use std::collections::HashMap;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use lvs_benches::{BURST, Ip, NOW, Order, client, servers, vip};
use lvs_core::conn::{Capacity, ConnFlags, ConnTable, Connection, Lookup, Method, State};
use lvs_core::wire::Tuple;
use lvs_core::{Instant, Protocol, ServerId};

mod settings;

const EXPIRES: Instant = Instant::from_secs(900);

fn connection(number: u32) -> Connection {
    let client = client(Ip::V4, number);
    Connection {
        protocol: Protocol::Tcp,
        client,
        service: vip(Ip::V4),
        server: servers(Ip::V4, 1)[0].key,
        local: client,
        method: Method::Masquerade,
        server_id: ServerId(0),
        state: State::Established,
        flags: ConnFlags::empty(),
        mark: 0,
        packets: 1,
        expires: EXPIRES,
    }
}

/// The tuple of a packet from a client; clients from `first` on are unknown to the table of a miss.
fn tuples(order: &mut Order, first: u32) -> [Tuple; BURST] {
    let service = vip(Ip::V4);
    core::array::from_fn(|_| Tuple {
        protocol: Protocol::Tcp,
        src: client(Ip::V4, first + order.next_client()),
        dst: service,
    })
}

/// The smallest key that a map of the standard library can have here.
fn key(tuple: &Tuple) -> u128 {
    let addr = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(_) => 0,
    };
    let ports = u128::from(tuple.src.port) << 16 | u128::from(tuple.dst.port);
    addr(tuple.src.addr) << 96
        | addr(tuple.dst.addr) << 64
        | ports << 32
        | u128::from(tuple.protocol.number())
}

/// An entry of the peer: as large as the table's.
#[derive(Clone)]
#[repr(align(64))]
struct Entry {
    expires: u64,
}

struct Peer {
    slots: HashMap<u128, u32, ahash::RandomState>,
    entries: Vec<Entry>,
}

impl Peer {
    fn new(count: u32) -> Self {
        let state = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut slots = HashMap::with_capacity_and_hasher(2 * count as usize, state);
        for number in 0..count {
            let conn = connection(number);
            let from_client = Tuple { protocol: conn.protocol, src: conn.client, dst: conn.service };
            let from_server = Tuple { protocol: conn.protocol, src: conn.server, dst: conn.local };
            slots.insert(key(&from_client), number);
            slots.insert(key(&from_server), number);
        }
        Self { slots, entries: vec![Entry { expires: EXPIRES.as_nanos() }; count as usize] }
    }

    fn lookup(&self, tuple: &Tuple) -> Option<u32> {
        let slot = *self.slots.get(&key(tuple))?;
        (self.entries[slot as usize].expires > NOW.as_nanos()).then_some(slot)
    }
}

fn table_of(count: u32) -> ConnTable {
    let mut table = ConnTable::new(Capacity { ipv4: count, ipv6: 0 }, 0x5eed);
    for number in 0..count {
        table.insert(&connection(number), NOW).expect("there is room");
    }
    table
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut order = Order::new(1000);
    group.bench_function("fill", |bencher| bencher.iter(|| black_box(tuples(&mut order, 0)).len()));
    for (count, size) in [(1000, "1k"), (1_000_000, "1M")] {
        of_size(&mut group, count, size);
    }
    group.finish();
}

fn of_size(group: &mut BenchmarkGroup<'_, WallTime>, count: u32, size: &str) {
    let table = table_of(count);
    for (name, first) in [("hit", 0), ("miss", 2 * count)] {
        let mut order = Order::new(count);
        let is_hit = matches!(table.lookup(&tuples(&mut order, first)[0], NOW), Lookup::Hit(..));
        assert_eq!(is_hit, name == "hit");
        group.bench_function(format!("{name}/{size}"), |bencher| {
            bencher.iter(|| {
                for tuple in black_box(tuples(&mut order, first)) {
                    black_box(table.lookup(&tuple, NOW));
                }
            });
        });
        group.bench_function(format!("{name}-batch/{size}"), |bencher| {
            bencher.iter(|| {
                let tuples = black_box(tuples(&mut order, first));
                let hashes = tuples.each_ref().map(|tuple| {
                    let hash = table.hash(tuple);
                    table.prefetch_bucket(tuple, hash);
                    hash
                });
                for (tuple, hash) in tuples.iter().zip(hashes) {
                    table.prefetch_entry(tuple, hash);
                }
                for (tuple, hash) in tuples.iter().zip(hashes) {
                    black_box(table.lookup_hashed(tuple, hash, NOW));
                }
            });
        });
    }
    drop(table);
    let peer = Peer::new(count);
    for (name, first) in [("hit", 0), ("miss", 2 * count)] {
        let mut order = Order::new(count);
        assert_eq!(peer.lookup(&tuples(&mut order, first)[0]).is_some(), name == "hit");
        group.bench_function(format!("{name}-hashmap/{size}"), |bencher| {
            bencher.iter(|| {
                for tuple in black_box(tuples(&mut order, first)) {
                    black_box(peer.lookup(&tuple));
                }
            });
        });
    }
}

criterion_group! { name = benches; config = settings::short(); targets = lookup }
criterion_main!(benches);
