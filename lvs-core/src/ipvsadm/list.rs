//! The tables of `ipvsadm -L -n`, byte for byte, from rows that the owner fills.

use core::time::Duration;

use lvs_sched::{Endpoint, Protocol};

use super::Order;
use super::save::{mask_text, push};
use crate::Traffic;
use crate::conn::Method;
use crate::service::{
    ForwardingMethod, RealServer, ServiceKey, TimeoutSettings, Tunnel, TunnelChecksum, VirtualService,
};

/// A service with its servers and numbers.
#[derive(Debug, Clone)]
pub struct ServiceRow<'a> {
    /// The service.
    pub service: &'a VirtualService,
    /// Its servers.
    pub servers: Vec<ServerRow>,
    /// For [`Table::Stats`].
    pub stats: Traffic,
    /// For [`Table::Rate`], per second.
    pub rate: Traffic,
}

impl<'a> ServiceRow<'a> {
    /// Makes a row with all numbers 0.
    pub fn new(service: &'a VirtualService, servers: Vec<ServerRow>) -> Self {
        Self { service, servers, stats: Traffic::default(), rate: Traffic::default() }
    }
}

/// A real server with its numbers.
#[derive(Debug, Clone, Copy)]
pub struct ServerRow {
    /// Endpoint, forwarding method, weight and thresholds.
    pub server: RealServer,
    /// Active connections.
    pub active: u32,
    /// All other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// For [`Table::Stats`].
    pub stats: Traffic,
    /// For [`Table::Rate`], per second.
    pub rate: Traffic,
}

impl ServerRow {
    /// Makes a row with all numbers 0.
    pub fn new(server: RealServer) -> Self {
        let none = Traffic::default();
        Self { server, active: 0, inactive: 0, persistent: 0, stats: none, rate: none }
    }
}

/// Which table of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Table {
    /// `-Ln`: forwarding method, weight, connections.
    #[default]
    Rules,
    /// `--stats`: counters.
    Stats,
    /// `--rate`: counters per second.
    Rate,
    /// `--thresholds`: limits of connections.
    Thresholds,
    /// `--persistent-conn`: persistence templates.
    Persistent,
    /// `--tun-info`: as `Rules`, with the kind of tunnel.
    Tunnels,
}

/// How to print the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Which table.
    pub table: Table,
    /// Sorted unless told otherwise (`--nosort`).
    pub order: Order,
    /// Whole numbers instead of `184940K` (`--exact`).
    pub exact: bool,
}

/// A line of the connection table.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionRow<'a> {
    /// `None` for the template of a firewall mark service, printed as `IP`.
    pub protocol: Option<Protocol>,
    /// Time until the entry expires.
    pub expires: Duration,
    /// Name of the state, as `ESTABLISHED`; `NONE` for a template.
    pub state: &'a str,
    /// CIP and port.
    pub client: Endpoint,
    /// VIP and port.
    pub service: Endpoint,
    /// RIP and port.
    pub server: Endpoint,
}

