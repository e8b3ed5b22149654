//! Takes packets of known connections through a director, for a profiler to watch. It measures nothing itself.
//!
//! `valgrind --tool=callgrind --toggle-collect='*Director*process*' target/release/profile nat v4 1000 100000`
#![expect(clippy::print_stderr, reason = "a program that tells its usage")]

use lvs_benches::{BURST, Burst, Ip, Kind, Method, NOW, Order, Setup};

const USAGE: &str = "usage: profile nat|dr|tun|fullnat v4|v6 CONNECTIONS PACKETS";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [method, ip, connections, packets] = args.as_slice() else {
        eprintln!("{USAGE}");
        return Err("expected four arguments".into());
    };
    let method = Method::ALL.into_iter().find(|known| known.name() == method).ok_or(USAGE)?;
    let ip = [Ip::V4, Ip::V6].into_iter().find(|known| known.name() == ip).ok_or(USAGE)?;
    let connections: u32 = connections.parse()?;
    let packets: usize = packets.parse()?;

    let setup = Setup::new(ip, method, connections);
    let mut director = setup.filled();
    let template = setup.template(Kind::Ack);
    let (mut burst, mut order) = (Burst::new(), Order::new(connections));
    for _ in 0..packets.div_ceil(BURST) {
        for packet in &mut burst.fill(&template, &mut order) {
            let _ = std::hint::black_box(director.process(packet, NOW));
        }
    }
    Ok(())
}
