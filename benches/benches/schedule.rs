//! Choosing one of 100 servers, and filling a Maglev table.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lvs_benches::{Ip, NOW, Order, client, servers, vip};
use lvs_core::{Flow, Protocol, SchedulerFlags, SchedulerKind, Weight};
use lvs_sched::Change;

mod settings;

const SERVERS: u32 = 100;

fn flow(order: &mut Order) -> Flow {
    Flow { protocol: Protocol::Tcp, client: client(Ip::V4, order.next_client()), service: vip(Ip::V4) }
}

fn schedule(criterion: &mut Criterion) {
    let servers = servers(Ip::V4, SERVERS);
    let mut group = criterion.benchmark_group("schedule");
    group.throughput(Throughput::Elements(1));
    for kind in SchedulerKind::ALL {
        let mut scheduler = kind.build(SchedulerFlags::empty());
        let mut order = Order::new(1_000_000);
        assert!(scheduler.schedule(&flow(&mut order), &servers, NOW).is_some());
        group.bench_function(kind.name(), |bencher| {
            bencher.iter(|| black_box(scheduler.schedule(&flow(&mut order), &servers, NOW)));
        });
    }
    group.finish();
}

fn maglev_build(criterion: &mut Criterion) {
    let mut servers = servers(Ip::V4, SERVERS);
    let mut group = criterion.benchmark_group("maglev_build");
    for kind in [SchedulerKind::MaglevHashing, SchedulerKind::Maglev] {
        let mut scheduler = kind.build(SchedulerFlags::empty());
        let mut order = Order::new(1_000_000);
        group.bench_function(kind.name(), |bencher| {
            let (mut weight, two) = (Weight::ONE, Weight::new(2).expect("a small number"));
            bencher.iter(|| {
                // A list that is as it was, or with a server quiesced, would leave the table as it is.
                weight = if weight == Weight::ONE { two } else { Weight::ONE };
                servers[0].set_weight(weight);
                scheduler.changed(Change::Edited { index: 0 }, &servers);
                black_box(scheduler.schedule(&flow(&mut order), &servers, NOW))
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = schedule, maglev_build }
criterion_main!(benches);
