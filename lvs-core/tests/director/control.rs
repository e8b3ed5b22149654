//! The control side: all or nothing, there and back.

use lvs_core::conn::{Capacity, State};
use lvs_core::ipvsadm::rules;
use lvs_core::service::Command;
use lvs_core::wire::Tuple;
use lvs_core::{Config, ConfigError, Director, Instant, Limits, Protocol, Traffic};

use super::helpers::*;

fn commands(text: &str) -> Vec<Command> {
    rules::parse(text).unwrap().into_iter().map(|line| line.command).collect()
}

const MANY: &str = "-A -t 10.9.0.1:80 -s wlc
-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 2 -x 9 -y 5
-a -t 10.9.0.1:80 -r 10.0.2.12:80 -g
-a -t 10.9.0.1:80 -r 10.0.2.13:80 -i --tun-type gue --tun-port 6080
-A -u 10.9.0.1:53 -s sh -b sh-port -o
-a -u 10.9.0.1:53 -r 10.0.2.14:53 -m -w 0
-A -f 7 -6 -s mh
-a -f 7 -6 -r [2001:db8:2::11]:0 -g
-A -t 10.9.0.2:80 -s rr --laddr 10.0.2.201
-a -t 10.9.0.2:80 -r 10.0.2.15:80 --fullnat";

#[test]
fn a_list_with_an_error_changes_nothing() {
    let mut director = director(config(), MANY);
    establish(&mut director, CLIENT, secs(1));
    let before = (director.table(), director.configuration(), connections(&director), director.traffic());
    for bad in [
        "-d -t 10.9.0.1:80 -r 10.0.2.11:8080\n-d -t 10.9.0.1:80 -r 10.0.2.99:80",
        "-C\n-E -t 10.9.0.1:80 -s rr",
        "-D -f 7 -6\n-A -t 10.9.0.1:80 -s rr",
        "-E -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.9.0.1:80 -g",
        "-Z\n-a -t 10.9.0.1:80 -r 10.0.2.99:80 --fullnat",
        "-e -t 10.9.0.1:80 -r 10.0.2.12:80 -g -w 5\n-a -t 10.9.0.1:80 -r 10.0.2.12:80 -g",
        "-E -t 10.9.0.2:80 -s rr",
    ] {
        let error = director.apply(&commands(bad), secs(2)).unwrap_err();
        assert_eq!(error.index, bad.lines().count() - 1, "{bad}: {error}");
        let after = (director.table(), director.configuration(), connections(&director), director.traffic());
        assert_eq!(before, after, "{bad}");
    }
}

#[test]
fn a_configuration_builds_the_same_director_again() {
    let first = director(config(), MANY);
    let mut second = Director::new(config());
    second.apply(&first.configuration(), Instant::ZERO).unwrap();
    assert_eq!(first.configuration(), second.configuration());
    assert_eq!(first.table(), second.table());
    let mut first = first;
    for n in 0..20 {
        let packet = tcp(at(&client(n)), at(VIP), SYN);
        let (a, b) = (feed(&mut first, &packet, secs(1)), feed(&mut second, &packet, secs(1)));
        assert_eq!((a.verdict, a.bytes), (b.verdict, b.bytes));
    }
}

#[test]
fn zero_of_all_takes_the_totals_too() {
    let mut director = nat();
    establish(&mut director, CLIENT, secs(1));
    assert_eq!(director.traffic().in_packets, 2);
    apply(&mut director, "-Z -t 10.9.0.1:80", secs(2));
    assert_eq!((director.services()[0].stats, director.traffic().in_packets), (Traffic::default(), 2));
    apply(&mut director, "-Z", secs(2));
    assert_eq!(director.traffic(), Traffic::default());
}

