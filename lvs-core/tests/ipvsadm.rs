//! The text of ipvsadm against ipvsadm's own output on a kernel (version 1.31), and against itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lvs_core::Traffic;
use lvs_core::ipvsadm::list::{self, ConnectionRow, ListOptions, ServerRow, ServiceRow, Table};
use lvs_core::ipvsadm::{Order, rules, save};
use lvs_core::service::{
    Command, Family, ForwardingMethod, Persistence, RealServer, ServiceKey, TimeoutSettings, Tunnel,
    TunnelChecksum, VirtualService,
};
use lvs_core::{Endpoint, Protocol, SchedulerFlags, SchedulerKind, Weight};
use proptest::prelude::*;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("data/ipvsadm/", $name, ".txt"))
    };
}

/// The rules behind the recorded tables; ipvsadm's own `-S` forgets the thresholds.
const GOLDEN_RULES: &str = "
-A -t 10.0.0.1:80 -s mh -b mh-port
-a -t 10.0.0.1:80 -r 10.0.0.2 -m
-a -t 10.0.0.1:80 -r 10.0.0.3 -i -w 3 -x 100 -y 50
-A -t 10.0.0.1:443 -p 300 -M 255.255.255.0
-a -t 10.0.0.1:443 -r 10.0.0.4
-A -f 7 -s rr -o
-a -f 7 -r 10.0.0.9 -i --tun-type gue --tun-port 6080
";

/// As `GOLDEN_RULES`, in the words that the restore test was recorded with.
const RESTORED_RULES: &str = "
ipvsadm -A -t 10.0.0.1:http

-a -t 10.0.0.1:http -r 10.0.0.2 -m -x 100 -y 50
  -A --sctp-service 10.0.0.1:99 -s rr
-A -t [2001:db8::1]:80 -s rr
-a -t [2001:db8::1]:80 -r [2001:db8::2]:80 -m
";

#[test]
fn every_table_equals_ipvsadms() {
    let config = configure(GOLDEN_RULES);
    for (table, golden) in [
        (Table::Rules, golden!("list")),
        (Table::Stats, golden!("stats")),
        (Table::Rate, golden!("rate")),
        (Table::Thresholds, golden!("thresholds")),
        (Table::Persistent, golden!("persistent-conn")),
        (Table::Tunnels, golden!("tun-info")),
    ] {
        let options = ListOptions { table, ..ListOptions::default() };
        assert_eq!(list::services(&rows(&config), 4096, options), golden, "{table:?}");
    }
}

#[test]
fn saved_rules_equal_ipvsadms_but_for_the_thresholds() {
    let config = configure(GOLDEN_RULES);
    let saved = save::services(&rows(&config), Order::Sorted);
    assert_eq!(saved.replace(" -x 100 -y 50", ""), golden!("save"));
    assert_eq!(configure(&saved), config);
}

#[test]
fn ipvsadms_saved_rules_are_read() {
    let lines = rules::parse(golden!("save")).expect("ipvsadm wrote them");
    let commands: Vec<Command> = lines.into_iter().map(|line| line.command).collect();
    assert_eq!(save::commands(&commands), golden!("save"));
}

#[test]
fn restored_rules_list_as_in_ipvsadm() {
    let config = configure(RESTORED_RULES);
    let listed = |table| {
        let options = ListOptions { table, ..ListOptions::default() };
        list::services(&rows(&config), 4096, options)
    };
    assert_eq!(listed(Table::Rules), golden!("restored-list"));
    assert_eq!(listed(Table::Thresholds), golden!("restored-thresholds"));
    let stats = listed(Table::Stats);
    assert!(stats.ends_with(golden!("restored-stats-v6")), "{stats}");
    let saved = save::services(&rows(&config), Order::Sorted);
    assert_eq!(saved.replace(" -x 100 -y 50", ""), golden!("restored-save"));
}

#[test]
fn service_names_read_as_their_ports() {
    let commands = |text| -> Vec<Command> {
        rules::parse(text).expect("ipvsadm wrote them").into_iter().map(|line| line.command).collect()
    };
    assert_eq!(commands(golden!("restored-save-names")), commands(golden!("restored-save")));
}

