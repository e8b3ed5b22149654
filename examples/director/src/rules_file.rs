//! Rules in `ipvsadm -R` syntax from a file, with what a command line may add to them.

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;

use lvs_core::ipvsadm::rules;
use lvs_core::service::{Command, Family, ForwardingMethod};
use lvs_core::{Prefix, Sysctl};

/// Local addresses that `--fullnat-pool` gives a service at most; each has 64,512 ports towards each server.
const MAX_POOL: usize = 256;

/// Reads a file of rules.
///
/// # Errors
/// The file cannot be read, or what is wrong in it: every line, with its column and what would be right.
pub(crate) fn load(path: &Path) -> Result<Vec<Command>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = rules::parse(&text).map_err(|errors| format!("{}:\n{errors}", path.display()))?;
    Ok(lines.into_iter().map(|line| line.command).collect())
}

/// Gives the addresses of a pool to every service that has FULLNAT servers and no local addresses of its own.
pub(crate) fn add_local_addresses(commands: &mut [Command], pool: Prefix) {
    let fullnat: Vec<_> = commands
        .iter()
        .filter_map(|command| match command {
            Command::AddServer(key, server) | Command::EditServer(key, server) => (server.method
                == ForwardingMethod::FullNat)
                .then_some((*key, Family::of(&server.endpoint.addr))),
            _ => None,
        })
        .collect();
    for command in commands {
        let (Command::AddService(service) | Command::EditService(service)) = command else { continue };
        let wanted = (service.key, Family::of(&pool.addr()));
        let has = |addr: &IpAddr| Family::of(addr) == wanted.1;
        if fullnat.contains(&wanted) && !service.local_addresses.iter().any(has) {
            service.local_addresses.extend(pool.hosts().take(MAX_POOL));
        }
    }
}

/// Reads `NAME=VALUE` settings.
///
/// # Errors
/// What is wrong with one of them.
pub(crate) fn sysctl(settings: &[String]) -> Result<Sysctl, Box<dyn Error>> {
    let mut sysctl = Sysctl::default();
    for setting in settings {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--sysctl {setting}: expected NAME=VALUE, as in sloppy_tcp=1"))?;
        sysctl.set(name.trim(), value.trim())?;
    }
    Ok(sysctl)
}
