//! What the kernel must be told so that packets reach the director on its TUN device, and leave again.
//!
//! ```text
//!  client ──▶ VIP route ──▶ TUN ──▶ director ──▶ TUN ──▶ the host's routes ──▶ server
//!  client ◀── the host's routes ◀── TUN ◀── director ◀── TUN ◀── rule "from RIP" ◀── server
//! ```
//!
//! | packets | come to the TUN by |
//! |---|---|
//! | to a VIP | a route to the VIP |
//! | from a NAT server (destination: the client) | a rule on the source address, and a table with one default route |
//! | from a FULLNAT server (destination: a local address) | a route to the local address |
//! | to the director itself (ICMP about its tunnels, pings) | a route to its address |
//!
//! A packet that the director sends enters the kernel through the TUN and must take the host's own routes, even
//! if its source is a server's address. So three rules stand together: packets from the TUN jump (`goto`) over
//! the source rules to an empty rule (`nop`) behind them. What the host itself exchanges with a server, such as
//! health checks, is not touched: its answers are addressed to the host, and the kernel looks into its table of
//! local addresses before it looks at these rules.
//!
//! Reverse path filters are off on the TUN and for `all` (the kernel uses the stricter of the two): the sources of
//! packets that the director sends lie behind other devices. A host whose other devices were filtered by `all`
//! alone needs their own `rp_filter` set.
//!
//! A [`Plan`] is a list of commands of `ip` and `sysctl`. The commands that are printed are those that run: `ip`
//! is executed, not netlink spoken, so that what an operator reads is what happens, and can be done by hand.
//! Switches are written to `/proc/sys` directly, which is all that `sysctl -w` does.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::process::Command;

use lvs_core::Prefix;
use lvs_core::service::Family;

/// Rules of one priority that a start removes at most, left over from an unclean end.
const MAX_LEFT_OVER: usize = 65_536;

/// Addresses whose packets must come to the director.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Routed to the TUN: VIPs, FULLNAT's local addresses, the director's own.
    pub(crate) to: BTreeSet<Prefix>,
    /// Packets from here are led to the TUN: NAT servers.
    pub(crate) from: BTreeSet<IpAddr>,
}

/// One change of the host's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A command of `ip` and the one that takes it back, as arguments.
    Ip {
        /// What sets it.
        set: Vec<String>,
        /// What removes it.
        remove: Vec<String>,
    },
    /// A switch below `/proc/sys` that gets a value; the value from before comes back at the end.
    Sysctl {
        /// Path with slashes, as `net/ipv4/ip_forward`.
        name: String,
        /// The value.
        value: &'static str,
        /// Whether it goes away with the device, so that nothing need be restored.
        of_device: bool,
    },
}

/// As a shell would run it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { set, .. } => write!(f, "ip {}", set.join(" ")),
            Self::Sysctl { name, value, .. } => write!(f, "sysctl -w {name}={value}"),
        }
    }
}

/// All changes, in the order in which they are made; they are taken back in reverse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Commands that remove what an unclean end left, each run until it fails.
    left_over: Vec<Vec<String>>,
    steps: Vec<Step>,
}

