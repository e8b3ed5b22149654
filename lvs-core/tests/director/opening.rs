//! Which packets open connections, and what is left of those that do not.

use lvs_core::conn::{Capacity, State};
use lvs_core::wire::Meta;
use lvs_core::{Config, DropReason, Limits, MarkRule, Verdict};

use super::helpers::*;

fn small(config: Config, ipv4: u32) -> Config {
    Config { limits: Limits { connections: Capacity { ipv4, ipv6: 0 }, ..Limits::default() }, ..config }
}

#[test]
fn a_dropped_syn_leaves_no_entry() {
    // No server, TTL used up, too large: each is refused before anything is opened.
    let mut empty = director(config(), "-A -t 10.9.0.1:80 -s rr");
    let refused = feed(&mut empty, &tcp(at(CLIENT), at(VIP), SYN), secs(1));
    let (kind, code, _, quote) = icmp_parts(refused.replied("172.16.0.9"));
    assert_eq!((kind, code, src_of(&refused.bytes)), (3, 3, ip("10.9.0.1")));
    assert_eq!(quote, tcp(at(CLIENT), at(VIP), SYN), "the original is quoted as it came");
    assert_eq!(empty.connection_count(), 0);

    let mut director = nat();
    let late = tcp_with(at(CLIENT), at(VIP), SYN, Shape { ttl: 1, ..PLAIN });
    assert_eq!(icmp_parts(feed(&mut director, &late, secs(1)).replied("172.16.0.9")).0, 11);
    let large = tcp_with(at(CLIENT), at(VIP), SYN, Shape { payload: 1461, ..PLAIN });
    let out = feed(&mut director, &large, secs(1));
    assert_eq!(icmp_parts(out.replied("172.16.0.9")).2, 1500);
    assert_eq!((director.connection_count(), loads(&director)), (0, vec![(0, 0)]));
    assert_eq!(director.traffic().connections, 0);
}

#[test]
fn a_packet_that_finds_the_queue_full_leaves_no_entry() {
    let limits = Limits { outgoing: 1, ..Limits::default() };
    let mut director = director(
        Config { limits, ..config() },
        "-A -u 10.9.0.1:53 -s rr\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 -m",
    );
    let large = udp_with(at(CLIENT), at("10.9.0.1:53"), Shape { df: false, payload: 2000, ..PLAIN });
    dropped(&mut director, &large, secs(1), DropReason::QueueFull);
    let mut last = Verdict::Pass;
    for piece in fragments(&large, 1000) {
        last = feed(&mut director, &piece, secs(1)).verdict;
    }
    assert_eq!(last, Verdict::Drop(DropReason::QueueFull));
    assert_eq!((director.connection_count(), loads(&director)), (0, vec![(0, 0)]));
}

#[test]
fn only_a_syn_opens_unless_sloppy_tcp() {
    for flags in [ACK, FIN | ACK, RST, SYN | RST] {
        assert_eq!(feed(&mut nat(), &tcp(at(CLIENT), at(VIP), flags), secs(1)).verdict, Verdict::Pass);
    }
    let mut sloppy = director(with_sysctl(&[("sloppy_tcp", "1")]), NAT);
    feed(&mut sloppy, &tcp(at(CLIENT), at(VIP), ACK), secs(1)).transmitted("10.0.2.11");
    assert_eq!(states(&sloppy), [State::Established]);
    let other = at("172.16.0.9:30001");
    assert_eq!(feed(&mut sloppy, &tcp(other, at(VIP), RST), secs(1)).verdict, Verdict::Pass);
    // Active FTP data never opens.
    let data = at("172.16.0.9:20");
    assert_eq!(feed(&mut sloppy, &tcp(data, at(VIP), SYN), secs(1)).verdict, Verdict::Pass);
}

#[test]
fn a_full_table_evicts_half_open_connections_first() {
    let mut director = director(small(config(), 3), NAT);
    establish(&mut director, &client(1), secs(1));
    feed(&mut director, &tcp(at(&client(2)), at(VIP), SYN), secs(1));
    establish(&mut director, &client(3), secs(1));
    feed(&mut director, &tcp(at(&client(4)), at(VIP), SYN), secs(2)).transmitted("10.0.2.11");
    let clients: Vec<_> = connections(&director).iter().map(|conn| conn.client).collect();
    assert!(!clients.contains(&at(&client(2))), "the half-open one went");
    assert_eq!((clients.len(), director.counters().evicted), (3, 1));
    assert_eq!(loads(&director), [(3, 0)], "the kernel counts SYN_RECV as active");
}

#[test]
fn a_table_full_of_established_connections_refuses() {
    let mut director = director(small(config(), 2), NAT);
    establish(&mut director, &client(1), secs(1));
    establish(&mut director, &client(2), secs(1));
    dropped(&mut director, &tcp(at(&client(3)), at(VIP), SYN), secs(2), DropReason::TableFull);
    assert_eq!(states(&director), [State::Established, State::Established]);
    assert_eq!(loads(&director), [(2, 0)]);
}

/// One client port towards two VIPs with the same server: replies could not be told apart.
#[test]
fn a_taken_return_tuple_leads_to_the_next_candidate_and_then_to_a_named_drop() {
    let two = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m
        -A -t 10.9.0.2:80 -s rr\n-a -t 10.9.0.2:80 -r 10.0.2.12:8080 -m\n-a -t 10.9.0.2:80 -r 10.0.2.11:8080 -m";
    let mut director = director(config(), two);
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1)).transmitted("10.0.2.11");
    // rr would take .11, the newest.
    feed(&mut director, &tcp(at(CLIENT), at("10.9.0.2:80"), SYN), secs(1)).transmitted("10.0.2.12");
    apply(&mut director, "-A -t 10.9.0.3:80 -s rr\n-a -t 10.9.0.3:80 -r 10.0.2.11:8080 -m", secs(1));
    let third = tcp(at(CLIENT), at("10.9.0.3:80"), SYN);
    dropped(&mut director, &third, secs(1), DropReason::ReturnTupleTaken);
    assert_eq!(director.connection_count(), 2);
    // Once the first is over its place is free, swept or not.
    feed(&mut director, &third, secs(62)).transmitted("10.0.2.11");
}

