//! Every packet of the kernel's recordings through the engine, compared byte for byte.

use lvs_core::Instant;
use lvs_tests::recordings::{apply, director_of, feed, packet_cases, same_packet, same_way, unhex};

#[test]
fn recorded_packets() {
    let (mut equal, mut different, mut refused) = (0, Vec::new(), Vec::new());
    for case in packet_cases() {
        let mut director = match director_of(&case) {
            Ok(director) => director,
            Err(why) => {
                refused.push((case.case.clone(), case.steps.len(), why));
                continue;
            }
        };
        for (n, step) in case.steps.iter().enumerate() {
            let now = Instant::from_millis(10 * (n as u64 + 1));
            let outcome = feed(&mut director, &unhex(&step.ip), now);
            let same = outcome.out.len() == step.out.len()
                && outcome.out.iter().zip(&step.out).all(|((hop, ours), kernels)| {
                    same_packet(ours, &unhex(&kernels.ip)) && same_way(*hop, kernels)
                });
            if same {
                equal += 1;
            } else {
                different.push(format!("{}/{}", case.case, step.name));
                println!("{} {}: {:?}", case.case, step.name, outcome.verdict);
                for (hop, ours) in &outcome.out {
                    println!("   ours   {hop} {}", hex(ours));
                }
                for out in &step.out {
                    println!("   kernel {} {}", out.at, out.ip);
                }
            }
            if n == 0 && case.case.starts_with("nat-rs-weight0-existing") {
                apply(&mut director, "-e -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 0").unwrap();
            }
            if n == 0 && case.case.starts_with("nat-dest-removed") {
                apply(&mut director, "-d -t 10.9.0.1:80 -r 10.0.2.11:8080").unwrap();
            }
        }
    }
    println!("equal {equal}, different {}: {different:#?}\nrefused: {refused:#?}", different.len());
    panic!("show");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
