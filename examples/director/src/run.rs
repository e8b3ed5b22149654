//! `lvs-director run`: a live director behind a TUN device.
//!
//! The order of a run: read the rules and refuse what cannot work, open the device, make the
//! [routes](crate::routes), loop until SIGTERM or SIGINT, take the routes back, print the tables. Until the rules
//! are found right nothing on the host changes, and whatever ends the loop, the routes are taken back.
//!
//! A TUN device carries packets without link headers, so LVS/NAT, FULLNAT and LVS/TUN work here. LVS/DR does not:
//! its packets keep the VIP as their destination, and only a link header could tell them apart from new ones.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lvs_core::io::{Counters as IoCounters, MonotonicClock, PacketIo, RunCounters, Tun, TunConfig};
use lvs_core::ipvsadm::list::{self, ListOptions, Table};
use lvs_core::service::{Command, Family, ForwardingMethod, ServiceKey};
use lvs_core::{Config, Director, Environment, Instant, Limits, MIN_MTU_V4, MIN_MTU_V6, PassPolicy, Prefix};

use crate::routes::{Applied, Host, Needs, Plan, System};
use crate::rules_file::{self, Rules, RulesError};

/// Longest name of a network device in bytes (`IFNAMSIZ` without its terminator).
const MAX_DEVICE_NAME: usize = 15;

/// The size that the tables print: buckets of the kernel's default table.
const TABLE_SIZE: usize = 4096;

/// Run a director behind a TUN device: LVS/NAT, FULLNAT and LVS/TUN
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Rules as `ipvsadm -R` reads them; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: PathBuf,
    /// TUN device: made and removed by the director, or attached to when it is there
    #[arg(long, value_name = "NAME", value_parser = device_name)]
    pub(crate) tun: String,
    /// The director's own address, once per family: source of its ICMP errors and of LVS/TUN's outer packets.
    /// It is routed to the device and must not be an address of the host
    #[arg(long, value_name = "CIDR", value_parser = own_address)]
    pub(crate) address: Vec<IpAddr>,
    /// Local addresses for services with --fullnat servers and no --laddr; once per family
    #[arg(long, value_name = "CIDR")]
    pub(crate) fullnat_pool: Vec<Prefix>,
    /// A switch of net.ipv4.vs, as conn_reuse_mode=1
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    pub(crate) sysctls: Vec<String>,
    /// MTU of the device and of the paths to servers and clients, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU_V4)..))]
    pub(crate) mtu: u16,
    /// IPv4 connections that the table holds (82 bytes each)
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections.ipv4, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Secret of the hash tables; random unless given
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Print the commands that set up and take back the routes, and exit
    #[arg(long)]
    pub(crate) print_routes: bool,
    /// Routing table for packets of NAT servers; its rules have the priorities 7000 + 10 N to 7002 + 10 N
    #[arg(long, value_name = "N", default_value_t = 77, value_parser = clap::value_parser!(u32).range(1..=252))]
    pub(crate) rule_table: u32,
}

/// Options that cannot be carried out; nothing has been changed.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Refused {}

/// The exit code that goes with an error: 2 for rules and options that are wrong, else 1.
pub(crate) fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    if error.is::<Refused>() || error.is::<RulesError>() { 2 } else { 1 }
}

fn device_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let fits = (1..=MAX_DEVICE_NAME).contains(&text.len()) && text.chars().all(allowed);
    if fits && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected 1 to {MAX_DEVICE_NAME} letters, digits and `_-.`, as tun0"))
    }
}

/// Reads an address, with or without the length of its network: only the address itself is routed.
fn own_address(text: &str) -> Result<IpAddr, String> {
    let wrong = || "expected an address, as 10.0.0.9 or 10.0.0.9/24".to_owned();
    text.parse::<Prefix>().map_err(|_| wrong())?;
    text.split('/').next().and_then(|address| address.parse().ok()).ok_or_else(wrong)
}

