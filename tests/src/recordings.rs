//! The recordings of the real kernel's IPVS under `data/`, and what of them may differ.
//!
//! `data/kernel-6.1.192/packets.jsonl`: one case a line, packets in and what came out, byte for byte.

use std::net::IpAddr;
use std::path::PathBuf;

use lvs_core::answer::IcmpLimits;
use lvs_core::ipvsadm::rules;
use lvs_core::wire::{HEADROOM, Packet, TAILROOM};
use lvs_core::{Config, Director, Environment, Instant, PassPolicy, Step, Sysctl, Verdict};
use serde::Deserialize;

/// One packet case: rules, then packets with what came out.
#[derive(Debug, Deserialize)]
pub struct PacketCase {
    /// Its name.
    pub case: String,
    /// The ipvsadm lines.
    pub setup: Vec<String>,
    /// Switches that differ from their defaults.
    #[serde(default)]
    pub sysctl: Option<std::collections::BTreeMap<String, u32>>,
    /// Packets in order.
    pub steps: Vec<PacketStep>,
}

/// One packet in and what came out.
#[derive(Debug, Deserialize)]
pub struct PacketStep {
    /// Its name.
    pub name: String,
    /// `client` or `rs`: the side it was injected at.
    pub at: String,
    /// The IP packet in hex.
    pub ip: String,
    /// What came out, in order.
    pub out: Vec<PacketOut>,
}

/// One packet out.
#[derive(Debug, Deserialize)]
pub struct PacketOut {
    /// `client` or `rs`.
    pub at: String,
    /// Destination MAC: its last byte names the real server.
    pub dmac: String,
    /// The IP packet in hex.
    pub ip: String,
}

/// The directory of the recordings.
pub fn data_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/kernel-6.1.192")
}

/// Reads all packet cases.
///
/// # Panics
/// When the data is not there or damaged.
pub fn packet_cases() -> Vec<PacketCase> {
    let text = std::fs::read_to_string(data_dir().join("packets.jsonl"))
        .expect("the recordings are in the repository");
    text.lines().map(|line| serde_json::from_str(line).expect("every line is a case")).collect()
}

/// Reads hex digits.
///
/// # Panics
/// When the text is no hex.
pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "hex digits come in pairs");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits")).collect()
}

/// A director as it stood in the recording: MTU 1500 (1400 in the cases that say so), and no host stack behind it.
///
/// # Errors
/// Why the case's rules are refused.
pub fn director_of(case: &PacketCase) -> Result<Director, String> {
    let addresses = ["10.0.2.1", "10.0.1.1", "2001:db8:2::1", "2001:db8:1::1"];
    let mut sysctl = Sysctl::default();
    for (name, value) in case.sysctl.iter().flatten() {
        sysctl.set(name, &value.to_string()).map_err(|error| error.to_string())?;
    }
    let mut director = Director::new(Config {
        environment: Environment {
            addresses: addresses.iter().map(|addr| addr.parse().expect("an address")).collect(),
            mtu: if case.case.contains("mtu1400") { 1400 } else { 1500 },
            ..Environment::default()
        },
        sysctl,
        pass: PassPolicy::Answer,
        icmp_limits: None::<IcmpLimits>,
        ..Config::default()
    });
    apply(&mut director, &case.setup.join("\n"))?;
    Ok(director)
}

/// Carries out ipvsadm lines.
///
/// # Errors
/// Why they are refused.
pub fn apply(director: &mut Director, text: &str) -> Result<(), String> {
    let lines = rules::parse(text).map_err(|errors| errors.to_string())?;
    let commands: Vec<_> = lines.into_iter().map(|line| line.command).collect();
    director.apply(&commands, Instant::ZERO).map_err(|error| error.to_string())
}

/// What a director made of one packet: every packet that left, with where it went next.
#[derive(Debug)]
pub struct Outcome {
    /// The verdict on the packet itself.
    pub verdict: Verdict,
    /// Packets that left: next hop and bytes.
    pub out: Vec<(IpAddr, Vec<u8>)>,
    /// Every decision.
    pub steps: Vec<Step>,
}

