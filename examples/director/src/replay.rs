//! `lvs-director replay`: a capture through the engine, with the capture's own clock and no root.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use lvs_core::io::{CaptureFrame, CaptureReader, CaptureWriter, LinkHeader, LinkType};
use lvs_core::wire::{HEADROOM, Packet, TAILROOM};
use lvs_core::{Config, Director, Environment, Instant, PassPolicy, Step, Verdict};
use serde::Serialize;

use crate::rules_file::RuleArgs;

/// Feed a capture (raw IP or Ethernet) through the engine
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    /// An own address of the director; the first of a family is the source of tunnels and of its ICMP
    #[arg(long = "address", value_name = "ADDR")]
    pub(crate) addresses: Vec<IpAddr>,
    /// MTU towards every next hop, in bytes
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(68..))]
    pub(crate) mtu: u16,
    /// The capture to read
    #[arg(long = "in", value_name = "IN.pcap")]
    pub(crate) input: PathBuf,
    /// Where to write every packet that the director sends
    #[arg(long = "out", value_name = "OUT.pcap")]
    pub(crate) output: Option<PathBuf>,
    /// One JSON object per input packet
    #[arg(long)]
    pub(crate) json: bool,
    /// Seed of hash tables and identification counters
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

/// What became of one input packet.
#[derive(Debug, Serialize)]
struct Line {
    /// Number of the packet in the capture, from 1.
    n: u64,
    /// `transmit`, `reply`, `pass`, `queued`, `drop`, or `skip` for a frame without an IP packet.
    verdict: &'static str,
    /// Why, for `drop` and `skip`.
    reason: Option<&'static str>,
    /// The virtual service.
    service: Option<String>,
    /// The real server.
    server: Option<String>,
    /// Where the packet, or its answer, went next.
    next_hop: Option<IpAddr>,
    /// Every IP packet that was sent because of this one, in hex.
    out: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut director = director(args)?;
    let open = |error| format!("{}: {error}", args.input.display());
    let reader = CaptureReader::new(File::open(&args.input).map_err(open)?)
        .map_err(|error| format!("{}: {error}", args.input.display()))?;
    let link = reader.link().unwrap_or(LinkType::Raw).for_output();
    let mut writer = match &args.output {
        Some(path) => {
            let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
            Some(CaptureWriter::new(BufWriter::new(file), link)?)
        }
        None => None,
    };
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    for (index, frame) in reader.enumerate() {
        let frame = frame.map_err(|error| format!("{}: {error}", args.input.display()))?;
        let (line, sent) = feed(&mut director, index as u64 + 1, &frame);
        if let Some(writer) = &mut writer {
            for (header, packet) in &sent {
                write_packet(writer, frame.at, *header, packet)?;
            }
        }
        if args.json {
            serde_json::to_writer(&mut stdout, &line)?;
            writeln!(stdout)?;
        }
    }
    if let Some(writer) = writer {
        writer.into_inner().flush()?;
    }
    if !args.json {
        stdout.write_all(summary(&director).as_bytes())?;
    }
    stdout.flush()?;
    Ok(())
}

fn director(args: &Args) -> Result<Director, Box<dyn Error>> {
    args.rules.director(Config {
        environment: Environment {
            addresses: args.addresses.clone(),
            mtu: args.mtu,
            ..Environment::default()
        },
        // There is no host behind a capture, and what a flood would be limited to is not of interest here.
        pass: PassPolicy::Answer,
        icmp_limits: None,
        seed: args.seed,
        ..Config::default()
    })
}

/// Takes one frame through the engine; returns its line and every packet that was sent.
fn feed(director: &mut Director, n: u64, frame: &CaptureFrame) -> (Line, Vec<(LinkHeader, Vec<u8>)>) {
    let mut line = Line {
        n,
        verdict: "skip",
        reason: Some("no-ip-packet"),
        service: None,
        server: None,
        next_hop: None,
        out: Vec::new(),
    };
    let Some((link, bytes)) = frame.network() else { return (line, Vec::new()) };
    while let Some(due) = director.poll_timeout().filter(|due| *due <= frame.at) {
        director.handle_timeout(due);
    }
    let end = HEADROOM + bytes.len();
    let mut buffer = vec![0; end + TAILROOM];
    buffer[HEADROOM..end].copy_from_slice(bytes);
    let Some(mut packet) = Packet::new(&mut buffer, HEADROOM, end) else { return (line, Vec::new()) };
    let (verdict, steps) = director.process_traced(&mut packet, frame.at);

    let mut sent = Vec::new();
    if let Some(next_hop) = verdict.next_hop() {
        sent.push((header(link, verdict, next_hop), packet.bytes().to_vec()));
        line.next_hop = Some(next_hop);
    }
    while let Some(outgoing) = director.poll_transmit() {
        if let Some(next_hop) = outgoing.verdict.next_hop() {
            line.next_hop.get_or_insert(next_hop);
            sent.push((header(LinkHeader::NONE, outgoing.verdict, next_hop), outgoing.packet));
        }
    }
    line.verdict = verdict.name();
    line.reason = match verdict {
        Verdict::Drop(reason) => Some(reason.name()),
        _ => None,
    };
    for step in steps {
        match step {
            Step::Hit { connection, .. } | Step::Related { connection, .. } => {
                line.service = Some(connection.service.to_string());
                line.server = Some(connection.server.to_string());
            }
            Step::Reopened { .. } => line.server = None,
            Step::Service(key) => {
                line.service = Some(key.endpoint().map_or(key.to_string(), |e| e.to_string()))
            }
            Step::Server { server, .. } => line.server = Some(server.to_string()),
            _ => {}
        }
    }
    line.out = sent.iter().map(|(_, packet)| hex(packet)).collect();
    (line, sent)
}

/// The link header of a sent packet: the one it came with, turned round for an answer; a made-up one for packets
/// that waited.
fn header(came_with: LinkHeader, verdict: Verdict, next_hop: IpAddr) -> LinkHeader {
    if came_with.is_none() {
        return LinkHeader::synthetic(next_hop);
    }
    let mut header = came_with;
    if matches!(verdict, Verdict::Reply { .. }) {
        header.swap();
    }
    header
}

fn write_packet<W: Write>(
    writer: &mut CaptureWriter<W>,
    at: Instant,
    mut header: LinkHeader,
    packet: &[u8],
) -> Result<(), Box<dyn Error>> {
    if writer.link() != LinkType::Ethernet {
        header = LinkHeader::NONE;
    }
    header.set_ip_version(packet);
    writer.write(at, &[header.bytes(), packet].concat())?;
    Ok(())
}

/// The service table and the counters that are not zero.
pub(crate) fn summary(director: &Director) -> String {
    use std::fmt::Write;
    let counters = director.counters();
    let mut text = director.table();
    let _ = writeln!(
        text,
        "\npackets: {} received, {} transmitted, {} answered, {} passed, {} taken in, {} released, {} dropped",
        counters.received,
        counters.transmitted,
        counters.replied,
        counters.passed,
        counters.queued,
        counters.released,
        counters.dropped_total(),
    );
    for (reason, count) in counters.drops().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "  dropped, {reason}: {count}");
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