#[test]
fn a_mark_rule_leads_to_the_marks_service() {
    let rule =
        MarkRule { protocol: None, destination: "10.9.0.0/24".parse().unwrap(), ports: 80..=443, mark: 7 };
    let rules = "-A -f 7 -s rr\n-a -f 7 -r 10.0.2.11 -m\n-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m";
    let mut director = director(Config { mark_rules: vec![rule], ..config() }, rules);
    let out = feed(&mut director, &tcp(at(CLIENT), at("10.9.0.1:443"), SYN), secs(1));
    assert_eq!(checked(out.transmitted("10.0.2.11")).1, at("10.0.2.11:443"), "the port stays");
    // The mark is asked before the address.
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1)).transmitted("10.0.2.11");
    assert!(connections(&director).iter().all(|conn| conn.mark == 7));
    // A packet's own mark comes before the rules, and one that no service has counts as none.
    let meta = Meta { mark: 9, ..Meta::default() };
    let other = tcp(at("172.16.0.9:30001"), at(VIP), SYN);
    feed_with(&mut director, &other, meta, secs(1)).transmitted("10.0.2.12");
}

#[test]
fn thresholds_under_rr_accept_exactly_that_many_flows() {
    let rules = "-A -t 10.9.0.1:80 -s rr
        -a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -x 3\n-a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m -x 3 -y 1";
    let mut director = director(config(), rules);
    for n in 0..6 {
        establish(&mut director, &client(n), secs(1));
    }
    let next = tcp(at(&client(6)), at(VIP), SYN);
    assert_eq!(icmp_parts(feed(&mut director, &next, secs(1)).replied("172.16.0.6")).0, 3);
    assert_eq!(loads(&director), [(3, 0), (3, 0)]);
    // Without -y a server is free below three quarters: 3 - 3 / 4 = 3. With -y 1 only when none is left.
    let end = |director: &mut lvs_core::Director, server: &str| {
        let conn = connections(director).into_iter().find(|conn| conn.server.addr == ip(server)).unwrap();
        let filter = lvs_core::conn::Filter { client: Some((conn.client.addr, 32)), ..Default::default() };
        assert_eq!(director.kill(filter), 1);
    };
    end(&mut director, "10.0.2.12");
    assert!(matches!(feed(&mut director, &next, secs(1)).verdict, Verdict::Reply { .. }));
    end(&mut director, "10.0.2.11");
    feed(&mut director, &next, secs(1)).transmitted("10.0.2.11");
}

#[test]
fn one_packet_scheduling_remembers_nothing() {
    let rules = "-A -u 10.9.0.1:53 -s rr -o\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 -m\n-a -u 10.9.0.1:53 -r 10.0.2.12:53 -m";
    let mut director = director(config(), rules);
    let packet = udp(at(CLIENT), at("10.9.0.1:53"));
    for hop in ["10.0.2.12", "10.0.2.11", "10.0.2.12"] {
        feed(&mut director, &packet, secs(1)).transmitted(hop);
    }
    assert_eq!((director.connection_count(), loads(&director)), (0, vec![(0, 0), (0, 0)]));
    assert_eq!(director.traffic().connections, 3);
    // As with the kernel the reply finds nobody who would translate it.
    assert_eq!(feed(&mut director, &udp(at("10.0.2.11:53"), at(CLIENT)), secs(1)).verdict, Verdict::Pass);
}

/// A service by mark may carry both protocols; TCP is more than one packet (`ip_vs_schedule`).
#[test]
fn one_packet_scheduling_is_for_udp() {
    let mut director =
        director(config(), "-A -f 7 -s rr -o\n-a -f 7 -r 10.0.2.11 -m\n-a -f 7 -r 10.0.2.12 -m");
    let mark = Meta { mark: 7, ..Meta::default() };
    let hop = feed_with(&mut director, &tcp(at(CLIENT), at(VIP), SYN), mark, secs(1)).next_hop();
    let ack = feed_with(&mut director, &tcp(at(CLIENT), at(VIP), ACK), mark, secs(1));
    ack.transmitted(&hop.to_string());
    assert_eq!(states(&director), [State::Established]);
    let before = director.connection_count();
    feed_with(&mut director, &udp(at(CLIENT), at("10.9.0.1:53")), mark, secs(1)).next_hop();
    assert_eq!(director.connection_count(), before);
}

/// UDP may end before its packet does; the checksum covers what its own length says.
#[test]
fn a_checksum_that_nat_fills_in_covers_the_datagram_only() {
    let mut director = director(config(), "-A -u 10.9.0.1:53 -s rr\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 -m");
    let mut segment = vec![0x75, 0x30, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4];
    segment.extend([0xaa, 0xbb, 0xcc, 0xdd]);
    let packet = packet(ip("172.16.0.9"), ip("10.9.0.1"), 17, PLAIN, &segment);
    let out = feed(&mut director, &packet, secs(1));
    let bytes = out.transmitted("10.0.2.11");
    let right = lvs_core::wire::checksum::transport_checksum_is_right;
    assert!(right(ip("172.16.0.9"), ip("10.0.2.11"), 17, &bytes[20..32]));
    assert_eq!(bytes[32..], [0xaa, 0xbb, 0xcc, 0xdd]);
}
