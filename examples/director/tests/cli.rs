//! The program as a user runs it: verbs, exit codes, output.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lvs_core::Instant;
use lvs_core::io::{CaptureReader, CaptureWriter, LinkType};
use serde_json::Value;

fn lvs_director(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lvs-director")).args(args).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("output is text")
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

/// A directory of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).expect("the target directory can be written");
    dir
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// The first recorded case of the kernel: a NAT connection from SYN to reset.
fn recorded_nat_tcp() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kernel-6.1.192/packets.jsonl");
    let text = std::fs::read_to_string(path).expect("the recordings are in the repository");
    json_lines(&text).into_iter().find(|case| case["case"] == "nat-tcp").expect("the case is there")
}

#[test]
fn demo_says_the_same_for_the_same_seed_and_loses_only_what_the_dead_server_held() {
    let run = || {
        let output = stdout(&lvs_director(&["demo", "--connections", "600", "--seed", "7", "--json"]));
        let mut modes = json_lines(&output);
        for mode in &mut modes {
            mode.as_object_mut()
                .expect("an object")
                .remove("wall_seconds")
                .expect("it says how long it took");
        }
        modes
    };
    let modes = run();
    assert_eq!(modes, run());
    let names: Vec<_> = modes.iter().map(|mode| mode["mode"].as_str().unwrap()).collect();
    assert_eq!(names, ["nat", "dr", "tun", "fullnat"]);
    for mode in &modes {
        let count = |key: &str| mode[key].as_u64().unwrap();
        assert_eq!(count("failed"), 0, "{mode}");
        assert_eq!(count("completed") + count("lost_with_server"), 600, "{mode}");
        assert_eq!(mode["phases"].as_array().unwrap().len(), 3);
    }
}

#[test]
fn replay_tells_and_writes_what_the_kernel_sent() {
    let case = recorded_nat_tcp();
    let dir = scratch("replay");
    let (rules, input, output) = (dir.join("nat.rules"), dir.join("in.pcap"), dir.join("out.pcap"));
    let lines: Vec<_> = case["setup"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    std::fs::write(&rules, lines.join("\n")).unwrap();
    let mut writer =
        CaptureWriter::new(BufWriter::new(File::create(&input).unwrap()), LinkType::Raw).unwrap();
    let steps = case["steps"].as_array().unwrap();
    for (n, step) in steps.iter().enumerate() {
        writer.write(Instant::from_millis(1000 + n as u64), &unhex(step["ip"].as_str().unwrap())).unwrap();
    }
    drop(writer.into_inner());

    let [rules, input] = [&rules, &input].map(|path| path.to_str().unwrap());
    let out = output.to_str().unwrap();
    let text = stdout(&lvs_director(&[
        "replay",
        "--rules",
        rules,
        "--address",
        "10.0.2.1",
        "--in",
        input,
        "--out",
        out,
        "--json",
    ]));
    let told = json_lines(&text);
    assert_eq!(told.len(), steps.len());
    assert_eq!(told[0]["n"], 1);
    assert_eq!(told[0]["verdict"], "transmit");
    assert_eq!(told[0]["service"], "10.9.0.1:80");
    assert_eq!(told[0]["server"], "10.0.2.11:8080");
    assert_eq!(told[0]["next_hop"], "10.0.2.11");
    let mut sent = Vec::new();
    for (line, step) in told.iter().zip(steps) {
        let ours: Vec<_> = line["out"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
        let kernels: Vec<_> =
            step["out"].as_array().unwrap().iter().map(|o| o["ip"].as_str().unwrap()).collect();
        if step["name"] == "ttl1" {
            // The kernel draws the identification of its ICMP errors at random.
            assert_eq!(ours[0][24..], kernels[0][24..]);
        } else {
            assert_eq!(ours, kernels, "{}", step["name"]);
        }
        sent.extend(ours.into_iter().map(unhex));
    }
    let written: Vec<_> =
        CaptureReader::new(File::open(&output).unwrap()).unwrap().map(|f| f.unwrap().bytes).collect();
    assert_eq!(written, sent);
}

#[test]
fn explain_tells_every_step() {
    let rules = scratch("explain").join("web.rules");
    std::fs::write(&rules, "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m\n").unwrap();
    let rules = rules.to_str().unwrap();
    let text = stdout(&lvs_director(&["explain", "--rules", rules, "tcp", "192.0.2.1:4000", "10.9.0.1:80"]));
    for part in [
        "none known",
        "TCP  10.9.0.1:80",
        "scheduler rr: 10.0.2.11:8080",
        "by Masq",
        "destination 10.0.2.11:8080",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

#[test]
fn wrong_rules_are_refused_with_their_place() {
    let rules = scratch("wrong").join("web.rules");
    std::fs::write(&rules, "-A -t 10.9.0.1:80 -s wwrr\n").unwrap();
    let rules = rules.to_str().unwrap();
    let output = lvs_director(&["explain", "--rules", rules, "tcp", "192.0.2.1:4000", "10.9.0.1:80"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("web.rules:1:22: `wwrr` is no scheduler; expected wrr"), "{told}");
}

#[test]
fn print_routes_needs_no_root_and_changes_nothing() {
    let rules = scratch("routes").join("web.rules");
    std::fs::write(&rules, "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m\n").unwrap();
    let text = stdout(&lvs_director(&[
        "run",
        "--rules",
        rules.to_str().unwrap(),
        "--tun",
        "lvs0",
        "--print-routes",
    ]));
    assert!(text.contains("10.9.0.1") && text.contains("10.0.2.11"), "{text}");
}
