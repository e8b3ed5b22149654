//! How connections live on, are reused, and end.

use lvs_core::conn::{Filter, State};
use lvs_core::{Director, DropReason, TRASH_TIME, Verdict};

use super::helpers::*;

const TWO: &str = "-A -t 10.9.0.1:80 -s rr
    -a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m\n-a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m";
const DELETE_12: &str = "-d -t 10.9.0.1:80 -r 10.0.2.12:8080";

fn close(director: &mut Director, client: &str) {
    let (client, vip) = (at(client), at(VIP));
    feed(director, &tcp(client, vip, FIN | ACK), secs(2));
    feed(director, &tcp(at(RIP2), client, FIN | ACK), secs(2));
    assert_eq!(states(director), [State::TimeWait]);
}

#[test]
fn weight_zero_keeps_flows_and_takes_no_new_ones() {
    let mut director = director(config(), TWO);
    assert_eq!(establish(&mut director, CLIENT, secs(1)), ip("10.0.2.12"));
    apply(&mut director, "-e -t 10.9.0.1:80 -r 10.0.2.12:8080 -m -w 0", secs(2));
    feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(3)).transmitted("10.0.2.12");
    for n in 0..4 {
        assert_eq!(establish(&mut director, &client(n), secs(3)), ip("10.0.2.11"));
    }
    assert_eq!(loads(&director), [(1, 0), (4, 0)]);
}

#[test]
fn packets_of_a_deleted_server_are_dropped_silently_by_default() {
    let mut director = director(config(), TWO);
    establish(&mut director, CLIENT, secs(1));
    apply(&mut director, DELETE_12, secs(2));
    for flags in [ACK, SYN] {
        dropped(&mut director, &tcp(at(CLIENT), at(VIP), flags), secs(3), DropReason::ServerGone);
    }
    // What the server still says is translated.
    let reply = feed(&mut director, &tcp(at(RIP2), at(CLIENT), ACK), secs(3));
    assert_eq!(checked(reply.transmitted("172.16.0.9")).0, at(VIP));
    // The entry dies of age: 900 s after the last packet that counted.
    director.handle_timeout(secs(3 + 901));
    assert_eq!(director.connection_count(), 0);
}

#[test]
fn expire_nodest_conn_reschedules_the_flows_of_a_deleted_server() {
    let mut director = director(with_sysctl(&[("expire_nodest_conn", "1")]), TWO);
    establish(&mut director, CLIENT, secs(1));
    apply(&mut director, DELETE_12, secs(2));
    assert_eq!(feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(3)).verdict, Verdict::Pass);
    assert_eq!(director.connection_count(), 0, "an ACK is no beginning, but the old flow is over");
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(3)).transmitted("10.0.2.11");
}

#[test]
fn expire_nodest_conn_moves_a_syn_away_from_a_quiesced_server() {
    let mut director = director(with_sysctl(&[("expire_nodest_conn", "1")]), TWO);
    establish(&mut director, CLIENT, secs(1));
    apply(&mut director, "-e -t 10.9.0.1:80 -r 10.0.2.12:8080 -m -w 0", secs(2));
    feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(3)).transmitted("10.0.2.12");
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(3)).transmitted("10.0.2.11");
}

/// The kernel asks whether a SYN begins anew before it asks after the server: the client is not held up by the
/// remains of a closed flow.
#[test]
fn a_closed_flow_of_a_deleted_server_is_reused_at_once() {
    let mut director = director(config(), TWO);
    establish(&mut director, CLIENT, secs(1));
    close(&mut director, CLIENT);
    apply(&mut director, DELETE_12, secs(3));
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(3)).transmitted("10.0.2.11");
    assert_eq!(loads(&director), [(1, 0)]);
}

#[test]
fn conn_reuse_mode_decides_about_a_syn_in_time_wait() {
    for (mode, hop) in [("0", "10.0.2.12"), ("1", "10.0.2.11")] {
        let mut director = director(with_sysctl(&[("conn_reuse_mode", mode)]), TWO);
        establish(&mut director, CLIENT, secs(1));
        close(&mut director, CLIENT);
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(3)).transmitted(hop);
        assert_eq!(states(&director), [State::SynRecv]);
    }
}

#[test]
fn conn_reuse_mode_2_reuses_one_way_flows_in_fin_wait() {
    let rules =
        "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11 -g\n-a -t 10.9.0.1:80 -r 10.0.2.12 -g";
    for (mode, hop) in [("1", "10.0.2.12"), ("3", "10.0.2.11")] {
        let mut director = director(with_sysctl(&[("conn_reuse_mode", mode)]), rules);
        establish(&mut director, CLIENT, secs(1));
        feed(&mut director, &tcp(at(CLIENT), at(VIP), FIN | ACK), secs(2));
        assert_eq!(states(&director), [State::FinWait]);
        feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(3)).transmitted(hop);
    }
}

#[test]
fn a_server_that_comes_back_in_time_has_its_flows_and_numbers() {
    let mut director = director(config(), TWO);
    establish(&mut director, CLIENT, secs(1));
    apply(&mut director, DELETE_12, secs(2));
    let back = "-a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m";
    director.handle_timeout(secs(2) + TRASH_TIME);
    apply(&mut director, back, secs(2) + TRASH_TIME);
    feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(123)).transmitted("10.0.2.12");
    assert_eq!(loads(&director)[0], (1, 0));
    assert_eq!(director.services()[0].servers[0].stats.in_packets, 3);

    // Without connections it is forgotten after 120 s, and its numbers with it.
    director.kill(Filter::default());
    apply(&mut director, DELETE_12, secs(200));
    assert_eq!(director.poll_timeout().map(|due| due <= secs(320)), Some(true));
    director.handle_timeout(secs(319));
    apply(&mut director, back, secs(319));
    assert_eq!(director.services()[0].servers[0].stats.in_packets, 3);
    apply(&mut director, DELETE_12, secs(400));
    director.handle_timeout(secs(520));
    apply(&mut director, back, secs(520));
    assert_eq!(director.services()[0].servers[0].stats.in_packets, 0);
}