#[test]
fn timeouts_print_as_ipvsadms() {
    let Command::SetTimeouts(timeouts) = one("--set 900 120 300") else { panic!("not --set") };
    assert_eq!(list::timeouts(&timeouts), golden!("timeout"));
}

#[test]
fn a_fullnat_service_is_written_and_listed() {
    let rules = "-A -t 10.0.0.1:80 -s rr --laddr 10.1.0.1,10.1.0.2\n-a -t 10.0.0.1:80 -r 10.2.0.1:8080 --fullnat -w 1\n";
    let config = configure(rules);
    assert_eq!(save::services(&rows(&config), Order::Sorted), rules);
    assert_eq!(
        list::services(&rows(&config), 4096, ListOptions::default()).lines().last(),
        Some("  -> 10.2.0.1:8080                FullNat 1      0          0         ")
    );
    let repeated = one("-A -t 10.0.0.1:80 -s rr --laddr 10.1.0.1 --laddr=10.1.0.2");
    assert_eq!(repeated, Command::AddService(config[0].0.clone()));
}

#[test]
fn the_numbers_stand_in_their_columns() {
    let service = VirtualService::new(tcp("10.0.0.1:80"), SchedulerKind::WeightedLeastConnection);
    let server = RealServer::new(endpoint("10.0.0.2:80"), ForwardingMethod::Masquerade);
    let stats = Traffic {
        connections: 99_999_999,
        in_packets: 100_000_000,
        out_packets: 1_000_000_000,
        in_bytes: 184_940_123_456,
        out_bytes: 100_000_000_000_000,
    };
    let row =
        ServerRow { active: 12, inactive: 345, persistent: 6, stats, rate: stats, ..ServerRow::new(server) };
    let mut service_row = ServiceRow::new(&service, vec![row]);
    (service_row.stats, service_row.rate) = (stats, stats);
    let rows = [service_row];
    let printed = |table, exact| {
        let options = ListOptions { table, exact, ..ListOptions::default() };
        list::services(&rows, 4096, options).lines().skip(3).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        printed(Table::Rules, false)[1],
        "  -> 10.0.0.2:80                  Masq    1      12         345       "
    );
    assert_eq!(
        printed(Table::Persistent, false)[1],
        "  -> 10.0.0.2:80                  1         6           12         345       "
    );
    assert_eq!(
        printed(Table::Stats, false),
        [
            "TCP  10.0.0.1:80                  99999999  100000K    1000M     184G     100T",
            "  -> 10.0.0.2:80                  99999999  100000K    1000M     184G     100T",
        ]
    );
    assert_eq!(
        printed(Table::Stats, true)[1],
        "  -> 10.0.0.2:80                  99999999 100000000 1000000000 184940123456 100000000000000"
    );
    assert_eq!(
        printed(Table::Rate, false),
        [
            "TCP  10.0.0.1:80                  99999999  100000K    1000M     184G     100T",
            "  -> 10.0.0.2:80                  99999999 100000000 1000000000     184G     100T",
        ]
    );
}

#[test]
fn connections_print_in_the_given_order() {
    let row = |protocol, expires, state, client, service, server| ConnectionRow {
        protocol,
        expires: Duration::from_secs(expires),
        state,
        client: endpoint(client),
        service: endpoint(service),
        server: endpoint(server),
    };
    let rows = [
        row(Some(Protocol::Tcp), 791, "ESTABLISHED", "127.0.0.1:33864", "127.0.0.1:3001", "127.0.0.1:3307"),
        row(
            Some(Protocol::Tcp),
            10_803,
            "NONE",
            "192.168.123.248:0",
            "10.254.66.97:8080",
            "172.20.135.6:8080",
        ),
        row(Some(Protocol::Udp), 7, "UDP", "[2001:db8::9]:40000", "[2001:db8::1]:53", "[2001:db8::2]:53"),
        row(None, 50, "NONE", "192.168.1.2:0", "0.0.0.7:0", "10.0.0.9:0"),
    ];
    assert_eq!(
        list::connections(rows),
        "IPVS connection entries\n\
         pro expire state       source             virtual            destination\n\
         TCP 13:11  ESTABLISHED 127.0.0.1:33864    127.0.0.1:3001     127.0.0.1:3307\n\
         TCP 180:03 NONE        192.168.123.248:0  10.254.66.97:8080  172.20.135.6:8080\n\
         UDP 00:07  UDP         [2001:db8::9]:40000 [2001:db8::1]:53   [2001:db8::2]:53\n\
         IP  00:50  NONE        192.168.1.2:0      0.0.0.7:0          10.0.0.9:0\n"
    );
}