fn family_option(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

fn args(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

impl Plan {
    /// The changes for a TUN device. `table` is a routing table of the director's own; its rules get priorities
    /// derived from the number, so that two directors with two tables do not meet.
    pub(crate) fn new(tun: &str, table: u32, needs: &Needs) -> Self {
        let mut plan = Self { left_over: Vec::new(), steps: Vec::new() };
        let uses = |family| {
            needs.to.iter().any(|prefix| Family::of(&prefix.addr()) == family)
                || needs.from.iter().any(|addr| Family::of(addr) == family)
        };
        if uses(Family::V4) {
            plan.sysctl(format!("net/ipv4/conf/{tun}/rp_filter"), "0", true);
            plan.sysctl("net/ipv4/conf/all/rp_filter", "0", false);
            plan.sysctl("net/ipv4/ip_forward", "1", false);
        }
        if uses(Family::V6) {
            plan.sysctl(format!("net/ipv6/conf/{tun}/disable_ipv6"), "0", true);
            plan.sysctl("net/ipv6/conf/all/forwarding", "1", false);
        }
        for family in [Family::V4, Family::V6] {
            plan.rules(tun, table, family, needs);
        }
        for prefix in &needs.to {
            let ip = family_option(Family::of(&prefix.addr()));
            plan.ip(
                &format!("{ip} route add {prefix} dev {tun}"),
                &format!("{ip} route del {prefix} dev {tun}"),
            );
        }
        plan
    }

    fn rules(&mut self, tun: &str, table: u32, family: Family, needs: &Needs) {
        let ip = family_option(family);
        let jump = 7000 + 10 * table;
        let (source, end) = (jump + 1, jump + 2);
        self.left_over.push(args(&format!("{ip} rule del pref {source} lookup {table}")));
        let mut sources = needs.from.iter().filter(|addr| Family::of(addr) == family).peekable();
        if sources.peek().is_none() {
            return;
        }
        self.ip(
            &format!("{ip} route add default dev {tun} table {table}"),
            &format!("{ip} route del default dev {tun} table {table}"),
        );
        self.ip(&format!("{ip} rule add pref {end} nop"), &format!("{ip} rule del pref {end} nop"));
        self.ip(
            &format!("{ip} rule add pref {jump} iif {tun} goto {end}"),
            &format!("{ip} rule del pref {jump} iif {tun} goto {end}"),
        );
        for addr in sources {
            self.ip(
                &format!("{ip} rule add pref {source} from {addr} lookup {table}"),
                &format!("{ip} rule del pref {source} from {addr} lookup {table}"),
            );
        }
    }

    fn ip(&mut self, set: &str, remove: &str) {
        self.steps.push(Step::Ip { set: args(set), remove: args(remove) });
    }

    fn sysctl(&mut self, name: impl Into<String>, value: &'static str, of_device: bool) {
        self.steps.push(Step::Sysctl { name: name.into(), value, of_device });
    }

    /// Makes all changes. What an earlier director left behind is replaced.
    ///
    /// # Errors
    /// The command that failed, with its message; the changes before it have been taken back.
    pub(crate) fn apply(&self, host: &mut dyn Host) -> Result<Applied, RouteError> {
        for command in &self.left_over {
            for _ in 0..MAX_LEFT_OVER {
                if host.ip(command).is_err() {
                    break;
                }
            }
        }
        let mut applied = Applied { undo: Vec::new() };
        for step in &self.steps {
            if let Err(message) = applied.make(step, host) {
                let failed = RouteError { command: step.to_string(), message, left: applied.undo(host) };
                return Err(failed);
            }
        }
        Ok(applied)
    }
}

/// The commands, those that set up first, then those that take back.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# at the start, once the device is there")?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "# at the end (and each sysctl that is not the device's gets its old value)")?;
        for step in self.steps.iter().rev() {
            if let Step::Ip { remove, .. } = step {
                writeln!(f, "ip {}", remove.join(" "))?;
            }
        }
        Ok(())
    }
}

/// A change that could not be made or taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteError {
    /// The command.
    pub(crate) command: String,
    /// What the system said.
    pub(crate) message: String,
    /// Commands that failed while the changes before were taken back; usually none.
    pub(crate) left: Vec<String>,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.command, self.message)?;
        if !self.left.is_empty() {
            write!(f, "; still to be taken back by hand: {}", self.left.join("; "))?;
        }
        Ok(())
    }
}

impl std::error::Error for RouteError {}

/// The changes that are in force.
#[derive(Debug)]
#[must_use = "changes stay in force until they are taken back"]
pub(crate) struct Applied {
    undo: Vec<Undo>,
}

#[derive(Debug)]
enum Undo {
    Ip(Vec<String>),
    Sysctl { name: String, value: String },
}

