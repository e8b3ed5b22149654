//! ICMP errors about flows.

use lvs_core::{DropReason, Verdict};

use super::helpers::*;

#[test]
fn errors_follow_a_translated_flow_both_ways() {
    let mut director = nat();
    establish(&mut director, CLIENT, secs(1));
    // From the server's side, about what the client sent.
    let seen = tcp(at(CLIENT), at(RIP1), ACK);
    let out = feed(&mut director, &icmp("10.0.2.254", "172.16.0.9", 3, 1, 0, &seen[..28]), secs(1));
    let (kind, code, _, quote) = icmp_parts(out.transmitted("172.16.0.9"));
    assert_eq!((kind, code, src_of(&out.bytes)), (3, 1, ip("10.9.0.1")));
    assert_eq!(quote[..24][12..], tcp(at(CLIENT), at(VIP), ACK)[12..24]);
    // From the client's side, about what the server sent.
    let seen = tcp(at(VIP), at(CLIENT), ACK);
    let out = feed(&mut director, &icmp("172.16.0.1", "10.9.0.1", 11, 0, 0, &seen), secs(1));
    let (kind, _, _, quote) = icmp_parts(out.transmitted("10.0.2.11"));
    assert_eq!((kind, src_of(&out.bytes)), (11, ip("172.16.0.1")));
    assert_eq!(quote[12..24], tcp(at(RIP1), at(CLIENT), ACK)[12..24]);
}

#[test]
fn errors_follow_a_fullnat_flow_both_ways() {
    let rules = "-A -t [2001:db8::1]:80 -s rr --laddr 2001:db8:2::201
        -a -t [2001:db8::1]:80 -r [2001:db8:2::11]:80 --fullnat";
    let mut director = director(config(), rules);
    let (client, vip, rip) = (at("[2001:db8:9::9]:30000"), at("[2001:db8::1]:80"), at("[2001:db8:2::11]:80"));
    let out = feed(&mut director, &tcp(client, vip, SYN), secs(1));
    let local = checked(out.transmitted("2001:db8:2::11")).0;
    let error = icmp("2001:db8:2::fe", "2001:db8:2::201", 1, 3, 0, &tcp(local, rip, SYN));
    let out = feed(&mut director, &error, secs(1));
    let (kind, _, _, quote) = icmp_parts(out.transmitted("2001:db8:9::9"));
    assert_eq!((kind, src_of(&out.bytes)), (1, vip.addr));
    assert_eq!(quote[8..44], tcp(client, vip, SYN)[8..44]);
    let error = icmp("2001:db8:9::1", "2001:db8::1", 2, 0, 1400, &tcp(vip, client, ACK));
    let out = feed(&mut director, &error, secs(1));
    let (kind, _, mtu, quote) = icmp_parts(out.transmitted("2001:db8:2::11"));
    assert_eq!((kind, mtu, src_of(&out.bytes)), (2, 1400, local.addr));
    assert_eq!(quote[8..44], tcp(rip, local, ACK)[8..44]);
}

#[test]
fn a_forged_error_changes_nothing_about_a_flow() {
    let mut director = nat();
    establish(&mut director, CLIENT, secs(1));
    let before = connections(&director);
    for flags in [SYN, RST, FIN] {
        let seen = tcp(at(VIP), at(CLIENT), flags);
        feed(&mut director, &icmp("172.16.0.1", "10.9.0.1", 3, 3, 0, &seen), secs(5));
    }
    assert_eq!(connections(&director), before);
}

#[test]
fn errors_that_cannot_be_right_are_dropped_by_name() {
    let mut director = nat();
    establish(&mut director, CLIENT, secs(1));
    let seen = tcp(at(VIP), at(CLIENT), ACK);
    let mut wrong = icmp("172.16.0.1", "10.9.0.1", 3, 3, 0, &seen);
    wrong[22] ^= 1;
    dropped(&mut director, &wrong, secs(1), DropReason::BadIcmpChecksum);
    for len in 0..20 {
        let short = icmp("172.16.0.1", "10.9.0.1", 3, 3, 0, &seen[..len]);
        dropped(&mut director, &short, secs(1), DropReason::Malformed);
    }
    // Shorter than the ports, or a later fragment: nobody knows whose it is.
    for len in 20..24 {
        let out = feed(&mut director, &icmp("172.16.0.1", "10.9.0.1", 3, 3, 0, &seen[..len]), secs(1));
        assert_eq!(out.verdict, Verdict::Pass);
    }
    let later =
        fragments(&udp_with(at(VIP), at(CLIENT), Shape { df: false, payload: 100, ..PLAIN }), 68).remove(1);
    let out = feed(&mut director, &icmp("172.16.0.1", "10.9.0.1", 3, 3, 0, &later), secs(1));
    assert_eq!(out.verdict, Verdict::Pass);
}

#[test]
fn no_error_answers_an_error() {
    let mut director = nat();
    establish(&mut director, CLIENT, secs(1));
    let mut error = icmp("172.16.0.1", "10.9.0.1", 3, 3, 0, &tcp(at(VIP), at(CLIENT), ACK));
    lvs_core::wire::ipv4::set_ttl(&mut error, 1);
    let sum = lvs_core::wire::checksum::ipv4_header_checksum(&error[..20]);
    error[10..12].copy_from_slice(&sum.to_be_bytes());
    dropped(&mut director, &error, secs(1), DropReason::TtlExceeded);
}

#[test]
fn errors_go_to_the_server_of_an_untranslated_flow() {
    for (method, outer) in [("-g", 0), ("-i", 20)] {
        let rules = format!("-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:80 {method}");
        let mut director = director(config(), &rules);
        establish(&mut director, CLIENT, secs(1));
        let error = icmp("172.16.0.1", "10.9.0.1", 3, 4, 1400, &tcp(at(VIP), at(CLIENT), ACK));
        let out = feed(&mut director, &error, secs(1));
        let inner = &out.transmitted("10.0.2.11")[outer..];
        assert_eq!(inner[12..], error[12..], "{method}");
    }
}