#[test]
fn services_and_servers_are_sorted_unless_asked_not_to() {
    let rules = "-A -f 9 -6 -s rr\n-A -f 2 -s rr\n-A -t [2001:db8::1]:80 -s rr\n-A --sctp-service 10.0.0.1:1 -s rr\n\
                 -A -u 9.0.0.1:53 -s rr\n-A -t 192.168.0.1:80 -s rr\n-A -t 10.0.0.1:443 -s rr\n-A -t 10.0.0.1:80 -s rr\n\
                 -a -t 10.0.0.1:80 -r 10.0.0.9:80 -m -w 1\n-a -t 10.0.0.1:80 -r 10.0.0.10:80 -m -w 1\n-a -t 10.0.0.1:80 -r 10.0.0.9:7 -m -w 1\n";
    let config = configure(rules);
    assert_eq!(save::services(&rows(&config), Order::AsGiven), rules);
    let sorted = list::services(&rows(&config), 4096, ListOptions::default());
    let names: Vec<&str> = sorted
        .lines()
        .skip(3)
        .map(|line| line.split_once(" Masq").map_or(line, |(server, _)| server).trim())
        .collect();
    assert_eq!(
        names,
        [
            "TCP  10.0.0.1:80 rr",
            "-> 10.0.0.9:7",
            "-> 10.0.0.9:80",
            "-> 10.0.0.10:80",
            "TCP  10.0.0.1:443 rr",
            "TCP  192.168.0.1:80 rr",
            "UDP  9.0.0.1:53 rr",
            "SCTP 10.0.0.1:1 rr",
            "TCP  [2001:db8::1]:80 rr",
            "FWM  2 rr",
            "FWM  9 IPv6 rr"
        ]
    );
}

#[test]
fn ways_to_write_one_rule() {
    let server = one("-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 3");
    for same in [
        "ipvsadm -a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 3",
        "-at 10.0.0.1:80 -r10.0.0.2:80 -mw3",
        "-a -t10.0.0.1:http -r=10.0.0.2 -m -w=3",
        "--add-server --tcp-service 10.0.0.1:80 --real-server 10.0.0.2 --masquerading --weight 3",
        "--add-server --tcp-service=10.0.0.1:80 --real-server=10.0.0.2:80 --masquerading --weight=3",
        "-w 3 -m -r 10.0.0.2:80 -t 10.0.0.1:80 -a",
        "\t-a  -t 10.0.0.1:80\t-r 10.0.0.2:80 -m -w 3 # the shop",
        "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -w 3\r",
    ] {
        assert_eq!(one(same), server, "{same}");
    }
}

#[test]
fn defaults_are_ipvsadms() {
    let Command::AddService(service) = one("-A -u 10.0.0.1:53") else { panic!("not -A") };
    let key = ServiceKey::Address { protocol: Protocol::Udp, endpoint: endpoint("10.0.0.1:53") };
    assert_eq!(service, VirtualService::new(key, SchedulerKind::WeightedLeastConnection));
    let Command::AddServer(_, server) = one("-a -u 10.0.0.1:53 -r 10.0.0.2") else { panic!("not -a") };
    assert_eq!(server, RealServer::new(endpoint("10.0.0.2:53"), ForwardingMethod::DirectRoute));
    for (text, seconds, prefix_len) in [
        ("-A -t 10.0.0.1:80 -p", 360, 32),
        ("-A -t 10.0.0.1:80 -p -M 255.255.0.0", 360, 16),
        ("-A -t 10.0.0.1 -p 60", 60, 32),
        ("-A -t [2001:db8::1]:80 -p 60 -M 64", 60, 64),
        ("-A -f 7 -6 -p", 360, 128),
        ("-A -6 -f 0x7 -p", 360, 128),
    ] {
        let Command::AddService(service) = one(text) else { panic!("not -A") };
        let timeout = Duration::from_secs(seconds);
        assert_eq!(service.persistence, Some(Persistence { timeout, prefix_len }), "{text}");
    }
}

