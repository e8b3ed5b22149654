//! What is not the director's: martians, groups, the host's own traffic.

use lvs_core::wire::{ChecksumState, Meta};
use lvs_core::{Config, DropReason, PassPolicy, Verdict};

use super::helpers::*;

fn answering() -> Config {
    Config { pass: PassPolicy::Answer, ..config() }
}

#[test]
fn pass_leaves_bytes_and_metadata_alone() {
    let mut director = nat();
    let meta = Meta { mark: 7, checksum: ChecksumState::Partial { start: 20, offset: 16 }, gso: None };
    for packet in [
        tcp(at(CLIENT), at("10.9.0.7:80"), SYN),
        tcp(at(CLIENT), at(VIP), ACK),
        icmp("172.16.0.9", "10.9.0.1", 8, 0, 1, b"ping"),
        packet(ip("172.16.0.9"), ip("10.9.0.1"), 50, PLAIN, &[1; 40]),
        fragments(&udp_with(at(CLIENT), at("10.9.0.7:80"), Shape { df: false, payload: 100, ..PLAIN }), 68)
            .remove(1),
    ] {
        let out = feed_with(&mut director, &packet, meta, secs(1));
        assert_eq!((out.verdict, out.bytes, out.meta), (Verdict::Pass, packet, meta));
        assert!(out.beside.is_empty());
    }
    assert_eq!(director.connection_count(), 0);
}

#[test]
fn martian_sources_and_destinations_are_dropped() {
    let mut director = nat();
    for (src, dst) in [
        ("127.0.0.1:5", VIP),
        ("224.0.0.1:5", VIP),
        ("255.255.255.255:5", VIP),
        ("0.0.0.0:5", VIP),
        ("172.16.0.9:5", "127.0.0.1:80"),
        ("172.16.0.9:5", "0.0.0.0:80"),
        ("[::1]:5", "[2001:db8::1]:80"),
        ("[ff02::1]:5", "[2001:db8::1]:80"),
        ("[::]:5", "[2001:db8::1]:80"),
        ("[2001:db8::7]:5", "[::1]:80"),
        // "Land": a packet from its own destination.
        ("10.9.0.1:80", VIP),
    ] {
        dropped(&mut director, &tcp(at(src), at(dst), SYN), secs(1), DropReason::Martian);
    }
    assert_eq!(director.connection_count(), 0);
}

/// DHCP, duplicate address detection, VRRP: the host needs them, and IPVS takes packets for one host only.
#[test]
fn packets_to_a_group_are_the_hosts() {
    let rules = "-A -f 7 -s rr\n-a -f 7 -r 10.0.2.11:8080 -m";
    let mark = Meta { mark: 7, ..Meta::default() };
    let packets = [
        udp(at("0.0.0.0:68"), at("255.255.255.255:67")),
        udp(at("172.16.0.9:5353"), at("224.0.0.251:5353")),
        icmp("::", "ff02::1:ff00:1", 135, 0, 0, &[0; 16]),
        fragments(
            &udp_with(at(CLIENT), at("224.0.0.251:5353"), Shape { df: false, payload: 100, ..PLAIN }),
            68,
        )
        .remove(0),
    ];
    let mut director = director(config(), rules);
    for packet in &packets {
        let out = feed_with(&mut director, packet, mark, secs(1));
        assert_eq!((out.verdict, &out.bytes), (Verdict::Pass, packet));
    }
    assert_eq!(director.connection_count(), 0);
}

#[test]
fn without_a_host_packets_of_servers_to_groups_are_not_forwarded() {
    let mut director = director(answering(), NAT);
    for dst in ["224.0.0.251:5353", "255.255.255.255:67"] {
        dropped(&mut director, &udp(at("10.0.2.11:9999"), at(dst)), secs(1), DropReason::NotForUs);
    }
    dropped(&mut director, &udp(at("10.0.2.11:9999"), at("127.0.0.1:53")), secs(1), DropReason::Martian);
}

#[test]
fn without_a_host_the_engine_answers_for_it() {
    let mut director = director(answering(), NAT);
    let reset = feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(1));
    assert_eq!(checked(reset.replied("172.16.0.9")), (at(VIP), at(CLIENT)));
    assert_eq!(reset.bytes[33], RST.bits());
    let ping = feed(&mut director, &icmp("172.16.0.9", "10.9.0.1", 8, 0, 1, b"ping"), secs(1));
    assert_eq!(icmp_parts(ping.replied("172.16.0.9")), (0, 0, 1, &b"ping"[..]));
    let port = feed(&mut director, &udp(at(CLIENT), at("10.9.0.1:53")), secs(1));
    assert_eq!(icmp_parts(port.replied("172.16.0.9")).0, 3);
    // A server's own traffic goes through untranslated.
    let own = udp(at("10.0.2.11:9999"), at("172.16.0.9:53"));
    let out = feed(&mut director, &own, secs(1));
    assert_eq!(checked(out.transmitted("172.16.0.9")), (at("10.0.2.11:9999"), at("172.16.0.9:53")));
    assert_eq!(out.bytes[8], 63);
    dropped(&mut director, &udp(at(CLIENT), at("172.16.5.5:53")), secs(1), DropReason::NotForUs);
}

#[test]
fn nat_icmp_send_tells_a_server_that_nobody_waits() {
    let packet = tcp(at(RIP1), at(CLIENT), ACK);
    assert_eq!(feed(&mut nat(), &packet, secs(1)).verdict, Verdict::Pass);
    let mut director = director(with_sysctl(&[("nat_icmp_send", "1")]), NAT);
    let out = feed(&mut director, &packet, secs(1));
    let (kind, code, _, quote) = icmp_parts(out.replied("10.0.2.11"));
    assert_eq!((kind, code, src_of(&out.bytes)), (3, 3, ip("10.0.2.1")));
    assert_eq!(quote[8], 63, "the kernel had forwarded it already");
    // Never about a reset, nor another port of the server.
    assert_eq!(feed(&mut director, &tcp(at(RIP1), at(CLIENT), RST), secs(1)).verdict, Verdict::Pass);
    assert_eq!(feed(&mut director, &tcp(at("10.0.2.11:1"), at(CLIENT), ACK), secs(1)).verdict, Verdict::Pass);
}

#[test]
fn a_local_server_is_the_host() {
    // 10.0.2.1 is the director's own address.
    let rules = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.1:80 -g";
    let mut local = director(config(), rules);
    for flags in [SYN, ACK] {
        let packet = tcp(at(CLIENT), at(VIP), flags);
        let out = feed(&mut local, &packet, secs(1));
        assert_eq!((out.verdict, out.bytes), (Verdict::Pass, packet));
    }
    assert_eq!(loads(&local), [(1, 0)], "the scheduler knows of it");
    // Without a host behind the engine there is nobody.
    let mut none = director(answering(), rules);
    dropped(&mut none, &tcp(at(CLIENT), at(VIP), SYN), secs(1), DropReason::Unsupported);
    assert_eq!(none.connection_count(), 0);
}

#[test]
fn own_icmp_errors_are_limited() {
    let limited = Config { icmp_limits: Config::default().icmp_limits, ..config() };
    let mut director = director(limited, "-A -t 10.9.0.1:80 -s rr");
    let packet = tcp(at(CLIENT), at(VIP), SYN);
    let replies =
        (0..20).filter(|_| matches!(feed(&mut director, &packet, secs(5)).verdict, Verdict::Reply { .. }));
    assert_eq!(replies.count(), 6);
    assert_eq!(director.counters().dropped(DropReason::IcmpRateLimited), 14);
}