/// Feeds one packet.
pub fn feed(director: &mut Director, bytes: &[u8], now: Instant) -> Outcome {
    let mut buffer = vec![0; HEADROOM + bytes.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
    let mut packet = Packet::new(&mut buffer, HEADROOM, HEADROOM + bytes.len()).expect("inside the buffer");
    let (verdict, steps) = director.process_traced(&mut packet, now);
    let mut out: Vec<(IpAddr, Vec<u8>)> = Vec::new();
    if let Some(next_hop) = verdict.next_hop() {
        out.push((next_hop, packet.bytes().to_vec()));
    }
    while let Some(outgoing) = director.poll_transmit() {
        if let Some(next_hop) = outgoing.verdict.next_hop() {
            out.push((next_hop, outgoing.packet));
        }
    }
    Outcome { verdict, out, steps }
}

/// Whether two packets are the same but for what a recording cannot fix:
///
/// - identification (and so header checksum) of IPv4 headers that the kernel made itself with DF clear, and the
///   flow label of its own ICMPv6: drawn at random;
/// - the UDP source port of GUE, and with it its checksum: a random hash;
/// - checksums of GUE and GRE, and of translated ICMPv6 errors: recorded before a device finished them. Ours must
///   be right, see [`checksums_are_right`].
pub fn same_packet(ours: &[u8], kernels: &[u8]) -> bool {
    ours.len() == kernels.len() && masked(ours) == masked(kernels)
}

fn masked(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() < 28 {
        return packet;
    }
    if packet[0] >> 4 == 4 {
        let (protocol, df) = (packet[9], packet[6] & 0x40 != 0);
        let first = packet[6] & 0x1f == 0 && packet[7] == 0;
        let gue = protocol == 17 && packet[22..24] == GUE_PORT;
        if matches!(protocol, 1 | 4 | 41 | 47) || gue || !first {
            if !df {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
            if first && gue {
                packet[20..22].fill(0);
                packet[26..28].fill(0);
            }
            if first && protocol == 47 && packet[20] & 0x80 != 0 {
                packet[24..26].fill(0);
            }
        }
    } else if packet.len() < 52 {
        // Neither ICMPv6 nor a tunnel.
    } else if packet[6] == 58 {
        packet[1..4].fill(0);
        packet[42..44].fill(0);
    } else if packet[6] == 17 && packet[42..44] == GUE_PORT {
        packet[40..42].fill(0);
    }
    packet
}

/// 6080, the port of the recordings.
const GUE_PORT: [u8; 2] = [0x17, 0xc0];

/// Whether every checksum that the comparison leaves out is right: by full sums over the whole packet.
pub fn checksums_are_right(packet: &[u8]) -> bool {
    let sum = |bytes: &[u8], start: u32| {
        let mut sum = start;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    };
    if packet[0] >> 4 == 4 {
        let whole = packet[6] & 0x3f == 0 && packet[7] == 0;
        let header = usize::from(packet[0] & 15) * 4;
        let upper = &packet[header..];
        return sum(&packet[..header], 0) == 0xffff
            && match packet[9] {
                1 if whole => sum(upper, 0) == 0xffff,
                47 if whole && upper[0] & 0x80 != 0 => sum(upper, 0) == 0xffff,
                17 if whole && upper[2..4] == GUE_PORT && upper[6..8] != [0, 0] => {
                    sum(upper, sum(&packet[12..20], 17 + upper.len() as u32)) == 0xffff
                }
                _ => true,
            };
    }
    let upper = &packet[40..];
    packet[6] != 58 || sum(upper, sum(&packet[8..40], 58 + upper.len() as u32)) == 0xffff
}

/// Whether a packet went where the recording says: the named real server, or the client's side.
pub fn same_way(next_hop: IpAddr, recorded: &PacketOut) -> bool {
    let server = match recorded.dmac.rsplit(':').next() {
        Some("0b") if recorded.at == "rs" => "11",
        Some("0c") if recorded.at == "rs" => "12",
        Some("0d") if recorded.at == "rs" => "13",
        Some("0e") if recorded.at == "rs" => "14",
        _ => return recorded.at == "client" && !is_server(next_hop),
    };
    next_hop.to_string() == format!("10.0.2.{server}")
        || next_hop.to_string() == format!("2001:db8:2::{server}")
}

fn is_server(addr: IpAddr) -> bool {
    let text = addr.to_string();
    text.starts_with("10.0.2.") || text.starts_with("2001:db8:2::")
}
