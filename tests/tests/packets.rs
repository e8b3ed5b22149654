//! Every packet of the kernel's recordings through the engine, compared byte for byte.
#![expect(clippy::print_stdout, reason = "the counts are of interest, and so is what differs")]

use lvs_core::{Instant, Step};
use lvs_tests::recordings::{
    Outcome, PacketStep, apply, checksums_are_right, director_of, feed, packet_cases, same_packet, same_way,
    unhex,
};

/// Steps where the engine does something else on purpose, and why.
const DIFFERENT: &[(&str, &str)] = &[(
    "tun-ipip-mtu/icmp-fragneeded-about-outer",
    "a router reports a path MTU of 1300: the kernel's relayed error still says 1480, and only the client's next \
     packet is told 1280; the engine tells 1280 at once",
)];

/// What the kernel's host stack answered or forwarded in these recordings (`PassPolicy::Answer` does the same).
const BY_HOST_STACK: usize = 30;

#[test]
fn every_recorded_packet_is_equal_or_different_on_purpose() {
    let (mut equal, mut by_host, mut different) = (0, 0, Vec::new());
    for case in packet_cases() {
        let mut director = director_of(&case).expect("the rules of every recording are understood");
        for (n, step) in case.steps.iter().enumerate() {
            let now = Instant::from_millis(10 * (n as u64 + 1));
            let bytes = unhex(&step.ip);
            let outcome = feed(&mut director, &bytes, now);
            if is_same(&outcome, step) {
                equal += 1;
                by_host += usize::from(outcome.steps.iter().any(|step| matches!(step, Step::Host { .. })));
            } else {
                show(&case.case, step, &outcome);
                different.push(format!("{}/{}", case.case, step.name));
            }
            for (_, ours) in &outcome.out {
                // A wrong checksum that came in may go out wrong, but is never made here.
                let came_wrong = step.name.contains("badcsum");
                assert!(came_wrong || checksums_are_right(ours), "{}/{}: checksum", case.case, step.name);
            }
            // What the recording's notes say was done after the first packet.
            if n == 0 && case.case == "nat-rs-weight0-existing" {
                apply(&mut director, "-e -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 0").unwrap();
            }
            if n == 0 && case.case.starts_with("nat-dest-removed") {
                apply(&mut director, "-d -t 10.9.0.1:80 -r 10.0.2.11:8080").unwrap();
            }
        }
    }
    println!(
        "{equal} equal, {by_host} of them in the host stack's place; {} different on purpose",
        different.len()
    );
    let expected: Vec<_> = DIFFERENT.iter().map(|(step, _)| (*step).to_owned()).collect();
    assert_eq!(different, expected);
    assert_eq!((equal, by_host), (380, BY_HOST_STACK));
}

fn is_same(outcome: &Outcome, step: &PacketStep) -> bool {
    outcome.out.len() == step.out.len()
        && outcome.out.iter().zip(&step.out).all(|((next_hop, ours), kernels)| {
            same_packet(ours, &unhex(&kernels.ip)) && same_way(*next_hop, kernels)
        })
}

fn show(case: &str, step: &PacketStep, outcome: &Outcome) {
    println!("{case}/{}: {:?}", step.name, outcome.verdict);
    for (next_hop, ours) in &outcome.out {
        let ours: String = ours.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("  ours, to {next_hop}: {ours}");
    }
    for kernels in &step.out {
        println!("  the kernel's, at {}: {}", kernels.at, kernels.ip);
    }
}