/// Prints the services (`ipvsadm -L -n`). `table_size` is the number of buckets of the connection table.
///
/// # Examples
/// ```
/// use lvs_core::SchedulerKind;
/// use lvs_core::ipvsadm::list::{self, ListOptions, ServerRow, ServiceRow};
/// use lvs_core::service::{ForwardingMethod, RealServer, ServiceKey, VirtualService};
///
/// let key = ServiceKey::Address { protocol: "tcp".parse()?, endpoint: "10.0.0.1:80".parse()? };
/// let service = VirtualService::new(key, SchedulerKind::RoundRobin);
/// let server = RealServer::new("10.0.0.2:80".parse()?, ForwardingMethod::DirectRoute);
/// let rows = [ServiceRow::new(&service, vec![ServerRow::new(server)])];
/// assert_eq!(
///     list::services(&rows, 4096, ListOptions::default()),
///     "IP Virtual Server version 1.2.1 (size=4096)\n\
///      Prot LocalAddress:Port Scheduler Flags\n  \
///        -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n\
///      TCP  10.0.0.1:80 rr\n  \
///        -> 10.0.0.2:80                  Route   1      0          0         \n"
/// );
/// # Ok::<(), lvs_sched::ParseEndpointError>(())
/// ```
pub fn services(rows: &[ServiceRow<'_>], table_size: usize, options: ListOptions) -> String {
    let mut out = format!("IP Virtual Server version {IPVS_VERSION} (size={table_size})\n");
    write_title(&mut out, options.table);
    for row in sorted_services(rows, options.order) {
        write_service(&mut out, row, options);
        for server in sorted_servers(row, options.order) {
            write_server(&mut out, server, options);
        }
    }
    out
}

/// Prints connections in the given order (`ipvsadm -L -n -c`).
pub fn connections<'a>(rows: impl IntoIterator<Item = ConnectionRow<'a>>) -> String {
    let mut out = String::from("IPVS connection entries\n");
    push(
        &mut out,
        format_args!("pro expire {:<11} {:<18} {:<18} {}\n", "state", "source", "virtual", "destination"),
    );
    for row in rows {
        let protocol = row.protocol.map_or_else(|| "IP".to_owned(), |protocol| protocol.to_string());
        let seconds = row.expires.as_secs();
        let expires = format!("{:02}:{:02}", seconds / 60, seconds % 60);
        push(
            &mut out,
            format_args!(
                "{protocol:<3} {expires:<6} {:<11} {:<18} {:<18} {}\n",
                row.state,
                row.client.to_string(),
                row.service.to_string(),
                row.server
            ),
        );
    }
    out
}

/// Prints the timeouts (`ipvsadm -L --timeout`).
pub fn timeouts(timeouts: &TimeoutSettings) -> String {
    format!(
        "Timeout (tcp tcpfin udp): {} {} {}\n",
        timeouts.tcp.as_secs(),
        timeouts.tcp_fin.as_secs(),
        timeouts.udp.as_secs()
    )
}

/// The version of the kernel's IPVS that these tables follow.
const IPVS_VERSION: &str = "1.2.1";

/// The rows in the order to print them.
pub(super) fn sorted_services<'r, 'a>(rows: &'r [ServiceRow<'a>], order: Order) -> Vec<&'r ServiceRow<'a>> {
    let mut sorted: Vec<&ServiceRow<'_>> = rows.iter().collect();
    if order == Order::Sorted {
        sorted.sort_by_key(|row| match row.service.key {
            ServiceKey::Address { protocol, endpoint } => {
                (0, endpoint.addr.is_ipv6(), protocol.number(), Some(endpoint))
            }
            ServiceKey::Mark { family, mark } => (mark, family == crate::service::Family::V6, 0, None),
        });
    }
    sorted
}

/// The servers of a row in the order to print them.
pub(super) fn sorted_servers<'r>(row: &'r ServiceRow<'_>, order: Order) -> Vec<&'r ServerRow> {
    let mut sorted: Vec<&ServerRow> = row.servers.iter().collect();
    if order == Order::Sorted {
        sorted.sort_by_key(|row| row.server.endpoint);
    }
    sorted
}

fn write_title(out: &mut String, table: Table) {
    const SERVICE: &str = "Prot LocalAddress:Port";
    const SERVER: &str = "  -> RemoteAddress:Port";
    match table {
        Table::Rules => {
            push(out, format_args!("{SERVICE} Scheduler Flags\n"));
            push(out, format_args!("{SERVER}           Forward Weight ActiveConn InActConn\n"));
        }
        Table::Tunnels => {
            push(out, format_args!("{SERVICE} Scheduler Flags\n"));
            push(out, format_args!("{SERVER}           Forward TunnelInfo    Weight ActiveConn InActConn\n"));
        }
        Table::Stats | Table::Rate => {
            let names = if table == Table::Stats {
                ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]
            } else {
                ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]
            };
            push(out, format_args!("{SERVICE:<33}"));
            for name in names {
                push(out, format_args!(" {name:>8}"));
            }
            push(out, format_args!("\n{SERVER}\n"));
        }
        Table::Thresholds => push(
            out,
            format_args!(
                "{SERVICE:<33} {:<10} {:<10} {:<10} {:<10}\n{SERVER}\n",
                "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
            ),
        ),
        Table::Persistent => push(
            out,
            format_args!(
                "{SERVICE:<33} {:<9} {:<11} {:<10} {:<10}\n{SERVER}\n",
                "Weight", "PersistConn", "ActiveConn", "InActConn"
            ),
        ),
    }
}

