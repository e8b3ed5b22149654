//! A capture through a director, on the capture's own clock, into another capture.
//!
//! `cargo run --example pcap_replay` makes a small capture in memory and shows what becomes of it;
//! `cargo run --example pcap_replay RULES INPUT.pcap OUTPUT.pcap` takes rules as `ipvsadm -S -n` prints them, reads
//! a capture (pcap or pcapng; raw IP or Ethernet) and writes what the director would have sent.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;

use etherparse::PacketBuilder;
use lvs_core::io::{CaptureReader, CaptureWriter, LinkType, PacketIo, PcapIo, run as run_loop};
use lvs_core::ipvsadm::rules;
use lvs_core::wire::parse;
use lvs_core::{Config, Director, Instant, PassPolicy};

const RULES: &str = "
-A -u 10.9.0.1:53 -s rr
-a -u 10.9.0.1:53 -r 10.0.2.11:53 -m
-a -u 10.9.0.1:53 -r 10.0.2.12:53 -m
";

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [] => run(&mut out),
        [rules, input, output] => {
            let rules = fs::read_to_string(rules)?;
            replay(&rules, File::open(input)?, File::create_new(output)?, &mut out).map(|_| ())
        }
        _ => Err("expected no argument, or three: RULES INPUT OUTPUT".into()),
    }
}

/// The program without arguments, with its output where the caller wants it.
pub(crate) fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let input = small_capture()?;
    writeln!(out, "Input:")?;
    list(&input, out)?;
    let output = replay(RULES, &input[..], Vec::new(), out)?;
    writeln!(out, "Output:")?;
    list(&output, out)
}

/// Takes a capture through a new director; returns the output.
fn replay<W: Write>(
    rules: &str,
    input: impl std::io::Read,
    output: W,
    out: &mut impl Write,
) -> Result<W, Box<dyn Error>> {
    // There is no host behind a capture, so the director answers for it.
    let mut director = Director::new(Config { pass: PassPolicy::Answer, ..Config::default() });
    let commands: Vec<_> = rules::parse(rules)?.into_iter().map(|line| line.command).collect();
    director.apply(&commands, Instant::ZERO)?;

    let mut capture = PcapIo::new(CaptureReader::new(input)?, output)?;
    // The closure would tell the time if the packets did not: each comes at its own.
    run_loop(&mut director, &mut capture, || Instant::ZERO, || false)?;

    let counters = capture.counters();
    writeln!(
        out,
        "{} packets read, {} written, {} frames without IP; {} connections open at the end\n",
        counters.received,
        counters.sent,
        counters.skipped,
        director.connection_count()
    )?;
    Ok(capture.into_output())
}

/// Prints the packets of a capture with their times.
fn list(capture: &[u8], out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for frame in CaptureReader::new(capture)? {
        let frame = frame?;
        let (_, packet) = frame.network().ok_or("no IP packet")?;
        let millis = frame.at.as_nanos() / 1_000_000;
        match parse(packet)?.tuple() {
            Some(t) => writeln!(out, "  {millis:>6} ms  {} {} -> {}", t.protocol, t.src, t.dst)?,
            None => writeln!(out, "  {millis:>6} ms  {} -> {}", parse(packet)?.src, parse(packet)?.dst)?,
        }
    }
    writeln!(out)?;
    Ok(())
}

/// Two queries, an answer, and a query of the first client when its connection (300 s) is long over.
fn small_capture() -> Result<Vec<u8>, Box<dyn Error>> {
    let (client, other, vip, server) = ([172, 16, 0, 1], [172, 16, 0, 2], [10, 9, 0, 1], [10, 0, 2, 12]);
    let mut file = Vec::new();
    let mut writer = CaptureWriter::new(&mut file, LinkType::Raw)?;
    for (millis, src, sport, dst, dport) in [
        (1_000, client, 5353, vip, 53),
        (1_020, other, 5353, vip, 53),
        (1_035, server, 53, client, 5353),
        (400_000, client, 5353, vip, 53),
    ] {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(src, dst, 64).udp(sport, dport).write(&mut packet, b"example")?;
        writer.write(Instant::from_millis(millis), &packet)?;
    }
    Ok(file)
}
