//! LVS/NAT in both directions: a client's SYN goes to a real server, the server's SYN-ACK comes back, and the
//! table shows which bytes the director changed on the way.
//!
//! `cargo run --example nat_in_memory`

use std::error::Error;
use std::io::Write;

use etherparse::PacketBuilder;
use lvs_core::conn::Filter;
use lvs_core::io::{Memory, PacketIo, run as run_loop};
use lvs_core::ipvsadm::rules;
use lvs_core::wire::checksum::transport_checksum_is_right;
use lvs_core::wire::parse;
use lvs_core::{Config, Director, Instant};

const RULES: &str = "
-A -t 10.9.0.1:80 -s rr
-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m
";
const CLIENT: [u8; 4] = [172, 16, 0, 9];
const VIP: [u8; 4] = [10, 9, 0, 1];
const SERVER: [u8; 4] = [10, 0, 2, 11];

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut std::io::stdout().lock())
}

/// The program, with its output where the caller wants it.
pub(crate) fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut director = Director::new(Config::default());
    let commands: Vec<_> = rules::parse(RULES)?.into_iter().map(|line| line.command).collect();
    director.apply(&commands, Instant::ZERO)?;

    let (mut syn, mut syn_ack) = (Vec::new(), Vec::new());
    PacketBuilder::ipv4(CLIENT, VIP, 64).tcp(30_001, 80, 1000, 64_240).syn().write(&mut syn, &[])?;
    // The server knows the client by its own address and answers it; its gateway is the director.
    let reply = PacketBuilder::ipv4(SERVER, CLIENT, 64).tcp(8080, 30_001, 5000, 64_240);
    reply.syn().ack(1001).write(&mut syn_ack, &[])?;

    // The director behind a device that is two queues, driven by the library's run loop.
    let mut device = Memory::new();
    device.push(&syn);
    device.push(&syn_ack);
    device.close();
    run_loop(&mut director, &mut device, || Instant::from_secs(1), || false)?;

    let head = ["", "source", "destination", "TTL", "address and port bytes", "checksums"];
    let [a, b, c, d, e, f] = head;
    writeln!(out, "{a:<22} {b:<18} {c:<18} {d:<4} {e:<28} {f}")?;
    for (name, before) in [("SYN", &syn), ("SYN-ACK", &syn_ack)] {
        let after = device.pop().ok_or("the director sent nothing")?;
        row(out, &format!("{name} comes in"), before)?;
        row(out, &format!("{name} goes to {}", after.next_hop), &after.bytes)?;
    }

    writeln!(out, "\nThe connection behind both:")?;
    for (_, conn) in director.connections(Filter::default()) {
        writeln!(
            out,
            "  client {}  service {}  server {}  {}",
            conn.client, conn.service, conn.server, conn.state
        )?;
    }
    let counters = device.counters();
    writeln!(out, "{} packets came in, {} went out.", counters.received, counters.sent)?;
    Ok(())
}

/// One line of the table: what a packet says, and the bytes that say it.
fn row(out: &mut impl Write, name: &str, packet: &[u8]) -> Result<(), Box<dyn Error>> {
    let parsed = parse(packet)?;
    let tuple = parsed.tuple().ok_or("no ports")?;
    let hex: Vec<String> = [12..16, 16..20, 20..22, 22..24]
        .map(|field| packet[field].iter().map(|b| format!("{b:02x}")).collect())
        .into();
    let segment = &packet[usize::from(parsed.l4)..];
    let right = transport_checksum_is_right(parsed.src, parsed.dst, parsed.protocol, segment);
    writeln!(
        out,
        "{name:<22} {:<18} {:<18} {:<4} {:<28} {}",
        tuple.src.to_string(),
        tuple.dst.to_string(),
        parsed.ttl,
        hex.join(" "),
        if right { "right" } else { "WRONG" }
    )?;
    Ok(())
}