#[test]
fn direct_routing_and_tunnels_keep_the_services_port() {
    for (rest, port) in [("-g", 80), ("-i", 80), ("-m", 8080), ("--fullnat", 8080)] {
        let text = format!("-e -t 10.0.0.1:80 -r 10.0.0.2:8080 {rest}");
        let Command::EditServer(_, server) = one(&text) else { panic!("not -e") };
        assert_eq!(server.endpoint.port, port, "{text}");
    }
    let Command::AddServer(_, server) = one("-a -f 7 -r 10.0.0.2:8080 -g") else { panic!("not -a") };
    assert_eq!(server.endpoint.port, 8080, "a firewall mark has no port");
}

#[test]
fn what_the_engine_may_lack_is_read_all_the_same() {
    for (text, tunnel) in [
        ("-i", Tunnel::Ipip),
        (
            "-i --tun-type gue --tun-port 6080 --tun-csum",
            Tunnel::Gue { port: 6080, checksum: TunnelChecksum::Full },
        ),
        (
            "-i --tun-type gue --tun-port 1 --tun-remcsum",
            Tunnel::Gue { port: 1, checksum: TunnelChecksum::Remote },
        ),
        ("-i --tun-type gre --tun-nocsum", Tunnel::Gre { checksum: TunnelChecksum::None }),
    ] {
        let Command::AddServer(_, server) = one(&format!("-a -t 10.0.0.1:80 -r [2001:db8::2] {text}")) else {
            panic!("not -a")
        };
        assert_eq!(server.method, ForwardingMethod::Tunnel(tunnel), "{text}");
    }
    let Command::AddService(service) = one("-A -u 10.0.0.1:53 -o -s sh -b sh-port,sh-fallback") else {
        panic!("not -A")
    };
    assert!(service.one_packet);
    assert_eq!(service.flags, SchedulerFlags::all());
}

#[test]
fn the_other_commands() {
    assert_eq!(one("-C"), Command::Flush);
    assert_eq!(one("--clear"), Command::Flush);
    assert_eq!(one("-Z"), Command::Zero(None));
    assert_eq!(one("-Z -t 10.0.0.1:80"), Command::Zero(Some(tcp("10.0.0.1:80"))));
    assert_eq!(one("-D -t 10.0.0.1:80"), Command::DeleteService(tcp("10.0.0.1:80")));
    assert_eq!(
        one("-d -t 10.0.0.1:80 -r 10.0.0.2"),
        Command::DeleteServer(tcp("10.0.0.1:80"), endpoint("10.0.0.2:80"))
    );
    let seconds = Duration::from_secs;
    assert_eq!(
        one("--set=0 120 300"),
        Command::SetTimeouts(TimeoutSettings { tcp: seconds(0), tcp_fin: seconds(120), udp: seconds(300) })
    );
}

