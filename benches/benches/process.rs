//! Whole packets through a director: known connections by forwarding method, one by one and in batches of 32,
//! and new flows. `fill` is what making the packets costs; it is part of every line.

use std::cell::RefCell;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lvs_benches::{BURST, Burst, Ip, Kind, Method, NOW, Order, Setup};
use lvs_core::SchedulerKind;
use lvs_core::conn::Filter;
use lvs_core::wire::{HEADROOM, Packet};

mod settings;

fn hit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process");
    group.throughput(Throughput::Elements(BURST as u64));
    for ip in [Ip::V4, Ip::V6] {
        let template = Setup::new(ip, Method::Nat, 1).template(Kind::Ack);
        let (mut burst, mut order) = (Burst::new(), Order::new(1000));
        group.bench_function(format!("fill/{}", ip.name()), |bencher| {
            bencher.iter(|| black_box(burst.fill(&template, &mut order)).len());
        });
        for (count, size) in [(1000, "1k"), (1_000_000, "1M")] {
            for method in Method::ALL {
                let mut director = Setup::new(ip, method, count).filled();
                let mut order = Order::new(count);
                let name = format!("{}/{size}/{}", ip.name(), method.name());
                group.bench_function(format!("hit/{name}"), |bencher| {
                    bencher.iter(|| {
                        for packet in &mut burst.fill(&template, &mut order) {
                            let _ = black_box(director.process(packet, NOW));
                        }
                    });
                });
                let mut verdicts = Vec::with_capacity(BURST);
                group.bench_function(format!("hit-batch/{name}"), |bencher| {
                    bencher.iter(|| {
                        verdicts.clear();
                        let mut packets = burst.fill(&template, &mut order);
                        director.process_batch(&mut packets, NOW, &mut verdicts);
                        black_box(&verdicts).len()
                    });
                });
                assert_eq!(director.connection_count(), count as usize, "every packet was a hit");
            }
        }
    }
    group.finish();
}

/// Flows that one measured step opens, before the table is emptied again outside of the measurement.
const OPENED: u32 = 4096;

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("process/open");
    group.throughput(Throughput::Elements(u64::from(OPENED)));
    for ip in [Ip::V4, Ip::V6] {
        for (scheduler, servers) in
            [(SchedulerKind::RoundRobin, 1), (SchedulerKind::WeightedLeastConnection, 100)]
        {
            let setup = Setup { scheduler, servers, ..Setup::new(ip, Method::Nat, OPENED) };
            let template = setup.template(Kind::Syn);
            let director = RefCell::new(setup.filled());
            group.bench_function(format!("{}/{}-{servers}", ip.name(), scheduler.name()), |bencher| {
                bencher.iter_batched(
                    || director.borrow_mut().kill(Filter::default()),
                    |_| {
                        let (mut director, mut buffer) = (director.borrow_mut(), [0; 256]);
                        for number in 0..OPENED {
                            template.write(number, &mut buffer[HEADROOM..]);
                            let packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + template.len());
                            let mut packet = packet.expect("the packet is inside its buffer");
                            let _ = black_box(director.process(&mut packet, NOW));
                        }
                    },
                    BatchSize::PerIteration,
                );
            });
            assert_eq!(director.borrow().connection_count(), OPENED as usize, "every packet opened a flow");
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = settings::short(); targets = hit, open }
criterion_main!(benches);
