//! Changing packets: `Rewrite::apply` alone. `fill` is what making the packets costs; it is part of every line.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lvs_benches::{BURST, Burst, Ip, Kind, Method, NOW, Order, Setup};
use lvs_core::Step;
use lvs_core::rewrite::Rewrite;
use lvs_core::wire;

mod settings;

/// The rewrite that a director does to packets of client 0.
fn rewrite_of(setup: &Setup) -> Rewrite {
    let mut director = setup.filled();
    let mut burst = Burst::new();
    let [mut packet, ..] = burst.fill(&setup.template(Kind::Ack), &mut Order::new(1));
    let (_, steps) = director.process_traced(&mut packet, NOW);
    let rewrite = steps.iter().find_map(|step| match step {
        Step::Rewrite(rewrite) => Some(*rewrite),
        _ => None,
    });
    rewrite.expect("a forwarded packet is rewritten")
}

fn rewrite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(BURST as u64));
    for ip in [Ip::V4, Ip::V6] {
        let template = Setup::new(ip, Method::Nat, 1).template(Kind::Ack);
        let (mut burst, mut order) = (Burst::new(), Order::new(1));
        group.bench_function(format!("fill/{}", ip.name()), |bencher| {
            bencher.iter(|| black_box(burst.fill(&template, &mut order)).len());
        });
        let parsed = wire::parse(burst.fill(&template, &mut order)[0].bytes()).expect("a whole packet");
        for method in [Method::Nat, Method::Tun] {
            let rewrite = rewrite_of(&Setup::new(ip, method, 1));
            group.bench_function(format!("{}/{}", method.name(), ip.name()), |bencher| {
                bencher.iter(|| {
                    for packet in &mut burst.fill(&template, &mut order) {
                        rewrite.apply(packet, black_box(&parsed)).expect("there is headroom");
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = rewrite }
criterion_main!(benches);