/// Rule, column of the wrong word, part of what is wrong, part of what would be right.
const WRONG: &[(&str, usize, &str, &str)] = &[
    ("ipvsadm", 8, "no command", "-A, -E, -D"),
    ("-t 10.0.0.1:80", 1, "no command", "-A"),
    ("-A -D -t 10.0.0.1:80", 4, "-D contradicts -A", "either -A or -D"),
    ("-A", 1, "-A names no service", "-f MARK"),
    ("-A -t", 4, "-t has no value", "ADDRESS:PORT"),
    ("-A -t -s rr", 4, "-t has no value", "ADDRESS:PORT"),
    ("-A -t 10.0.0.1:80 -u 10.0.0.1:80", 19, "-u contradicts -t", "either"),
    ("-A -t 10.0.0.1:80 -t 10.0.0.2:80", 19, "-t is given twice", "one -t"),
    ("-A -t www.example.net:80", 7, "`www.example.net:80` is no address", "not looked up"),
    ("-A -t 10.0.0.256:80", 7, "is no address", "10.0.0.1:80"),
    ("-A -t 2001:db8::1", 7, "without brackets", "[2001:db8::1]:PORT"),
    ("-A -t [10.0.0.1]:80", 7, "is no address", "10.0.0.1:80"),
    ("-A -t [2001:db8::1]80", 7, "is no address", "[2001:db8::1]:80"),
    ("-A -t 10.0.0.1:htpp", 16, "`htpp` is no port", "http"),
    ("-A -t 10.0.0.1:65536", 16, "`65536` is no port", "0 to 65535"),
    ("-A -t 10.0.0.1:", 16, "`` is no port", "0 to 65535"),
    ("-A -t 10.0.0.1", 7, "must be persistent", "-p"),
    ("-E -t 10.0.0.1:0", 7, "must be persistent", "a port"),
    ("-A -t 10.0.0.1:80 -6", 19, "-6 does not go with -t", "-f"),
    ("-A -f 0", 7, "`0` is no firewall mark", "1 to 4294967295"),
    ("-A -f 4294967296", 7, "is no firewall mark", "1 to 4294967295"),
    ("-A -f 0xfg", 7, "is no firewall mark", "0xffffffff"),
    ("-A -t 10.0.0.1:80 -s wrrr", 22, "`wrrr` is no scheduler", "wrr"),
    ("-A -t 10.0.0.1:80 -s fastest", 22, "`fastest` is no scheduler", "one of rr, wrr"),
    ("-A -t 10.0.0.1:80 -s none", 22, "the kernel's scheduler `none`", "one of rr"),
    ("-A -t 10.0.0.1:80 -b mh-port", 22, "`mh-port` is no flag of the scheduler wlc", "-s mh"),
    ("-A -t 10.0.0.1:80 -s sh -b sh-port,sh-prot", 36, "`sh-prot` is no flag", "sh-port"),
    ("-A -t 10.0.0.1:80 -p 0", 22, "`0` is out of range", "1 to 2678400"),
    ("-A -t 10.0.0.1:80 -p 5m", 22, "`5m` is no number", "seconds"),
    ("-A -t 10.0.0.1:80 -M 255.255.255.0", 19, "-M says", "-p"),
    ("-A -t 10.0.0.1:80 -p -M 255.0.255.0", 25, "`255.0.255.0` is no netmask", "without holes"),
    ("-A -t 10.0.0.1:80 -p -M 24", 25, "`24` is no netmask", "255.255.255.0"),
    ("-A -t [2001:db8::1]:80 -p -M 129", 30, "`129` is no netmask", "1 to 128"),
    ("-A -t 10.0.0.1:80 -o", 19, "one-packet scheduling does not go with TCP", "-u"),
    ("-A -u 10.0.0.1:5060 -p 60 --pe sip", 27, "not supported", "-p alone"),
    ("-A -t 10.0.0.1:80 -w 1", 19, "-w does not go with -A", "-a, -e"),
    ("-A -t 10.0.0.1:80 -r 10.0.0.2", 19, "-r does not go with -A", "-a, -e, -d"),
    ("-A -t 10.0.0.1:80 --laddr 10.1.0.1,10.1", 36, "`10.1` is no address", "10.0.0.1"),
    ("-A -t 10.0.0.1:80 --laddr 10.1.0.1,10.1.0.1", 36, "given twice", "once"),
    ("-A -t 10.0.0.1:80 --laddr 2001:db8::1", 27, "another family", "IPv4 with IPv4"),
    ("-A -t 10.0.0.1:80 -n", 19, "`-n` is no part of a rule", "adds"),
    ("-A -t 10.0.0.1:80 --ops=1", 19, "--ops takes no value", "--ops alone"),
    ("-A -t 10.0.0.1:80 rr", 19, "`rr` belongs to no option", "an option"),
    ("-A -t 10.0.0.1:80 schedulr", 19, "`schedulr` belongs to no option", "--scheduler"),
    ("-L", 1, "`-L` is no part of a rule", "adds"),
    ("--start-daemon master", 1, "`--start-daemon` is no part", "adds"),
    ("-a -t 10.0.0.1:80", 1, "-a names no real server", "-r ADDRESS"),
    ("-d -t 10.0.0.1:80 -r 10.0.0.2 -m", 31, "-m does not go with -d", "-a, -e"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -s rr", 31, "-s does not go with -a", "-A, -E"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -m --fullnat", 34, "--fullnat contradicts -m", "either -m or --fullnat"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -g -i", 34, "-i contradicts -g", "either"),
    ("-a -t 10.0.0.1:80 -r [2001:db8::2]:80 -m", 22, "another family", "tunnel"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -w -1", 34, "`-1` is no number", "0 to 2147483647"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -w 2147483648", 34, "out of range", "0 to 2147483647"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -w+1", 33, "`+1` is no number", "weight"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -mw", 33, "-w has no value", "a number"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -x 5 -y 6", 39, "lower threshold 6 is above", "-y at most -x"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 --wieght 1", 31, "unknown option `--wieght`", "--weight"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -wieght", 33, "`ieght` is no number", "weight"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -W 1", 31, "unknown option `-W`", "-w"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -q", 31, "unknown option `-q`", "an option of ipvsadm -R"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -m --tun-type ipip", 34, "--tun-type does not go", "-i"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gu", 45, "`gu` is no tunnel type", "gue"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue", 34, "needs its UDP port", "--tun-port"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gue --tun-port 0", 60, "`0` is out of range", "1 to 65535"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-port 6080", 34, "does not go with ipip", "gue"),
    ("-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-csum", 34, "--tun-csum does not go with ipip", "gue or gre"),
    (
        "-a -t 10.0.0.1:80 -r 10.0.0.2 -i --tun-type gre --tun-remcsum",
        49,
        "does not go with gre",
        "--tun-csum",
    ),
    ("-C -t 10.0.0.1:80", 4, "-t does not go with -C", "-C alone"),
    ("-Z -6", 1, "-Z names no service", "-f MARK"),
    ("--set 900 120", 1, "--set takes three timeouts, not 2", "TCP TCPFIN UDP"),
    ("--set 900 120 300 4", 19, "`4` belongs to no option", "an option"),
    ("--set 900 2m 300", 11, "`2m` is no number", "0 to 2678400"),
];

#[test]
fn each_mistake_is_named_where_it_is() {
    for (text, column, message, expected) in WRONG {
        let errors = rules::parse(text).expect_err(text);
        let [error] = errors.as_slice() else { panic!("{text}: one mistake, not {errors:#?}") };
        assert_eq!((error.line, error.column), (1, *column), "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
        assert!(error.expected.contains(expected), "{text}: {error}");
    }
}

#[test]
fn all_mistakes_of_all_lines_are_reported() {
    let errors = rules::parse(
        "# services\n-A -t 10.0.0.1:80 -s wwrr -w 1\n-a -t 10.0.0.1:80 -r 10.0.0.2 -m\n\n-a -t 10.0.0.1:80 -r 10.0.0 -m -i\n",
    )
    .expect_err("three lines of it are wrong");
    assert_eq!(
        errors.to_string(),
        "line 2, column 22: `wwrr` is no scheduler; expected wrr\n\
         line 2, column 27: -w does not go with -A; expected it with -a, -e\n\
         line 5, column 22: `10.0.0` is no address; expected 10.0.0.1:80 or [2001:db8::1]:80 (host names are not looked up)\n\
         line 5, column 32: -i contradicts -m before it; expected either -m or -i"
    );
}

#[test]
fn a_line_has_a_limit() {
    let longest = format!("-C #{}", "x".repeat(rules::MAX_LINE - 4));
    assert_eq!(one(&longest), Command::Flush);
    let errors = rules::parse(&format!("-C\n{longest}x")).expect_err("one byte more");
    assert_eq!(errors.to_string(), "line 2, column 1: the line has 65537 bytes; expected at most 65536");
}

#[test]
fn lines_keep_their_numbers() {
    let lines = rules::parse("\n# a\n-C\n\n  # b\n-Z # c").expect("two rules");
    let numbers: Vec<usize> = lines.iter().map(|line| line.line).collect();
    assert_eq!(numbers, [3, 6]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_saved_reads_back(commands in prop::collection::vec(any_command(), 0..8)) {
        let text = save::commands(&commands);
        let read: Vec<Command> = match rules::parse(&text) {
            Ok(lines) => lines.into_iter().map(|line| line.command).collect(),
            Err(errors) => return Err(TestCaseError::fail(format!("{text}\n{errors}"))),
        };
        prop_assert_eq!(read, commands, "{}", text);
    }

    #[test]
    fn random_text_never_panics(text in "(\\PC|[-=:,# \t\r\n\0]){0,200}") {
        let _ = rules::parse(&text);
    }

    #[test]
    fn random_rules_are_read_or_refused_with_a_place(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..12)
    ) {
        let text = words.join(" ");
        match rules::parse(&text) {
            Ok(lines) => {
                let commands: Vec<Command> = lines.into_iter().map(|line| line.command).collect();
                let saved = save::commands(&commands);
                let read = rules::parse(&saved).map(|lines| lines.into_iter().map(|l| l.command).collect::<Vec<_>>());
                prop_assert_eq!(read, Ok(commands), "{} became {}", text, saved);
            }
            Err(errors) => {
                prop_assert!(!errors.as_slice().is_empty());
                for error in errors {
                    prop_assert_eq!(error.line, 1);
                    prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}: {}", text, error);
                }
            }
        }
    }
}

const WORDS: &[&str] = &[
    "ipvsadm",
    "-A",
    "-E",
    "-D",
    "-C",
    "-a",
    "-e",
    "-d",
    "-Z",
    "--set",
    "900",
    "0",
    "-t",
    "10.0.0.1:80",
    "-u",
    "10.0.0.1",
    "--sctp-service",
    "[2001:db8::1]:53",
    "-f",
    "7",
    "-6",
    "-s",
    "rr",
    "mh",
    "-p",
    "-M",
    "255.255.0.0",
    "64",
    "-o",
    "-b",
    "mh-port",
    "--laddr",
    "10.1.0.1,10.1.0.2",
    "-r",
    "10.0.0.2:8080",
    "-g",
    "-i",
    "-m",
    "--fullnat",
    "-w",
    "-x",
    "-y",
    "--tun-type",
    "gue",
    "gre",
    "--tun-port",
    "--tun-csum",
    "-At",
    "-w3",
    "-b=",
    "é",
    "-",
    "--",
    "-ß",
    "--weight=",
    "#",
];

fn any_command() -> impl Strategy<Value = Command> {
    let duration = (0..=31 * 86_400_u64).prop_map(Duration::from_secs);
    prop_oneof![
        4 => any_service().prop_map(Command::AddService),
        2 => any_service().prop_map(Command::EditService),
        1 => any_key().prop_map(Command::DeleteService),
        4 => any_server().prop_map(|(key, server)| Command::AddServer(key, server)),
        2 => any_server().prop_map(|(key, server)| Command::EditServer(key, server)),
        1 => (any_key(), any_endpoint()).prop_map(|(key, endpoint)| Command::DeleteServer(key, endpoint)),
        1 => Just(Command::Flush),
        1 => prop::option::of(any_key()).prop_map(Command::Zero),
        1 => (duration.clone(), duration.clone(), duration)
            .prop_map(|(tcp, tcp_fin, udp)| Command::SetTimeouts(TimeoutSettings { tcp, tcp_fin, udp })),
    ]
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(addr, port)| Endpoint::new(addr, port))
}

