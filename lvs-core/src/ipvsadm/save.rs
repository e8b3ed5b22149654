//! Services and servers written as rules, as `ipvsadm -S -n` prints them.
//!
//! [`rules::parse`](super::rules::parse) reads every line back into the same command, with two exceptions: the
//! methods `Local` and `Bypass`, which no rule can ask for, are written as `-g`, and timeouts are cut to seconds.
//! Unlike ipvsadm, thresholds (`-x`, `-y`) are written too; ipvsadm reads them.

use core::fmt::Write as _;

use lvs_sched::Protocol;

use super::Order;
use super::list::{ServiceRow, sorted_servers, sorted_services};
use super::rules::dotted_mask;
use crate::service::{
    Command, Family, ForwardingMethod, RealServer, ServiceKey, Tunnel, TunnelChecksum, VirtualService,
};

/// Writes one command as one rule, without a line end.
///
/// # Examples
/// ```
/// use lvs_core::ipvsadm::{rules, save};
/// let lines = rules::parse("ipvsadm --add-server --udp-service 10.0.0.1:domain --real-server=10.0.0.2")?;
/// assert_eq!(save::command(&lines[0].command), "-a -u 10.0.0.1:53 -r 10.0.0.2:53 -g -w 1");
/// # Ok::<(), rules::RuleErrors>(())
/// ```
pub fn command(command: &Command) -> String {
    let mut out = String::new();
    match command {
        Command::AddService(service) => write_service(&mut out, "-A", service),
        Command::EditService(service) => write_service(&mut out, "-E", service),
        Command::DeleteService(key) => push(&mut out, format_args!("-D {}", key_text(key))),
        Command::AddServer(key, server) => write_server(&mut out, "-a", key, server),
        Command::EditServer(key, server) => write_server(&mut out, "-e", key, server),
        Command::DeleteServer(key, endpoint) => {
            push(&mut out, format_args!("-d {} -r {endpoint}", key_text(key)));
        }
        Command::Flush => out.push_str("-C"),
        Command::Zero(None) => out.push_str("-Z"),
        Command::Zero(Some(key)) => push(&mut out, format_args!("-Z {}", key_text(key))),
        Command::SetTimeouts(timeouts) => push(
            &mut out,
            format_args!(
                "--set {} {} {}",
                timeouts.tcp.as_secs(),
                timeouts.tcp_fin.as_secs(),
                timeouts.udp.as_secs()
            ),
        ),
    }
    out
}

/// Writes commands as rules, one a line.
pub fn commands<'c>(all: impl IntoIterator<Item = &'c Command>) -> String {
    let mut out = String::new();
    for one in all {
        out.push_str(&command(one));
        out.push('\n');
    }
    out
}

/// Writes services with their servers as rules (`ipvsadm -S -n`), one a line.
///
/// With [`Order::AsGiven`] a restore adds the servers in the order given here, on which schedulers depend.
pub fn services(rows: &[ServiceRow<'_>], order: Order) -> String {
    let mut out = String::new();
    for row in sorted_services(rows, order) {
        write_service(&mut out, "-A", row.service);
        out.push('\n');
        for server in sorted_servers(row, order) {
            write_server(&mut out, "-a", &row.service.key, &server.server);
            out.push('\n');
        }
    }
    out
}

fn write_service(out: &mut String, command: &str, service: &VirtualService) {
    push(out, format_args!("{command} {} -s {}", key_text(&service.key), service.scheduler));
    if let Some(persistence) = service.persistence {
        push(out, format_args!(" -p {}", persistence.timeout.as_secs()));
        if let Some(mask) = mask_text(&service.key, persistence.prefix_len) {
            push(out, format_args!(" -M {mask}"));
        }
    }
    if service.one_packet {
        out.push_str(" -o");
    }
    if !service.flags.is_empty() {
        push(out, format_args!(" -b {}", service.flags.names(service.scheduler)));
    }
    for (index, addr) in service.local_addresses.iter().enumerate() {
        out.push_str(if index == 0 { " --laddr " } else { "," });
        push(out, format_args!("{addr}"));
    }
}

fn write_server(out: &mut String, command: &str, key: &ServiceKey, server: &RealServer) {
    let method = match server.method {
        ForwardingMethod::Masquerade => "-m",
        ForwardingMethod::Tunnel(_) => "-i",
        ForwardingMethod::FullNat => "--fullnat",
        // As ipvsadm: the kernel makes a server local by its address, whatever the rule said.
        ForwardingMethod::DirectRoute | ForwardingMethod::Local | ForwardingMethod::Bypass => "-g",
    };
    push(
        out,
        format_args!("{command} {} -r {} {method} -w {}", key_text(key), server.endpoint, server.weight),
    );
    match server.method {
        ForwardingMethod::Tunnel(Tunnel::Ipip) => out.push_str(" --tun-type ipip"),
        ForwardingMethod::Tunnel(Tunnel::Gue { port, checksum }) => {
            push(out, format_args!(" --tun-type gue --tun-port {port} {}", checksum_text(checksum)));
        }
        ForwardingMethod::Tunnel(Tunnel::Gre { checksum }) => {
            push(out, format_args!(" --tun-type gre {}", checksum_text(checksum)));
        }
        _ => {}
    }
    if server.upper_threshold != 0 {
        push(out, format_args!(" -x {}", server.upper_threshold));
    }
    if server.lower_threshold != 0 {
        push(out, format_args!(" -y {}", server.lower_threshold));
    }
}

/// `-t 10.0.0.1:80`, `--sctp-service 10.0.0.1:99`, `-f 7`, `-f 7 -6`
fn key_text(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { protocol, endpoint } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {endpoint}")
        }
        ServiceKey::Mark { family: Family::V4, mark } => format!("-f {mark}"),
        ServiceKey::Mark { family: Family::V6, mark } => format!("-f {mark} -6"),
    }
}

/// The netmask as ipvsadm writes it, `None` when it is a single client's.
pub(super) fn mask_text(key: &ServiceKey, prefix_len: u8) -> Option<String> {
    let ipv6 = match key {
        ServiceKey::Address { endpoint, .. } => endpoint.addr.is_ipv6(),
        ServiceKey::Mark { family, .. } => *family == Family::V6,
    };
    match ipv6 {
        true => (prefix_len != 128).then(|| prefix_len.to_string()),
        false => (prefix_len != 32).then(|| dotted_mask(prefix_len).to_string()),
    }
}

fn checksum_text(checksum: TunnelChecksum) -> &'static str {
    match checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    }
}

/// Appends; writing to a `String` cannot fail.
pub(super) fn push(out: &mut String, text: core::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}
