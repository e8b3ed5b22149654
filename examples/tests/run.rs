//! Every example runs to its end and says what its header promises. `custom_proxy` needs loopback, nothing more.

#[path = "../custom_proxy.rs"]
#[expect(dead_code, reason = "the test calls `run`, not `main`")]
mod custom_proxy;
#[path = "../nat_in_memory.rs"]
#[expect(dead_code, reason = "the test calls `run`, not `main`")]
mod nat_in_memory;
#[path = "../pcap_replay.rs"]
#[expect(dead_code, reason = "the test calls `run`, not `main`")]
mod pcap_replay;
#[path = "../quickstart.rs"]
#[expect(dead_code, reason = "the test calls `run`, not `main`")]
mod quickstart;

fn text(out: Vec<u8>) -> String {
    String::from_utf8(out).expect("examples write text")
}

#[test]
fn quickstart_shares_four_clients_and_passes_the_fifth() {
    let mut out = Vec::new();
    quickstart::run(&mut out).unwrap();
    let out = text(out);
    let to = |server: &str| out.matches(&format!("now addressed to {server}\n")).count();
    assert_eq!((to("10.0.2.11"), to("10.0.2.12"), to("10.9.0.1")), (3, 1, 1), "{out}");
    assert!(out.contains("  -> 10.0.2.11:8080               Masq    3      3          0"), "{out}");
    assert!(out.contains("scheduler wlc: 10.0.2.12:8080"), "{out}");
}

#[test]
fn nat_in_memory_shows_both_translations() {
    let mut out = Vec::new();
    nat_in_memory::run(&mut out).unwrap();
    let out = text(out);
    for line in ["172.16.0.9:30001   10.0.2.11:8080     63", "10.9.0.1:80        172.16.0.9:30001   63"] {
        assert!(out.contains(line), "{line} is missing in\n{out}");
    }
    assert!(!out.contains("WRONG"), "{out}");
}

#[test]
fn pcap_replay_translates_and_lets_the_old_connection_expire() {
    let mut out = Vec::new();
    pcap_replay::run(&mut out).unwrap();
    let out = text(out);
    let (_, output) = out.split_once("Output:").expect("two captures are listed");
    let lines: Vec<_> = output.trim().lines().map(str::trim).collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert_eq!(lines[2], "1035 ms  UDP 10.9.0.1:53 -> 172.16.0.1:5353");
    assert!(lines[3].starts_with("400000 ms  UDP 172.16.0.1:5353 -> 10.0.2.1"), "{out}");
    assert!(out.contains("1 connections open"), "{out}");
}

#[test]
fn custom_proxy_leaves_out_the_stopped_backend() {
    let mut out = Vec::new();
    custom_proxy::run(&mut out).unwrap();
    let out = text(out);
    let phase = |name: &str| out.lines().find(|line| line.starts_with(name)).expect(name);
    assert!(!out.contains("nobody"), "{out}");
    assert!(["\"a\"", "\"b\"", "\"c\""].iter().all(|backend| phase("all up").contains(backend)), "{out}");
    assert!(phase("b stopped").contains("{\"a\": 10, \"c\": 10}"), "{out}");
    assert!(phase("b is back").contains("\"b\""), "{out}");
    assert_eq!(out.lines().filter(|line| line.starts_with("health")).count(), 2, "{out}");
}