fn any_key() -> impl Strategy<Value = ServiceKey> {
    let protocol = prop::sample::select(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..]);
    let family = prop::sample::select(&[Family::V4, Family::V6][..]);
    prop_oneof![
        3 => (protocol, any_endpoint())
            .prop_map(|(protocol, endpoint)| ServiceKey::Address { protocol, endpoint }),
        1 => (family, 1..=u32::MAX).prop_map(|(family, mark)| ServiceKey::Mark { family, mark }),
    ]
}

fn any_service() -> impl Strategy<Value = VirtualService> {
    let numbers = prop::collection::hash_set(any::<u32>(), 0..4);
    let persistence = prop::option::of((1..=31 * 86_400_u64, any::<u8>()));
    let scheduler = prop::sample::select(&SchedulerKind::ALL[..]);
    (any_key(), scheduler, 0..4_u8, persistence, any::<bool>(), numbers).prop_map(
        |(key, scheduler, flags, persistence, one_packet, numbers)| {
            let ipv6 = family(key) == Family::V6;
            let all_ports = matches!(key, ServiceKey::Address { endpoint: Endpoint { port: 0, .. }, .. });
            let udp =
                matches!(key, ServiceKey::Address { protocol: Protocol::Udp, .. } | ServiceKey::Mark { .. });
            let persistence = if all_ports { persistence.or(Some((1, 0))) } else { persistence };
            VirtualService {
                key,
                scheduler,
                flags: SchedulerFlags::from_bits_truncate(flags),
                persistence: persistence.map(|(seconds, length)| Persistence {
                    timeout: Duration::from_secs(seconds),
                    prefix_len: if ipv6 { length % 128 + 1 } else { length % 33 },
                }),
                one_packet: one_packet && udp,
                local_addresses: numbers.into_iter().map(|number| address(ipv6, number)).collect(),
            }
        },
    )
}