/// Runs a director until SIGTERM or SIGINT.
///
/// # Errors
/// [`Refused`] or [`RulesError`] for wrong options and rules, when nothing has been changed; else what the system
/// refused.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    let (mut director, plan) = prepare(args, &is_of_host)?;
    if args.print_routes {
        write!(out, "{plan}")?;
        return Ok(());
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let mut tun = Tun::open(&TunConfig { mtu: args.mtu, ..TunConfig::new(&args.tun) })
        .map_err(|error| format!("{error} (a director needs the right CAP_NET_ADMIN and /dev/net/tun)"))?;
    let routes = InForce(Some(plan.apply(&mut System)?));
    let services = director.services().len();
    let plural = if services == 1 { "" } else { "s" };
    writeln!(out, "lvs-director: ready on {}, {services} service{plural}", args.tun)?;
    out.flush()?;

    let clock = MonotonicClock::new();
    let ended = lvs_core::io::run(&mut director, &mut tun, || clock.now(), || stop.load(Ordering::Relaxed));
    let left = routes.end();
    let loop_counters = ended.as_ref().ok().copied();
    write_report(&mut out, &director, loop_counters, tun.counters())?;
    out.flush()?;
    ended?;
    if left.is_empty() { Ok(()) } else { Err(format!("could not take back {}", left.join("; ")).into()) }
}

/// Routes that are taken back however the run ends.
struct InForce(Option<Applied>);

impl InForce {
    fn end(mut self) -> Vec<String> {
        self.0.take().map_or_else(Vec::new, |applied| applied.undo(&mut System))
    }
}

impl Drop for InForce {
    fn drop(&mut self) {
        if let Some(applied) = self.0.take() {
            // Only reached when something else has failed, which is what will be told.
            drop(applied.undo(&mut System));
        }
    }
}

/// Makes the director and the plan of its routes; changes nothing on the host. `is_of_host` says whether an
/// address is the host's own.
fn prepare(args: &Args, is_of_host: &dyn Fn(IpAddr) -> bool) -> Result<(Director, Plan), Box<dyn Error>> {
    let mut config = Config {
        environment: Environment { addresses: args.address.clone(), mtu: args.mtu, routes: Vec::new() },
        pass: PassPolicy::Answer,
        sysctl: rules_file::sysctl(&args.sysctls).map_err(|error| Refused(error.to_string()))?,
        seed: args.seed.unwrap_or_else(random_seed),
        ..Config::default()
    };
    config.limits.connections.ipv4 = args.connections;
    let mut rules = Rules::read(&args.rules)?;
    for pool in &args.fullnat_pool {
        rules_file::add_local_addresses(&mut rules.commands, *pool);
    }
    let problems = problems(&rules.commands, &args.address, is_of_host);
    if !problems.is_empty() {
        return Err(rules.refused(problems).into());
    }
    let mut director = Director::new(config);
    rules.apply(&mut director, Instant::ZERO)?;
    let needs = needs(&director, args);
    for prefix in &needs.to {
        if is_of_host(prefix.addr()) {
            return Err(Refused(format!(
                "{} is an address of this host, so its packets would never reach the device; expected an \
                 address that is routed to this host, or remove it with: ip addr del",
                prefix.addr()
            ))
            .into());
        }
    }
    if needs.to.iter().any(|prefix| prefix.addr().is_ipv6()) && args.mtu < MIN_MTU_V6 {
        return Err(
            Refused(format!("--mtu {} is too small for IPv6; expected {MIN_MTU_V6}", args.mtu)).into()
        );
    }
    let plan = Plan::new(&args.tun, args.rule_table, &needs);
    Ok((director, plan))
}

/// The one place that asks for randomness: the standard library keys each hasher from the system's.
fn random_seed() -> u64 {
    RandomState::new().hash_one("lvs-director")
}

/// Whether an address is one of the host's: only those can be bound to.
fn is_of_host(addr: IpAddr) -> bool {
    let switch = if addr.is_ipv4() { "net/ipv4/ip_nonlocal_bind" } else { "net/ipv6/ip_nonlocal_bind" };
    // With this switch on every address can be bound to, and nothing can be told.
    let tells = System.read(switch).is_ok_and(|value| value == "0");
    tells && UdpSocket::bind((addr, 0)).is_ok()
}