impl Applied {
    fn make(&mut self, step: &Step, host: &mut dyn Host) -> Result<(), String> {
        match step {
            Step::Ip { set, remove } => {
                if let Err(first) = host.ip(set) {
                    // The same thing may be there from a director that was killed; anything else stays an error.
                    if host.ip(remove).is_err() {
                        return Err(first);
                    }
                    host.ip(set)?;
                }
                self.undo.push(Undo::Ip(remove.clone()));
            }
            Step::Sysctl { name, value, of_device } => {
                let before = host.read(name)?;
                if before != *value {
                    host.write(name, value)?;
                    if !of_device {
                        self.undo.push(Undo::Sysctl { name: name.clone(), value: before });
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes all changes back, the last one first. Returns the commands that failed, with what was said.
    pub(crate) fn undo(self, host: &mut dyn Host) -> Vec<String> {
        let mut failed = Vec::new();
        for undo in self.undo.into_iter().rev() {
            let (command, result) = match undo {
                Undo::Ip(arguments) => {
                    let result = host.ip(&arguments);
                    (format!("ip {}", arguments.join(" ")), result)
                }
                Undo::Sysctl { name, value } => {
                    let result = host.write(&name, &value);
                    (format!("sysctl -w {name}={value}"), result)
                }
            };
            if let Err(message) = result {
                failed.push(format!("`{command}` ({message})"));
            }
        }
        failed
    }
}

/// Where changes are made: the real host, or a record of them in tests. Errors are what the system said.
pub(crate) trait Host {
    /// Runs `ip` with these arguments.
    fn ip(&mut self, arguments: &[String]) -> Result<(), String>;
    /// Reads a switch, without the line end.
    fn read(&mut self, name: &str) -> Result<String, String>;
    /// Writes a switch.
    fn write(&mut self, name: &str, value: &str) -> Result<(), String>;
}

/// The host that this program runs on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct System;

impl Host for System {
    fn ip(&mut self, arguments: &[String]) -> Result<(), String> {
        let output = Command::new("ip").args(arguments).output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "there is no `ip` command; install iproute2".to_owned(),
            _ => format!("cannot run `ip`: {error}"),
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.trim().replace('\n', ", "))
    }

    fn read(&mut self, name: &str) -> Result<String, String> {
        let path = format!("/proc/sys/{name}");
        let value = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
        Ok(value.trim_end().to_owned())
    }

    fn write(&mut self, name: &str, value: &str) -> Result<(), String> {
        let path = format!("/proc/sys/{name}");
        fs::write(&path, value).map_err(|error| format!("cannot write {path}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A host that knows which commands are in force and fails when told to.
    #[derive(Default)]
    struct Fake {
        log: Vec<String>,
        present: BTreeSet<String>,
        switches: BTreeMap<String, String>,
        broken: Option<&'static str>,
    }

    impl Host for Fake {
        fn ip(&mut self, arguments: &[String]) -> Result<(), String> {
            let text = arguments.join(" ");
            if self.broken.is_some_and(|broken| text.contains(broken)) {
                return Err("RTNETLINK answers: Operation not permitted".to_owned());
            }
            let done = if text.contains(" del ") {
                self.present.remove(&text.replace(" del ", " add "))
            } else {
                self.present.insert(text.clone())
            };
            if !done {
                return Err("File exists, or not".to_owned());
            }
            self.log.push(text);
            Ok(())
        }

        fn read(&mut self, name: &str) -> Result<String, String> {
            Ok(self.switches.get(name).cloned().unwrap_or_else(|| "0".to_owned()))
        }

        fn write(&mut self, name: &str, value: &str) -> Result<(), String> {
            self.log.push(format!("{name}={value}"));
            self.switches.insert(name.to_owned(), value.to_owned());
            Ok(())
        }
    }

    fn plan() -> Plan {
        let needs = Needs {
            to: ["10.9.0.1", "2001:db8::1", "10.9.1.0/28"].map(|text| text.parse().unwrap()).into(),
            from: ["10.0.2.12", "10.0.2.11"].map(|text| text.parse().unwrap()).into(),
        };
        Plan::new("tun0", 77, &needs)
    }

    #[test]
    fn the_commands_of_a_nat_service_are_the_documented_ones() {
        let text = plan().to_string();
        let (start, end) = text.split_once("# at the end").unwrap();
        assert_eq!(
            start,
            "# at the start, once the device is there\n\
             sysctl -w net/ipv4/conf/tun0/rp_filter=0\n\
             sysctl -w net/ipv4/conf/all/rp_filter=0\n\
             sysctl -w net/ipv4/ip_forward=1\n\
             sysctl -w net/ipv6/conf/tun0/disable_ipv6=0\n\
             sysctl -w net/ipv6/conf/all/forwarding=1\n\
             ip -4 route add default dev tun0 table 77\n\
             ip -4 rule add pref 7772 nop\n\
             ip -4 rule add pref 7770 iif tun0 goto 7772\n\
             ip -4 rule add pref 7771 from 10.0.2.11 lookup 77\n\
             ip -4 rule add pref 7771 from 10.0.2.12 lookup 77\n\
             ip -4 route add 10.9.0.1/32 dev tun0\n\
             ip -4 route add 10.9.1.0/28 dev tun0\n\
             ip -6 route add 2001:db8::1/128 dev tun0\n"
        );
        assert_eq!(end.lines().nth(1), Some("ip -6 route del 2001:db8::1/128 dev tun0"));
        assert_eq!(end.lines().last(), Some("ip -4 route del default dev tun0 table 77"));
    }

    #[test]
    fn without_ipv6_no_ipv6_switch_is_touched() {
        let needs = Needs { to: ["10.9.0.1".parse().unwrap()].into(), ..Needs::default() };
        let text = Plan::new("tun0", 77, &needs).to_string();
        assert!(!text.contains("ipv6") && !text.contains("rule"), "{text}");
    }

    #[test]
    fn taking_back_leaves_the_host_as_it_was() {
        let mut host = Fake::default();
        host.switches.insert("net/ipv4/conf/all/rp_filter".to_owned(), "2".to_owned());
        let before = host.switches.clone();
        let applied = plan().apply(&mut host).unwrap();
        assert_eq!(host.present.len(), 8);
        assert_eq!(host.switches["net/ipv4/conf/all/rp_filter"], "0");
        assert_eq!(applied.undo(&mut host), Vec::<String>::new());
        assert!(host.present.is_empty());
        for (name, value) in before {
            assert_eq!(host.switches[&name], value);
        }
        assert_eq!(host.switches["net/ipv4/ip_forward"], "0");
    }

    #[test]
    fn a_failure_half_way_takes_back_what_was_done() {
        let mut host = Fake { broken: Some("route add 10.9.1.0/28"), ..Fake::default() };
        let error = plan().apply(&mut host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`ip -4 route add 10.9.1.0/28 dev tun0` failed: RTNETLINK answers: Operation not permitted"
        );
        assert!(host.present.is_empty());
        assert_eq!(host.switches["net/ipv4/ip_forward"], "0");
    }

    #[test]
    fn what_could_not_be_taken_back_is_told() {
        let mut host = Fake::default();
        let applied = plan().apply(&mut host).unwrap();
        host.present.remove("-4 rule add pref 7772 nop");
        let left = applied.undo(&mut host);
        assert_eq!(left, ["`ip -4 rule del pref 7772 nop` (File exists, or not)"]);
        assert!(host.present.is_empty());
    }

    #[test]
    fn what_a_killed_director_left_is_replaced() {
        let mut host = Fake::default();
        let killed = plan().apply(&mut host).unwrap();
        drop(killed);
        let applied = plan().apply(&mut host).unwrap();
        assert_eq!(host.present.len(), 8);
        assert_eq!(applied.undo(&mut host), Vec::<String>::new());
        assert!(host.present.is_empty());
    }

    #[test]
    fn two_tables_have_two_sets_of_rules() {
        let needs = Needs { from: ["10.0.2.11".parse().unwrap()].into(), ..Needs::default() };
        let (one, two) = (Plan::new("a", 77, &needs).to_string(), Plan::new("b", 78, &needs).to_string());
        assert!(one.contains("pref 7771 from") && two.contains("pref 7781 from"));
    }
}