/// The slot of a forgotten server may be another's later, so it is never forgotten while connections name it.
#[test]
fn a_server_with_flows_is_not_forgotten() {
    let mut director = director(config(), TWO);
    establish(&mut director, CLIENT, secs(1));
    apply(&mut director, DELETE_12, secs(2));
    director.handle_timeout(secs(500));
    apply(&mut director, "-a -t 10.9.0.1:80 -r 10.0.2.13:8080 -m", secs(500));
    dropped(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(501), DropReason::ServerGone);
    director.handle_timeout(secs(902));
    assert_eq!((director.connection_count(), loads(&director)), (0, vec![(0, 0), (0, 0)]));
}

#[test]
fn a_deleted_service_leaves_flows_and_a_new_one_takes_them_up() {
    let mut director = director(config(), TWO);
    establish(&mut director, CLIENT, secs(1));
    apply(&mut director, "-D -t 10.9.0.1:80", secs(2));
    assert_eq!(director.connection_count(), 1);
    dropped(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(3), DropReason::ServerGone);
    apply(&mut director, TWO, secs(4));
    feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(5)).transmitted("10.0.2.12");
    assert_eq!(loads(&director), [(1, 0), (0, 0)]);
    let service = &director.services()[0];
    assert_eq!((service.stats.in_packets, service.servers[0].stats.in_packets), (1, 3));
}

#[test]
fn a_flow_keeps_the_forwarding_method_it_began_with() {
    let rules = |method: &str| format!("-e -t 10.9.0.1:80 -r 10.0.2.11:80 {method}");
    let add = |method: &str| format!("-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:80 {method}");
    let methods = ["-m", "-g", "-i", "-i --tun-type gue --tun-port 6080"];
    for before in methods {
        for after in methods {
            let mut director = director(config(), &add(before));
            feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1)).transmitted("10.0.2.11");
            let first = feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(1)).bytes;
            apply(&mut director, &rules(after), secs(2));
            let mut second = feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(3)).bytes;
            // A tunnel's kind is its server's business.
            if !(before.starts_with("-i") && after.starts_with("-i")) {
                if first.len() != 40 {
                    // Identification and checksum of the outer header are its own.
                    second[4..6].copy_from_slice(&first[4..6]);
                    second[10..12].copy_from_slice(&first[10..12]);
                }
                assert_eq!(first, second, "{before} to {after}");
            }
            let reply = feed(&mut director, &tcp(at("10.0.2.11:80"), at(CLIENT), ACK), secs(3));
            let translated = reply.verdict == Verdict::Transmit { next_hop: ip("172.16.0.9") };
            assert_eq!(translated, before == "-m", "{before} to {after}");
        }
    }
}

#[test]
fn a_reset_does_not_forget_a_flow() {
    let mut director = nat();
    establish(&mut director, CLIENT, secs(1));
    feed(&mut director, &tcp(at(CLIENT), at(VIP), RST), secs(2)).transmitted("10.0.2.11");
    assert_eq!((states(&director), loads(&director)), (vec![State::Close], vec![(0, 1)]));
    // 10 s later a late packet still reaches its server, even if the reset was forged.
    feed(&mut director, &tcp(at(CLIENT), at(VIP), ACK), secs(11)).transmitted("10.0.2.11");
}

#[test]
fn a_flow_past_its_time_is_new_even_before_it_is_swept() {
    let mut director = director(config(), TWO);
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1)).transmitted("10.0.2.12");
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(61)).transmitted("10.0.2.11");
    assert_eq!((director.connection_count(), director.counters().expired), (1, 1));
    assert_eq!(loads(&director), [(0, 0), (1, 0)]);
}

#[test]
fn killing_gives_back_what_connections_held() {
    let mut director = director(config(), TWO);
    for n in 0..4 {
        establish(&mut director, &client(n), secs(1));
    }
    let filter = Filter { server: Some(at("10.0.2.12:0")), ..Filter::default() };
    assert_eq!(director.kill(filter), 2);
    assert_eq!(loads(&director), [(0, 0), (2, 0)]);
    assert_eq!(director.kill(Filter::default()), 2);
    assert_eq!((director.connection_count(), loads(&director)), (0, vec![(0, 0), (0, 0)]));
}

/// The table does not hold an address of another family; a filter sees the server all the same.
#[test]
fn a_filter_finds_tunnels_into_the_other_family() {
    let mut director =
        director(config(), "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r [2001:db8:2::11]:80 -i");
    feed(&mut director, &tcp(at(CLIENT), at(VIP), SYN), secs(1)).transmitted("2001:db8:2::11");
    let filter = Filter { server: Some(at("[2001:db8:2::11]:80")), ..Filter::default() };
    assert_eq!(director.connections(filter).count(), 1);
    assert_eq!(director.kill(filter), 1);
}

#[test]
fn expiry_is_bounded_in_steps_and_complete() {
    let mut director = nat();
    for n in 0..200 {
        feed(&mut director, &tcp(at(&client(n)), at(VIP), SYN), secs(1));
    }
    let mut rounds = 0;
    while director.poll_timeout().is_some_and(|due| due <= secs(100)) {
        director.handle_timeout(secs(100));
        rounds += 1;
        assert!(rounds < 100, "every round gets on");
    }
    assert_eq!((director.connection_count(), director.counters().expired), (0, 200));
    assert_eq!(loads(&director), [(0, 0)]);
}