fn any_server() -> impl Strategy<Value = (ServiceKey, RealServer)> {
    let checksum =
        || prop::sample::select(&[TunnelChecksum::None, TunnelChecksum::Full, TunnelChecksum::Remote][..]);
    let method = prop_oneof![
        Just(ForwardingMethod::Masquerade),
        Just(ForwardingMethod::DirectRoute),
        Just(ForwardingMethod::FullNat),
        Just(ForwardingMethod::Tunnel(Tunnel::Ipip)),
        (1..=u16::MAX, checksum())
            .prop_map(|(port, checksum)| ForwardingMethod::Tunnel(Tunnel::Gue { port, checksum })),
        any::<bool>().prop_map(|sum| ForwardingMethod::Tunnel(Tunnel::Gre {
            checksum: if sum { TunnelChecksum::Full } else { TunnelChecksum::None }
        })),
    ];
    let thresholds = (any::<u32>(), any::<u32>());
    (any_key(), any_endpoint(), any::<u32>(), method, 0..=i32::MAX as u32, thresholds).prop_map(
        |(key, mut endpoint, number, method, weight, (a, b))| {
            if !matches!(method, ForwardingMethod::Tunnel(_)) {
                endpoint.addr = address(family(key) == Family::V6, number);
            }
            if let (
                ServiceKey::Address { endpoint: service, .. },
                ForwardingMethod::DirectRoute | ForwardingMethod::Tunnel(_),
            ) = (key, method)
            {
                endpoint.port = service.port;
            }
            let server = RealServer {
                endpoint,
                method,
                weight: Weight::new(weight).expect("within range"),
                upper_threshold: a.max(b),
                lower_threshold: a.min(b),
            };
            (key, server)
        },
    )
}

