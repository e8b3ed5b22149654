//! FULLNAT: local addresses and ports, and who the client is.

use lvs_core::conn::Filter;
use lvs_core::wire::checksum::transport_checksum;
use lvs_core::{Config, Director, DropReason, FullNatOptions, Limits, toa};

use super::helpers::*;

const RULES: &str =
    "-A -t 10.9.0.1:80 -s rr --laddr 10.0.2.201\n-a -t 10.9.0.1:80 -r 10.0.2.11:8080 --fullnat";

fn with_ports(ports: std::ops::RangeInclusive<u16>) -> Config {
    Config { limits: Limits { local_ports: ports, ..Limits::default() }, ..config() }
}

#[test]
fn both_addresses_are_rewritten_there_and_back() {
    let mut director = director(config(), RULES);
    let out = feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
    let (local, server) = checked(out.transmitted("10.0.2.11"));
    assert_eq!((local.addr, server), (ip("10.0.2.201"), at(RIP1)));
    let back = feed(&mut director, &tcp(at(RIP1), local, SYN | ACK), secs(1));
    assert_eq!(checked(back.transmitted("172.16.0.9")), (at(VIP), at(CLIENT)));
}

#[test]
fn the_server_is_told_the_client_on_the_syn_and_on_the_next_packet() {
    let mut director = director(config(), RULES);
    let mut told = |flags| {
        let out = feed(&mut director, &tcp(at(CLIENT), at(VIP), flags), secs(1));
        checked(out.transmitted("10.0.2.11"));
        toa::find(&out.bytes[20..])
    };
    assert_eq!(told(SYN), Some(at(CLIENT)));
    assert_eq!(told(ACK), Some(at(CLIENT)));
    assert_eq!(told(ACK), None);
    let off = Config { fullnat: FullNatOptions { toa: false, ..FullNatOptions::default() }, ..config() };
    let mut director = super::helpers::director(off, RULES);
    let out = feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
    assert_eq!((out.bytes.len(), toa::find(&out.bytes[20..])), (40, None));
}

#[test]
fn exhausted_ports_are_a_named_drop_and_come_back_after_expiry() {
    let mut director = director(with_ports(5000..=5002), RULES);
    for n in 0..3 {
        feed(&mut director, &tcp(at(&client(n)), at(VIP), SYN), secs(1)).transmitted("10.0.2.11");
    }
    let fourth = tcp(at(&client(3)), at(VIP), SYN);
    dropped(&mut director, &fourth, secs(1), DropReason::LocalPortsExhausted);
    assert_eq!((director.connection_count(), loads(&director)), (3, vec![(3, 0)]));
    director.handle_timeout(secs(62));
    for round in 0..100 {
        for n in 0..3 {
            feed(&mut director, &tcp(at(&client(n)), at(VIP), SYN), secs(63 + round))
                .transmitted("10.0.2.11");
        }
        assert_eq!(director.kill(Filter::default()), 3);
    }
    feed(&mut director, &fourth, secs(200)).transmitted("10.0.2.11");
}

/// Every way of refusing a SYN gives its local port back.
#[test]
fn a_refused_syn_keeps_no_port() {
    let refused = |director: &mut Director| {
        for _ in 0..5 {
            let late = tcp_with(at(CLIENT), at(VIP), SYN, Shape { ttl: 1, ..PLAIN });
            feed(director, &late, secs(1)).replied("172.16.0.9");
            let large = tcp_with(at(CLIENT), at(VIP), SYN, Shape { payload: 1461, ..PLAIN });
            feed(director, &large, secs(1)).replied("172.16.0.9");
        }
        feed(director, &tcp(at(CLIENT), at(VIP), SYN), secs(1)).transmitted("10.0.2.11");
    };
    refused(&mut director(with_ports(5000..=5000), RULES));
    // A full table too.
    let mut limits = with_ports(5000..=5001).limits;
    limits.connections.ipv4 = 1;
    let mut director = director(Config { limits, ..config() }, RULES);
    establish(&mut director, &client(1), secs(1));
    for _ in 0..5 {
        dropped(&mut director, &tcp(at(&client(2)), at(VIP), SYN), secs(1), DropReason::TableFull);
    }
    director.kill(Filter::default());
    establish(&mut director, &client(2), secs(2));
}