fn write_service(out: &mut String, row: &ServiceRow<'_>, options: ListOptions) {
    let service = row.service;
    let key = service.key.to_string();
    let counters = match options.table {
        Table::Stats => Some(&row.stats),
        Table::Rate => Some(&row.rate),
        _ => None,
    };
    if let Some(counters) = counters {
        push(out, format_args!("{key:<33}"));
        for number in counters.columns() {
            write_large(out, number, options.exact);
        }
    } else {
        push(out, format_args!("{key} {}", service.scheduler));
        if !service.flags.is_empty() {
            push(out, format_args!(" ({})", service.flags.names(service.scheduler)));
        }
        if let Some(persistence) = service.persistence {
            push(out, format_args!(" persistent {}", persistence.timeout.as_secs()));
            if let Some(mask) = mask_text(&service.key, persistence.prefix_len) {
                push(out, format_args!(" mask {mask}"));
            }
        }
        if service.one_packet {
            out.push_str(" ops");
        }
    }
    out.push('\n');
}

fn write_server(out: &mut String, row: &ServerRow, options: ListOptions) {
    let ServerRow { server, active, inactive, persistent, .. } = row;
    let weight = server.weight.get();
    push(out, format_args!("  -> {:<28}", server.endpoint.to_string()));
    match options.table {
        Table::Rules => {
            let method = Method::from(server.method).word();
            push(out, format_args!(" {method:<7} {weight:<6} {active:<10} {inactive:<10}"));
        }
        Table::Tunnels => {
            let method = Method::from(server.method).word();
            let tunnel = tunnel_text(server.method);
            push(out, format_args!(" {method:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}"));
        }
        Table::Stats => {
            for number in row.stats.columns() {
                write_large(out, number, options.exact);
            }
        }
        Table::Rate => {
            // ipvsadm shortens only the bytes here.
            let [connections, in_packets, out_packets, in_bytes, out_bytes] = row.rate.columns();
            push(out, format_args!(" {connections:>8} {in_packets:>8} {out_packets:>8}"));
            write_large(out, in_bytes, options.exact);
            write_large(out, out_bytes, options.exact);
        }
        Table::Thresholds => {
            let (upper, lower) = (server.upper_threshold, server.lower_threshold);
            push(out, format_args!(" {upper:<10} {lower:<10} {active:<10} {inactive:<10}"));
        }
        Table::Persistent => {
            push(out, format_args!(" {weight:<9} {persistent:<11} {active:<10} {inactive:<10}"));
        }
    }
    out.push('\n');
}

/// `ipip`, `gue:6080:-c`, `gre:+c`, `n/a`
fn tunnel_text(method: ForwardingMethod) -> String {
    let sum = |checksum| match checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match method {
        ForwardingMethod::Tunnel(Tunnel::Ipip) => "ipip".to_owned(),
        ForwardingMethod::Tunnel(Tunnel::Gue { port, checksum }) => format!("gue:{port}:{}", sum(checksum)),
        ForwardingMethod::Tunnel(Tunnel::Gre { checksum }) => format!("gre:{}", sum(checksum)),
        _ => "n/a".to_owned(),
    }
}

/// A number in nine columns: plain below 10⁸, then thousands (`K`), millions, … by 1000.
fn write_large(out: &mut String, number: u64, exact: bool) {
    const STEPS: [(u64, u64, char); 3] = [
        (1_000_000_000, 1_000, 'K'),
        (100_000_000_000, 1_000_000, 'M'),
        (100_000_000_000_000, 1_000_000_000, 'G'),
    ];
    if exact {
        // A longer number pushes the columns after it to the right, as in ipvsadm.
        return push(out, format_args!(" {number:>8}"));
    }
    if number < 100_000_000 {
        return push(out, format_args!("{number:>9}"));
    }
    let (unit, letter) = STEPS
        .iter()
        .find(|(below, ..)| number < *below)
        .map_or((1_000_000_000_000, 'T'), |&(_, unit, letter)| (unit, letter));
    push(out, format_args!("{:>8}{letter}", number / unit));
}
