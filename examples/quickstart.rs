//! A director in memory: rules go in as text, packets as bytes; verdicts, the table and reasons come out.
//!
//! `cargo run --example quickstart`

use std::error::Error;
use std::io::Write;

use etherparse::PacketBuilder;
use lvs_core::ipvsadm::rules;
use lvs_core::wire::{HEADROOM, Packet, TAILROOM, Tuple};
use lvs_core::{Config, Director, Instant, Protocol};

/// What `ipvsadm -R` reads.
const RULES: &str = "
-A -t 10.9.0.1:80 -s wlc
-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 3
-a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m -w 1
";

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut std::io::stdout().lock())
}

/// The program, with its output where the caller wants it.
pub(crate) fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut director = Director::new(Config::default());
    let commands: Vec<_> = rules::parse(RULES)?.into_iter().map(|line| line.command).collect();
    director.apply(&commands, Instant::ZERO)?;

    writeln!(out, "Five packets:")?;
    for (second, (client, port)) in (1..).zip([
        ([172, 16, 0, 1], 80),
        ([172, 16, 0, 2], 80),
        ([172, 16, 0, 3], 80),
        ([172, 16, 0, 4], 80),
        ([172, 16, 0, 5], 22),
    ]) {
        let syn = tcp_syn(client, [10, 9, 0, 1], port)?;
        // Packets lie in buffers with room in front (for tunnels) and behind (for TCP options).
        let mut buffer = vec![0; HEADROOM + syn.len() + TAILROOM];
        buffer[HEADROOM..HEADROOM + syn.len()].copy_from_slice(&syn);
        let mut packet =
            Packet::new(&mut buffer, HEADROOM, HEADROOM + syn.len()).ok_or("outside the buffer")?;

        // The caller tells the time: nothing in the director reads a clock.
        let verdict = director.process(&mut packet, Instant::from_secs(second));
        let [.., a, b, c, d] = packet.bytes()[..20] else { return Err("shorter than an IPv4 header".into()) };
        let next_hop = verdict.next_hop().map_or("-".to_owned(), |addr| addr.to_string());
        let client = std::net::Ipv4Addr::from(client);
        writeln!(
            out,
            "  {client}:40000 -> 10.9.0.1:{port}  {:8} next hop {next_hop:9}  now addressed to {a}.{b}.{c}.{d}",
            verdict.name()
        )?;
    }

    writeln!(out, "\nThe table, as ipvsadm -Ln prints it:\n{}", director.table())?;

    let next =
        Tuple { protocol: Protocol::Tcp, src: "172.16.0.99:40000".parse()?, dst: "10.9.0.1:80".parse()? };
    writeln!(
        out,
        "Where would 172.16.0.99 go, and why?\n{}",
        director.explain(next, 0, Instant::from_secs(9))
    )?;
    Ok(())
}

/// A SYN from port 40000, with right checksums.
fn tcp_syn(src: [u8; 4], dst: [u8; 4], port: u16) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(src, dst, 64).tcp(40_000, port, 1000, 64_240).syn().write(&mut bytes, &[])?;
    Ok(bytes)
}