/// A client that tries every port of a service without one must not make the director keep a table of ports for
/// each of them.
#[test]
fn a_server_without_a_port_has_one_range_for_all_ports() {
    let rules = "-A -f 7 -s rr --laddr 10.0.2.201\n-a -f 7 -r 10.0.2.11 --fullnat";
    let mut director = director(with_ports(5000..=5001), rules);
    let mark = lvs_core::wire::Meta { mark: 7, ..Default::default() };
    let mut open =
        |dst: &str| feed_with(&mut director, &tcp(at(CLIENT), at(dst), SYN), mark, secs(1)).verdict;
    for dst in ["10.9.0.1:80", "10.9.0.1:443"] {
        assert!(matches!(open(dst), lvs_core::Verdict::Transmit { .. }));
    }
    assert_eq!(open("10.9.0.1:22"), lvs_core::Verdict::Drop(DropReason::LocalPortsExhausted));
    assert_eq!(director.kill(Filter::default()), 2);
    let out = feed_with(&mut director, &tcp(at(CLIENT), at("10.9.0.1:22"), SYN), mark, secs(1));
    assert_eq!(checked(out.transmitted("10.0.2.11")).1, at("10.0.2.11:22"));
    // A restored connection finds its port by the same rule.
    let snapshot = director.snapshot(secs(1));
    director.kill(Filter::default());
    assert_eq!(director.restore(&snapshot, secs(1)), Ok(1));
    assert_eq!(director.kill(Filter::default()), 1);
}

/// The SYN came twice: the ACK behind it still tells.
#[test]
fn the_packet_behind_a_repeated_syn_tells_too() {
    let mut director = director(config(), RULES);
    let told = [SYN, SYN, ACK, ACK].map(|flags| {
        let out = feed(&mut director, &tcp(at(CLIENT), at(VIP), flags), secs(1));
        toa::find(&out.bytes[20..]).is_some()
    });
    assert_eq!(told, [true, true, true, false]);
}

/// A TCP segment of the client with these options.
fn with_options(flags: lvs_core::wire::TcpFlags, options: &[u8]) -> Vec<u8> {
    let plain = tcp(at(CLIENT), at(VIP), flags);
    let mut segment = plain[20..].to_vec();
    segment.extend_from_slice(options);
    segment[12] = (segment.len() as u8 / 4) << 4;
    let sum = transport_checksum(ip("172.16.0.9"), ip("10.9.0.1"), 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    packet(ip("172.16.0.9"), ip("10.9.0.1"), 6, PLAIN, &segment)
}

const FORGED: [u8; 8] = [254, 8, 0, 99, 192, 0, 2, 66];

/// Servers believe the option; a client must not speak for another, even where the director's own finds no room.
#[test]
fn a_client_cannot_pass_for_another() {
    let mut director = director(config(), RULES);
    let full = [&[1], &FORGED[..], &[253, 20], &[7; 18], &[8, 10], &[9; 8], &[1]].concat();
    for (flags, told) in [(SYN, None), (ACK, None), (ACK, None)] {
        let out = feed(&mut director, &with_options(flags, &full), secs(1));
        checked(out.transmitted("10.0.2.11"));
        assert_eq!(toa::find(&out.bytes[20..]), told);
        assert_eq!(out.bytes.len(), 80, "no room was made");
        assert_eq!(out.bytes[69..79], [8, 10, 9, 9, 9, 9, 9, 9, 9, 9], "other options stay");
    }
    let late = feed(&mut director, &with_options(ACK, &FORGED), secs(1));
    checked(late.transmitted("10.0.2.11"));
    assert_eq!(toa::find(&late.bytes[20..]), None);
    assert_eq!(director.counters().toa_refused, 2);
}

#[test]
fn blanking_timestamps_does_not_need_toa() {
    let timestamp = [1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0];
    for toa in [false, true] {
        let fullnat = FullNatOptions { toa, blank_timestamp: true };
        let mut director = director(Config { fullnat, ..config() }, RULES);
        let out = feed(&mut director, &with_options(SYN, &timestamp), secs(1));
        checked(out.transmitted("10.0.2.11"));
        let len = out.bytes.len();
        assert_eq!(out.bytes[len - 12..], [1; 12]);
        let out = feed(&mut director, &with_options(ACK, &timestamp), secs(1));
        let len = out.bytes.len();
        assert_eq!(out.bytes[len - 12..], timestamp, "only on the SYN");
    }
}