#[test]
fn explaining_has_no_effect() {
    let rules = "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m
        -a -t 10.9.0.1:80 -r 10.0.2.12:8080 -m\n-A -t 10.9.0.2:80 -s rr --laddr 10.0.2.201
        -a -t 10.9.0.2:80 -r 10.0.2.15:80 --fullnat";
    let run = |explains: bool| {
        let mut director = director(config(), rules);
        let mut out = Vec::new();
        for n in 0..8 {
            let (src, dst) = (at(&client(n)), at(if n % 2 == 0 { VIP } else { "10.9.0.2:80" }));
            if explains {
                let tuple = Tuple { protocol: Protocol::Tcp, src, dst };
                let said = director.explain(tuple, 0, secs(1));
                assert_eq!(said, director.explain(tuple, 0, secs(1)));
            }
            out.push(feed(&mut director, &tcp(src, dst, SYN), secs(1)).bytes);
        }
        (out, director.table(), director.counters().clone())
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_snapshot_comes_back_with_loads_and_fullnat_ports() {
    let mut first = director(config(), MANY);
    establish(&mut first, CLIENT, secs(1));
    feed(&mut first, &tcp(at(CLIENT), at("10.9.0.2:80"), SYN), secs(1));
    let snapshot = first.snapshot(secs(2));
    let mut second = director(config(), MANY);
    assert_eq!(second.restore(&snapshot, secs(2)), Ok(2));
    assert_eq!(first.table(), second.table());
    assert_eq!(second.restore(&snapshot, secs(2)), Ok(0), "they are there already");
    assert_eq!(first.table(), second.table());
    // The restored local port is not given out again.
    feed(&mut second, &tcp(at(&client(1)), at("10.9.0.2:80"), SYN), secs(3)).transmitted("10.0.2.15");
    let locals: Vec<_> = connections(&second)
        .into_iter()
        .filter(|conn| conn.service == at("10.9.0.2:80"))
        .map(|conn| conn.local)
        .collect();
    assert_eq!(locals.len(), 2);
    assert_ne!(locals[0], locals[1]);
}

#[test]
fn a_restored_connection_takes_nobodys_place() {
    let one = Config {
        limits: Limits { connections: Capacity { ipv4: 1, ipv6: 0 }, ..Limits::default() },
        ..config()
    };
    let mut first = nat();
    establish(&mut first, &client(1), secs(1));
    let mut second = director(one, NAT);
    feed(&mut second, &tcp(at(&client(2)), at(VIP), SYN), secs(1));
    assert_eq!(second.restore(&first.snapshot(secs(1)), secs(1)), Ok(0));
    assert_eq!((states(&second), second.counters().evicted), (vec![State::SynRecv], 0));
}

#[test]
fn one_packet_scheduling_and_fullnat_exclude_each_other() {
    // The local port would be free again before the reply comes.
    let mut director = Director::new(config());
    let text = "-A -u 10.9.0.1:53 -s rr -o --laddr 10.0.2.201\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 --fullnat";
    let error = director.apply(&commands(text), Instant::ZERO).unwrap_err();
    assert!(matches!(error.error, ConfigError::Unsupported(_)), "{error}");
    apply(
        &mut director,
        "-A -u 10.9.0.1:53 -s rr --laddr 10.0.2.201\n-a -u 10.9.0.1:53 -r 10.0.2.11:53 --fullnat",
        Instant::ZERO,
    );
    let edit = "-E -u 10.9.0.1:53 -s rr -o --laddr 10.0.2.201";
    assert!(director.apply(&commands(edit), Instant::ZERO).is_err());
}

#[test]
fn a_vip_is_no_server_of_the_same_director() {
    // In either order of the commands; packets would go in a circle.
    for text in [
        "-A -t 10.9.0.1:80 -s rr\n-A -t 10.9.0.2:80 -s rr\n-a -t 10.9.0.1:80 -r 10.9.0.2:80 -m",
        "-A -t 10.9.0.1:80 -s rr\n-a -t 10.9.0.1:80 -r 10.9.0.2:80 -m\n-A -t 10.9.0.2:80 -s rr",
    ] {
        let error = Director::new(config()).apply(&commands(text), Instant::ZERO).unwrap_err();
        assert_eq!((error.index, matches!(error.error, ConfigError::Loop(_))), (2, true), "{error}");
    }
}