fn address(ipv6: bool, number: u32) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number)))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }
}

fn family(key: ServiceKey) -> Family {
    match key {
        ServiceKey::Address { endpoint, .. } => Family::of(&endpoint.addr),
        ServiceKey::Mark { family, .. } => family,
    }
}

fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("an endpoint")
}

fn tcp(text: &str) -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::Tcp, endpoint: endpoint(text) }
}

fn one(text: &str) -> Command {
    let mut lines = rules::parse(text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
    assert_eq!(lines.len(), 1, "{text}");
    lines.remove(0).command
}

/// Applies rules that only add.
fn configure(text: &str) -> Vec<(VirtualService, Vec<RealServer>)> {
    let mut services: Vec<(VirtualService, Vec<RealServer>)> = Vec::new();
    let mut index = HashMap::new();
    for line in rules::parse(text).unwrap_or_else(|errors| panic!("{errors}")) {
        match line.command {
            Command::AddService(service) => {
                index.insert(service.key, services.len());
                services.push((service, Vec::new()));
            }
            Command::AddServer(key, server) => services[index[&key]].1.push(server),
            other => panic!("{other:?} does not add"),
        }
    }
    services
}

fn rows(config: &[(VirtualService, Vec<RealServer>)]) -> Vec<ServiceRow<'_>> {
    config
        .iter()
        .map(|(service, servers)| {
            ServiceRow::new(service, servers.iter().copied().map(ServerRow::new).collect())
        })
        .collect()
}