/// What a director could do, but not one behind a TUN device: commands by index, and what is wrong with them.
fn problems(
    commands: &[Command],
    own: &[IpAddr],
    is_of_host: &dyn Fn(IpAddr) -> bool,
) -> Vec<(usize, String)> {
    let problem = |command: &Command| {
        let (key, server) = match command {
            Command::AddService(service) | Command::EditService(service) => {
                return matches!(service.key, ServiceKey::Mark { .. }).then(|| {
                    "a service by firewall mark has no VIP to route, and a TUN device carries no marks; \
                     expected -t or -u ADDRESS:PORT"
                        .to_owned()
                });
            }
            Command::AddServer(key, server) | Command::EditServer(key, server) => (key, server),
            _ => return None,
        };
        let rip = server.endpoint.addr;
        match server.method {
            ForwardingMethod::DirectRoute => Some(format!(
                "{} has the forwarding method DR, which needs a layer-2 backend: routing cannot choose the \
                 neighbour of a packet that is addressed to {}; expected -m (NAT), --fullnat or -i (tunnel)",
                server.endpoint,
                vip_text(key)
            )),
            ForwardingMethod::Tunnel(_) if !own.iter().any(|own| Family::of(own) == Family::of(&rip)) => {
                Some(format!(
                    "the tunnel to {rip} needs a source address; expected --address with one of its family"
                ))
            }
            ForwardingMethod::Masquerade | ForwardingMethod::FullNat if is_of_host(rip) => Some(format!(
                "{rip} is an address of this host: its answers would not pass the device; expected the \
                 address of another host"
            )),
            _ => None,
        }
    };
    commands.iter().enumerate().filter_map(|(index, command)| Some((index, problem(command)?))).collect()
}

fn vip_text(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address { endpoint, .. } => format!("the VIP {}", endpoint.addr),
        ServiceKey::Mark { .. } => "a VIP".to_owned(),
    }
}

/// The addresses that the director's services depend on.
fn needs(director: &Director, args: &Args) -> Needs {
    let mut needs = Needs::default();
    needs.to.extend(args.address.iter().copied().map(Prefix::host));
    for row in director.services() {
        if let ServiceKey::Address { endpoint, .. } = row.service.key {
            needs.to.insert(Prefix::host(endpoint.addr));
        }
        let of_pool = |addr: &IpAddr| args.fullnat_pool.iter().find(|prefix| prefix.contains(*addr)).copied();
        needs.to.extend(
            row.service
                .local_addresses
                .iter()
                .map(|addr| of_pool(addr).unwrap_or_else(|| Prefix::host(*addr))),
        );
        let nat = row.servers.iter().filter(|row| row.server.method == ForwardingMethod::Masquerade);
        needs.from.extend(nat.map(|row| row.server.endpoint.addr));
    }
    needs
}

/// The tables and counters at the end.
fn write_report(
    out: &mut dyn Write,
    director: &Director,
    steps: Option<RunCounters>,
    device: IoCounters,
) -> io::Result<()> {
    let rows = director.services();
    writeln!(out, "{}", list::services(&rows, TABLE_SIZE, ListOptions::default()))?;
    let stats = ListOptions { table: Table::Stats, ..ListOptions::default() };
    writeln!(out, "{}", list::services(&rows, TABLE_SIZE, stats))?;

    let counters = director.counters();
    writeln!(
        out,
        "packets     received {}, transmitted {}, replied {}, queued {}, dropped {}",
        counters.received,
        counters.transmitted,
        counters.replied,
        counters.queued,
        counters.dropped_total()
    )?;
    for (reason, count) in counters.drops().filter(|(_, count)| *count > 0) {
        writeln!(out, "  dropped   {reason} {count}")?;
    }
    writeln!(
        out,
        "connections open {}, expired {}, evicted {}",
        director.connection_count(),
        counters.expired,
        counters.evicted
    )?;
    let IoCounters { received, sent, skipped, send_full, send_refused, link_down, segmented, .. } = device;
    writeln!(
        out,
        "device      received {received}, sent {sent}, segmented {segmented}, not sent: queue full {send_full}, \
         refused {send_refused}, link down {link_down}; no packet {skipped}"
    )?;
    if let Some(RunCounters { steps, too_large, transient_errors, .. }) = steps {
        writeln!(
            out,
            "loop        steps {steps}, too large {too_large}, transient errors {transient_errors}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
