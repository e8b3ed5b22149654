//! What is refused before anything changes, and which routes rules lead to.

use std::fs;
use std::sync::atomic::AtomicU32;

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// A rules file that is removed with its value.
struct RulesOnDisk(PathBuf);

impl RulesOnDisk {
    fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lvs-director-{}-{number}.rules", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for RulesOnDisk {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Prepares a director on a host that has the address 192.0.2.1.
fn prepared(rules: &str, options: &[&str]) -> Result<(Director, String), Box<dyn Error>> {
    let file = RulesOnDisk::new(rules);
    let words = ["run", "--tun", "tun0", "--rules", file.0.to_str().unwrap()];
    let args = Cli::try_parse_from(words.iter().chain(options))?.args;
    let of_host = |addr| addr == "192.0.2.1".parse::<IpAddr>().unwrap();
    prepare(&args, &of_host).map(|(director, plan)| (director, plan.to_string()))
}

fn refusal(rules: &str, options: &[&str]) -> String {
    let error = prepared(rules, options).expect_err("refused");
    assert_eq!(exit_code(&*error), 2, "{error}");
    error.to_string()
}

#[test]
fn nat_routes_the_vip_and_leads_the_servers_answers() {
    let rules =
        "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11 -m\n-a -t 10.9.0.1:80 -r 10.0.2.12 -m";
    let (director, plan) = prepared(rules, &[]).unwrap();
    assert_eq!(director.services()[0].servers.len(), 2);
    for command in [
        "ip -4 route add 10.9.0.1/32 dev tun0\n",
        "ip -4 rule add pref 7771 from 10.0.2.11 lookup 77\n",
        "ip -4 rule add pref 7771 from 10.0.2.12 lookup 77\n",
    ] {
        assert!(plan.contains(command), "{plan}");
    }
}

#[test]
fn fullnat_takes_local_addresses_from_the_pool_and_needs_no_rule() {
    let rules = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11 --fullnat\n\
                 -A -t [2001:db8::1]:80 -s rr\n-a -t [2001:db8::1]:80 -r [2001:db8:2::1] --fullnat";
    let pools = ["--fullnat-pool", "10.9.8.0/30", "--fullnat-pool", "2001:db8:9::/126"];
    let (director, plan) = prepared(rules, &pools).unwrap();
    let locals = |index: usize| {
        let services = director.services();
        let addrs: Vec<String> =
            services[index].service.local_addresses.iter().map(IpAddr::to_string).collect();
        addrs.join(" ")
    };
    assert_eq!(locals(0), "10.9.8.1 10.9.8.2");
    assert_eq!(locals(1), "2001:db8:9:: 2001:db8:9::1 2001:db8:9::2 2001:db8:9::3");
    assert!(plan.contains("ip -4 route add 10.9.8.0/30 dev tun0\n"), "{plan}");
    assert!(plan.contains("ip -6 route add 2001:db8:9::/126 dev tun0\n"), "{plan}");
    assert!(!plan.contains("rule"), "{plan}");
}

#[test]
fn own_local_addresses_are_kept_and_routed_one_by_one() {
    let rules = "-A -t 10.9.0.1:80 -s rr --laddr 10.7.0.5\n-a -t 10.9.0.1:80 -r 10.0.2.11 --fullnat";
    let (director, plan) = prepared(rules, &["--fullnat-pool", "10.9.8.0/30"]).unwrap();
    assert_eq!(director.services()[0].service.local_addresses, ["10.7.0.5".parse::<IpAddr>().unwrap()]);
    assert!(plan.contains("ip -4 route add 10.7.0.5/32 dev tun0\n") && !plan.contains("10.9.8"), "{plan}");
}

#[test]
fn fullnat_without_any_local_address_is_refused() {
    let rules = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11 --fullnat";
    let text = refusal(rules, &[]);
    assert!(text.contains(":2:1: ") && text.contains("needs local addresses"), "{text}");
}

#[test]
fn direct_routing_is_refused_with_what_would_work() {
    let text = refusal("-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11", &[]);
    assert!(text.contains(":2:1: 10.0.2.11:80 has the forwarding method DR"), "{text}");
    assert!(text.contains("expected -m (NAT), --fullnat or -i (tunnel)"), "{text}");
}

#[test]
fn a_tunnel_needs_a_source_of_the_servers_family() {
    let rules = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11 -i";
    assert!(refusal(rules, &["--address", "2001:db8::9"]).contains("needs a source address"));
    let (_, plan) = prepared(rules, &["--address", "10.9.9.9"]).unwrap();
    assert!(plan.contains("ip -4 route add 10.9.9.9/32 dev tun0\n"), "{plan}");
}

#[test]
fn addresses_of_the_host_are_refused_as_vip_and_as_server() {
    let vip = refusal("-A -t 192.0.2.1:80 -s rr", &[]);
    assert!(vip.starts_with("192.0.2.1 is an address of this host"), "{vip}");
    let server = refusal("-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 192.0.2.1:8080 -m", &[]);
    assert!(server.contains(":2:1: 192.0.2.1 is an address of this host"), "{server}");
}

#[test]
fn services_by_mark_are_refused() {
    assert!(refusal("-A -f 7 -s rr", &[]).contains(":1:1: a service by firewall mark"));
}

#[test]
fn wrong_options_say_what_would_be_right() {
    let rules = "-A -t [2001:db8::1]:80 -s rr";
    assert!(refusal(rules, &["--sysctl", "sloppy_tcp"]).contains("expected NAME=VALUE"));
    assert!(refusal(rules, &["--sysctl", "sloppy=1"]).contains("sloppy_tcp"));
    assert!(refusal(rules, &["--mtu", "1200"]).contains("expected 1280"));
    for (option, value, hint) in [
        ("--tun", "../etc", "as tun0"),
        ("--tun", "sixteen-letters-", "as tun0"),
        ("--address", "10.0.0.300", "as 10.0.0.9"),
        ("--fullnat-pool", "10.0.0.0/33", "10.0.0.0/8"),
        ("--rule-table", "254", "252"),
    ] {
        let words = ["run", "--rules", "x", option, value];
        let text = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(text.contains(hint), "{text}");
    }
}

#[test]
fn seeds_differ_unless_given() {
    assert_ne!(random_seed(), random_seed());
}
