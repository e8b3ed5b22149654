//! One look at a packet: `wire::parse`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lvs_benches::{Ip, Kind, client, packet, vip};
use lvs_core::wire;

mod settings;

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for ip in [Ip::V4, Ip::V6] {
        for (kind, name) in [(Kind::Ack, "tcp"), (Kind::Udp, "udp")] {
            let bytes = packet(kind, client(ip, 1), vip(ip), 16);
            group.bench_function(format!("{name}/{}", ip.name()), |bencher| {
                bencher.iter(|| wire::parse(black_box(&bytes)));
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = parse }
criterion_main!(benches);
