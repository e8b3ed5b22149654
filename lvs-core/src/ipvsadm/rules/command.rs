//! The options of one line as a command: which go together, what each command needs, and its defaults.

use core::net::IpAddr;
use core::time::Duration;

use lvs_sched::{Endpoint, Protocol, SchedulerFlags, SchedulerKind, Weight};

use super::values::{address, list, mark, netmask_length};
use super::{DEFAULT_PERSISTENCE, MAX_TIMEOUT_SECS};
use crate::ipvsadm::flags;
use crate::ipvsadm::nearest::nearest;
use crate::ipvsadm::options::{Given, Group, Opt, Word, Wrong, quote};
use crate::service::{
    Command, Family, ForwardingMethod, Persistence, RealServer, ServiceKey, TimeoutSettings, Tunnel,
    TunnelChecksum, VirtualService,
};

/// The options of one line on their way to a command. Everything wrong is noted and reading goes on, so a
/// `None` below means that at least one thing has been noted.
pub(super) struct Rule<'l, 'a> {
    pub(super) given: Vec<Given<'a>>,
    pub(super) wrong: &'l mut Vec<Wrong>,
}

impl<'a> Rule<'_, 'a> {
    pub(super) fn command(mut self, first_column: usize) -> Option<Command> {
        self.drop_repeated();
        let Some((command, column)) =
            self.given.iter().find(|g| g.opt.group() == Some(Group::Command)).map(|g| (g.opt, g.column))
        else {
            // A line with an unknown option has its error; the option may have been the command.
            if self.wrong.is_empty() {
                let known = "one of -A, -E, -D, -C, -a, -e, -d, -Z, --set";
                self.note(first_column, "no command", known);
            }
            return None;
        };
        self.drop_foreign(command);
        match command {
            Opt::Clear => Some(Command::Flush),
            Opt::Set => self.timeouts(column).map(Command::SetTimeouts),
            Opt::Zero if self.key_option().is_none() && self.get(Opt::Ipv6).is_none() => {
                Some(Command::Zero(None))
            }
            Opt::Zero => self.key(command, column).map(|key| Command::Zero(Some(key))),
            Opt::DeleteService => self.key(command, column).map(Command::DeleteService),
            Opt::AddService => self.service(command, column).map(Command::AddService),
            Opt::EditService => self.service(command, column).map(Command::EditService),
            Opt::AddServer => {
                self.server(command, column).map(|(key, server)| Command::AddServer(key, server))
            }
            Opt::EditServer => {
                self.server(command, column).map(|(key, server)| Command::EditServer(key, server))
            }
            _ => {
                let key = self.key(command, column);
                let endpoint = self.real_server(command, column, key);
                Some(Command::DeleteServer(key?, endpoint?))
            }
        }
    }

    pub(super) fn note(&mut self, column: usize, message: impl Into<String>, expected: impl Into<String>) {
        self.wrong.push(Wrong::new(column, message, expected));
    }

    pub(super) fn get(&self, opt: Opt) -> Option<&Given<'a>> {
        self.given.iter().find(|given| given.opt == opt)
    }

    fn of_group(&self, group: Group) -> Option<&Given<'a>> {
        self.given.iter().find(|given| given.opt.group() == Some(group))
    }

    /// An option's value, unless it is missing (which has been noted).
    pub(super) fn value(&self, opt: Opt) -> Option<Word<'a>> {
        self.get(opt)?.values.first().copied()
    }

    /// Notes and drops options that are given twice or exclude an earlier one.
    fn drop_repeated(&mut self) {
        let mut kept: Vec<Given<'a>> = Vec::with_capacity(self.given.len());
        for given in core::mem::take(&mut self.given) {
            let name = given.opt.name();
            let earlier = kept.iter().find(|k| {
                k.opt == given.opt || (k.opt.group().is_some() && k.opt.group() == given.opt.group())
            });
            match earlier {
                Some(_) if given.opt == Opt::LocalAddress => kept.push(given),
                Some(earlier) if earlier.opt == given.opt => {
                    self.wrong.push(Wrong::new(
                        given.column,
                        format!("{name} is given twice"),
                        format!("one {name}"),
                    ));
                }
                Some(earlier) => {
                    let other = earlier.opt.name();
                    let message = format!("{name} contradicts {other} before it");
                    self.wrong.push(Wrong::new(given.column, message, format!("either {other} or {name}")));
                }
                None => kept.push(given),
            }
        }
        self.given = kept;
    }

    /// Notes and drops options that do not go with the command.
    fn drop_foreign(&mut self, command: Opt) {
        let (kept, foreign): (Vec<_>, Vec<_>) = core::mem::take(&mut self.given)
            .into_iter()
            .partition(|given| given.opt == command || given.opt.goes_with(command));
        self.given = kept;
        for given in foreign {
            let message = format!("{} does not go with {}", given.opt.name(), command.name());
            let expected = match command {
                Opt::Clear => "-C alone".to_owned(),
                Opt::Set => "--set TCP TCPFIN UDP alone".to_owned(),
                _ => format!("it with {}", given.opt.commands_text()),
            };
            self.note(given.column, message, expected);
        }
    }

    fn key_option(&self) -> Option<&Given<'a>> {
        self.of_group(Group::Service)
    }

    fn key(&mut self, command: Opt, command_column: usize) -> Option<ServiceKey> {
        let ipv6 = self.get(Opt::Ipv6).map(|given| given.column);
        let Some((opt, value)) = self.key_option().map(|given| (given.opt, given.values.first().copied()))
        else {
            self.note(
                command_column,
                format!("{} names no service", command.name()),
                "-t, -u or --sctp-service ADDRESS:PORT, or -f MARK",
            );
            return None;
        };
        if let (Some(column), true) = (ipv6, opt != Opt::Mark) {
            self.note(
                column,
                format!("-6 does not go with {}", opt.name()),
                "it with -f: an address says its family itself",
            );
        }
        let value = value?;
        let protocol = match opt {
            Opt::Tcp => Protocol::Tcp,
            Opt::Udp => Protocol::Udp,
            Opt::Sctp => Protocol::Sctp,
            _ => {
                let family = if ipv6.is_some() { Family::V6 } else { Family::V4 };
                return match mark(value.text) {
                    Some(mark) => Some(ServiceKey::Mark { family, mark }),
                    None => {
                        let message = format!("{} is no firewall mark", quote(value.text));
                        self.note(
                            value.column,
                            message,
                            "1 to 4294967295, or as hexadecimal 0x1 to 0xffffffff",
                        );
                        None
                    }
                };
            }
        };
        let (addr, port) = self.address_and_port(value)?;
        Some(ServiceKey::Address { protocol, endpoint: Endpoint::new(addr, port.unwrap_or(0)) })
    }

    fn service(&mut self, command: Opt, column: usize) -> Option<VirtualService> {
        let key = self.key(command, column);
        let scheduler = self.scheduler();
        let flags = self.scheduler_flags(scheduler);
        let persistence = self.persistence(key);
        let local_addresses = self.local_addresses(key);
        let one_packet = self.one_packet(key);
        if let Some(column) = self.get(Opt::Engine).map(|given| given.column) {
            self.note(
                column,
                "persistence engines are not supported",
                "-p alone: persistence by client address",
            );
        }
        if let (Some(ServiceKey::Address { endpoint: Endpoint { port: 0, .. }, .. }), None) =
            (key, self.get(Opt::Persistent))
        {
            let column =
                self.key_option().and_then(|given| given.values.first()).map_or(column, |v| v.column);
            self.note(
                column,
                "a service without a port takes all ports and must be persistent",
                "a port (10.0.0.1:80), or -p",
            );
        }
        Some(VirtualService {
            key: key?,
            scheduler: scheduler?,
            flags: flags?,
            persistence: persistence?,
            one_packet,
            local_addresses: local_addresses?,
        })
    }

    fn scheduler(&mut self) -> Option<SchedulerKind> {
        if self.get(Opt::Scheduler).is_none() {
            return Some(SchedulerKind::default());
        }
        let value = self.value(Opt::Scheduler)?;
        if let Ok(kind) = value.text.parse() {
            return Some(kind);
        }
        let names = SchedulerKind::ALL.map(SchedulerKind::name);
        if KERNEL_SCHEDULERS.contains(&value.text) {
            let message = format!("the kernel's scheduler {} is not supported", quote(value.text));
            self.note(value.column, message, format!("one of {}", names.join(", ")));
        } else {
            let expected = match nearest(value.text, names) {
                Some(near) => near.to_owned(),
                None => format!("one of {}", names.join(", ")),
            };
            self.note(value.column, format!("{} is no scheduler", quote(value.text)), expected);
        }
        None
    }

    fn scheduler_flags(&mut self, scheduler: Option<SchedulerKind>) -> Option<SchedulerFlags> {
        if self.get(Opt::SchedFlags).is_none() {
            return Some(SchedulerFlags::empty());
        }
        let value = self.value(Opt::SchedFlags)?;
        let kind = scheduler?;
        let mut all = SchedulerFlags::empty();
        let mut right = true;
        for name in list(value) {
            if let Some(flag) = flags::parse(kind, name.text) {
                all |= flag;
                continue;
            }
            right = false;
            let message = format!("{} is no flag of the scheduler {kind}", quote(name.text));
            let own = SchedulerFlags::all().names(kind);
            let expected = match flags::owner(name.text) {
                Some(owner) => format!("it with -s {owner}, or of {kind}: {}", own.replace(',', ", ")),
                None => {
                    nearest(name.text, own.split(',')).map_or_else(|| own.replace(',', ", "), str::to_owned)
                }
            };
            self.note(name.column, message, expected);
        }
        right.then_some(all)
    }

    /// The outer `None` means wrong, the inner one not persistent.
    fn persistence(&mut self, key: Option<ServiceKey>) -> Option<Option<Persistence>> {
        let netmask = self.get(Opt::Netmask).map(|given| given.column);
        let Some(given) = self.get(Opt::Persistent) else {
            if let Some(column) = netmask {
                self.note(column, "-M says how a persistent service groups clients", "-p before it");
                return None;
            }
            return Some(None);
        };
        let timeout = match given.values.first().copied() {
            None => Some(DEFAULT_PERSISTENCE),
            Some(word) => self.number(word, 1..=MAX_TIMEOUT_SECS, "seconds").map(Duration::from_secs),
        };
        let family = key.map(family);
        let prefix_len = match (netmask, family) {
            (None, None) => None,
            (None, Some(Family::V4)) => Some(32),
            (None, Some(Family::V6)) => Some(128),
            (Some(_), family) => {
                let value = self.value(Opt::Netmask)?;
                let family = family?;
                match netmask_length(value.text, family) {
                    Ok(length) => Some(length),
                    Err(expected) => {
                        self.note(value.column, format!("{} is no netmask", quote(value.text)), expected);
                        None
                    }
                }
            }
        };
        Some(Some(Persistence { timeout: timeout?, prefix_len: prefix_len? }))
    }

    fn one_packet(&mut self, key: Option<ServiceKey>) -> bool {
        let Some(column) = self.get(Opt::OnePacket).map(|given| given.column) else { return false };
        if let Some(ServiceKey::Address { protocol: protocol @ (Protocol::Tcp | Protocol::Sctp), .. }) = key {
            self.note(
                column,
                format!("one-packet scheduling does not go with {protocol}"),
                "-o with -u or with -f",
            );
        }
        true
    }

    fn local_addresses(&mut self, key: Option<ServiceKey>) -> Option<Vec<IpAddr>> {
        let lists: Vec<Word<'a>> = self
            .given
            .iter()
            .filter(|given| given.opt == Opt::LocalAddress)
            .filter_map(|given| given.values.first().copied())
            .collect();
        let mut all: Vec<IpAddr> = Vec::new();
        let before = self.wrong.len();
        for word in lists.into_iter().flat_map(list) {
            match address(word.text) {
                Some(addr) if all.contains(&addr) => {
                    self.note(
                        word.column,
                        format!("{} is given twice", quote(word.text)),
                        "each address once",
                    );
                }
                Some(addr) => {
                    if key.is_some_and(|key| family(key) != Family::of(&addr)) {
                        self.note(
                            word.column,
                            format!("{} is of another family than the service", quote(word.text)),
                            "IPv4 with IPv4, IPv6 with IPv6",
                        );
                    }
                    all.push(addr);
                }
                None => self.wrong_address(word),
            }
        }
        (self.wrong.len() == before).then_some(all)
    }

    fn server(&mut self, command: Opt, column: usize) -> Option<(ServiceKey, RealServer)> {
        let key = self.key(command, column);
        let endpoint = self.real_server(command, column, key);
        let method = self.method();
        let weight = self.number_of(Opt::Weight, 0..=u64::from(Weight::MAX.get()), 1);
        let upper = self.number_of(Opt::UpperThreshold, 0..=u64::from(u32::MAX), 0);
        let lower = self.number_of(Opt::LowerThreshold, 0..=u64::from(u32::MAX), 0);
        if let (Some(upper), Some(lower), Some(value)) = (upper, lower, self.value(Opt::LowerThreshold))
            && lower > upper
        {
            self.note(
                value.column,
                format!("the lower threshold {lower} is above the upper one, {upper}"),
                "-y at most -x",
            );
        }
        let (key, mut endpoint, method) = (key?, endpoint?, method?);
        if !matches!(method, ForwardingMethod::Tunnel(_)) && Family::of(&endpoint.addr) != family(key) {
            let value = self.value(Opt::RealServer)?;
            self.note(
                value.column,
                format!("{} is of another family than the service", quote(value.text)),
                "IPv4 with IPv4, IPv6 with IPv6; only a tunnel (-i) may mix them",
            );
        }
        // DR and TUN leave the port as it is, so it is the service's whatever the rule says; so does ipvsadm.
        if let (
            ServiceKey::Address { endpoint: service, .. },
            ForwardingMethod::DirectRoute | ForwardingMethod::Tunnel(_),
        ) = (key, method)
        {
            endpoint.port = service.port;
        }
        let weight = u32::try_from(weight?).ok().and_then(|weight| Weight::new(weight).ok())?;
        let server = RealServer {
            endpoint,
            method,
            weight,
            upper_threshold: u32::try_from(upper?).ok()?,
            lower_threshold: u32::try_from(lower?).ok()?,
        };
        Some((key, server))
    }

    /// The value of `-r`; without a port the service's port.
    fn real_server(&mut self, command: Opt, column: usize, key: Option<ServiceKey>) -> Option<Endpoint> {
        if self.get(Opt::RealServer).is_none() {
            self.note(
                column,
                format!("{} names no real server", command.name()),
                "-r ADDRESS or -r ADDRESS:PORT",
            );
            return None;
        }
        let value = self.value(Opt::RealServer)?;
        let (addr, port) = self.address_and_port(value)?;
        let port = match (port, key?) {
            (Some(port), _) => port,
            (None, ServiceKey::Address { endpoint, .. }) => endpoint.port,
            (None, ServiceKey::Mark { .. }) => 0,
        };
        Some(Endpoint::new(addr, port))
    }

    fn method(&mut self) -> Option<ForwardingMethod> {
        let before = self.wrong.len();
        let method = match self.of_group(Group::Forwarding).map(|given| given.opt) {
            None | Some(Opt::Gatewaying) => ForwardingMethod::DirectRoute,
            Some(Opt::Masquerading) => ForwardingMethod::Masquerade,
            Some(Opt::FullNat) => ForwardingMethod::FullNat,
            Some(_) => return self.tunnel().map(ForwardingMethod::Tunnel),
        };
        let tunnel_options: Vec<(Opt, usize)> = self
            .given
            .iter()
            .filter(|given| {
                matches!(given.opt, Opt::TunnelType | Opt::TunnelPort)
                    || given.opt.group() == Some(Group::Checksum)
            })
            .map(|given| (given.opt, given.column))
            .collect();
        for (opt, column) in tunnel_options {
            let message = format!("{} does not go with this forwarding method", opt.name());
            self.note(column, message, "it with -i (tunnel)");
        }
        (self.wrong.len() == before).then_some(method)
    }

    fn tunnel(&mut self) -> Option<Tunnel> {
        let kind = match self.get(Opt::TunnelType) {
            None => "ipip",
            Some(_) => self.value(Opt::TunnelType)?.text,
        };
        if !TUNNEL_TYPES.contains(&kind) {
            let column = self.value(Opt::TunnelType)?.column;
            self.note(
                column,
                format!("{} is no tunnel type", quote(kind)),
                nearest(kind, TUNNEL_TYPES).unwrap_or("ipip, gue or gre"),
            );
            return None;
        }
        let before = self.wrong.len();
        let sum = self.of_group(Group::Checksum).map(|given| (given.opt, given.column));
        match sum {
            Some((opt, column)) if kind == "ipip" => {
                self.note(column, format!("{} does not go with ipip", opt.name()), "--tun-type gue or gre");
            }
            Some((opt @ Opt::TunnelRemoteChecksum, column)) if kind == "gre" => {
                self.note(
                    column,
                    format!("{} does not go with gre", opt.name()),
                    "--tun-csum or --tun-nocsum",
                );
            }
            _ => {}
        }
        let checksum = match sum {
            Some((Opt::TunnelChecksum, _)) => TunnelChecksum::Full,
            Some((Opt::TunnelRemoteChecksum, _)) => TunnelChecksum::Remote,
            _ => TunnelChecksum::None,
        };
        let port_column = self.get(Opt::TunnelPort).map(|given| given.column);
        let port = match (port_column, kind) {
            (Some(_), "gue") => {
                let value = self.value(Opt::TunnelPort)?;
                self.number(value, 1..=u64::from(u16::MAX), "UDP port")
                    .and_then(|port| u16::try_from(port).ok())
            }
            (None, "gue") => {
                let column = self.get(Opt::TunnelType).map_or(1, |given| given.column);
                self.note(column, "a gue tunnel needs its UDP port", "--tun-port 6080");
                None
            }
            (Some(column), _) => {
                self.note(column, format!("--tun-port does not go with {kind}"), "it with --tun-type gue");
                None
            }
            (None, _) => None,
        };
        if self.wrong.len() > before {
            return None;
        }
        match kind {
            "gue" => Some(Tunnel::Gue { port: port?, checksum }),
            "gre" => Some(Tunnel::Gre { checksum }),
            _ => Some(Tunnel::Ipip),
        }
    }

    fn timeouts(&mut self, column: usize) -> Option<TimeoutSettings> {
        let values: Vec<Word<'a>> = self.get(Opt::Set)?.values.clone();
        let [tcp, tcp_fin, udp] = values[..] else {
            self.note(
                column,
                format!("--set takes three timeouts, not {}", values.len()),
                "--set TCP TCPFIN UDP in seconds, 0 to keep one",
            );
            return None;
        };
        let mut seconds =
            |word| self.number(word, 0..=MAX_TIMEOUT_SECS, "seconds (0 keeps)").map(Duration::from_secs);
        let (tcp, tcp_fin, udp) = (seconds(tcp), seconds(tcp_fin), seconds(udp));
        Some(TimeoutSettings { tcp: tcp?, tcp_fin: tcp_fin?, udp: udp? })
    }
}

/// Schedulers of ipvsadm that this project may lack: worth a better answer than a spelling suggestion.
const KERNEL_SCHEDULERS: &[&str] = &["lblc", "lblcr", "dh", "sed", "nq", "fo", "ovf", "twos", "none"];

const TUNNEL_TYPES: [&str; 3] = ["ipip", "gue", "gre"];

fn family(key: ServiceKey) -> Family {
    match key {
        ServiceKey::Address { endpoint, .. } => Family::of(&endpoint.addr),
        ServiceKey::Mark { family, .. } => family,
    }
}
