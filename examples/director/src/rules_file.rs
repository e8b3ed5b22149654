//! Rules in `ipvsadm -R` syntax from a file or standard input, all or nothing, with what a command line may add
//! to them.
//!
//! A problem is told as `FILE:LINE:COLUMN: what is wrong; expected what would be right`, one line each.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use lvs_core::ipvsadm::rules;
use lvs_core::service::{Command, Family, ForwardingMethod};
use lvs_core::{ApplyError, Config, Director, Instant, Prefix, Sysctl};

/// Largest rules file in bytes: well above 100,000 servers.
pub(crate) const MAX_RULES_FILE: u64 = 16 << 20;

/// Local addresses that `--fullnat-pool` gives a service at most; each has 64,512 ports towards each server.
const MAX_POOL: usize = 256;

/// A rules file that was read; its lines are well-formed, a director may still refuse them.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    name: PathBuf,
    /// What the lines say.
    pub(crate) commands: Vec<Command>,
    /// Where each command stood, from 1.
    line_numbers: Vec<usize>,
}

/// What is wrong with a rules file.
#[derive(Debug)]
pub(crate) enum RulesError {
    /// The file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The file holds something else than rules, or too much; in words.
    NoText(PathBuf, String),
    /// Lines that are wrong.
    Lines(PathBuf, Vec<Problem>),
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Line number from 1.
    pub(crate) line: usize,
    /// Column from 1.
    pub(crate) column: usize,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for RulesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(name, error) => {
                write!(f, "{}: cannot read the rules: {error}", name.display())
            }
            Self::NoText(name, problem) => write!(f, "{}: {problem}", name.display()),
            Self::Lines(name, problems) => {
                for (index, Problem { line, column, message }) in problems.iter().enumerate() {
                    let newline = if index > 0 { "\n" } else { "" };
                    write!(f, "{newline}{}:{line}:{column}: {message}", name.display())?;
                }
                Ok(())
            }
        }
    }
}

impl Error for RulesError {}

impl Rules {
    /// Reads a file, or standard input for the name `-`.
    ///
    /// # Errors
    /// [`RulesError`] with everything that is wrong with the text.
    pub(crate) fn read(path: &Path) -> Result<Self, RulesError> {
        let unreadable = |error| RulesError::Unreadable(path.to_owned(), error);
        let mut bytes = Vec::new();
        let source: Box<dyn Read> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(unreadable)?)
        };
        source.take(MAX_RULES_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_RULES_FILE {
            let problem = format!("more than {} MiB; expected less", MAX_RULES_FILE >> 20);
            return Err(RulesError::NoText(path.to_owned(), problem));
        }
        Self::parse(path, &bytes)
    }

    /// Reads rules that are in memory; `name` is what problems call them.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn parse(name: &Path, bytes: &[u8]) -> Result<Self, RulesError> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            RulesError::NoText(name.to_owned(), format!("line {line} is no UTF-8 text; expected rules"))
        })?;
        let lines = rules::parse(text).map_err(|errors| {
            let problems = errors.into_iter().map(|error| Problem {
                line: error.line,
                column: error.column,
                message: format!("{}; expected {}", error.message, error.expected),
            });
            RulesError::Lines(name.to_owned(), problems.collect())
        })?;
        let line_numbers = lines.iter().map(|line| line.line).collect();
        let commands = lines.into_iter().map(|line| line.command).collect();
        Ok(Self { name: name.to_owned(), commands, line_numbers })
    }

    /// Applies all lines to a director, or none.
    ///
    /// # Errors
    /// [`RulesError`] with the first line that the director refuses.
    pub(crate) fn apply(&self, director: &mut Director, now: Instant) -> Result<(), RulesError> {
        director
            .apply(&self.commands, now)
            .map_err(|ApplyError { index, error }| self.refused([(index, error.to_string())]))
    }

    /// An error about commands, by index, that are well-formed but cannot be carried out.
    pub(crate) fn refused(&self, problems: impl IntoIterator<Item = (usize, String)>) -> RulesError {
        let problem = |(index, message)| Problem {
            line: self.line_numbers.get(index).copied().unwrap_or(1),
            column: 1,
            message,
        };
        RulesError::Lines(self.name.clone(), problems.into_iter().map(problem).collect())
    }
}

/// The options by which `replay` and `explain` are told of a director.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RuleArgs {
    /// Rules in `ipvsadm -R` syntax; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: PathBuf,
    /// A `net.ipv4.vs.*` switch; may be repeated
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    pub(crate) sysctls: Vec<String>,
    /// Local addresses for FULLNAT services that have none of their own; once per family
    #[arg(long, value_name = "CIDR")]
    pub(crate) fullnat_pool: Vec<Prefix>,
}

impl RuleArgs {
    /// Makes a director with these rules and switches; `config` says the rest.
    ///
    /// # Errors
    /// What is wrong with a rule or a switch.
    pub(crate) fn director(&self, config: Config) -> Result<Director, Box<dyn Error>> {
        let mut rules = Rules::read(&self.rules)?;
        for pool in &self.fullnat_pool {
            add_local_addresses(&mut rules.commands, *pool);
        }
        let mut director = Director::new(Config { sysctl: sysctl(&self.sysctls)?, ..config });
        rules.apply(&mut director, Instant::ZERO)?;
        Ok(director)
    }
}

/// Gives the addresses of a pool to every service that has FULLNAT servers and no local addresses of its own.
pub(crate) fn add_local_addresses(commands: &mut [Command], pool: Prefix) {
    let fullnat: BTreeSet<_> = commands
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules, RulesError> {
        Rules::parse(Path::new("shop.rules"), text.as_bytes())
    }

    #[test]
    fn every_wrong_line_is_told_with_file_line_and_column() {
        let error = parse("-A -t 10.0.0.1:80 -s wwrr\n\n-a -t 10.0.0.1:80 -r 10.0.0.300 -m").unwrap_err();
        let text = error.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "shop.rules:1:22: `wwrr` is no scheduler; expected wrr");
        assert!(lines[1].starts_with("shop.rules:3:22: `10.0.0.300` is no address; expected "), "{text}");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_refused_command_is_told_by_its_line() {
        let rules = parse("# the shop\n-A -t 10.0.0.1:80 -s rr\n\n-A -t 10.0.0.1:80 -s rr").unwrap();
        let mut director = Director::new(Config::default());
        let error = rules.apply(&mut director, Instant::ZERO).unwrap_err().to_string();
        assert!(error.starts_with("shop.rules:4:1: virtual service TCP  10.0.0.1:80 is there"), "{error}");
        assert!(director.services().is_empty());
    }

    #[test]
    fn bytes_that_are_no_text_are_told_by_their_line() {
        let error = Rules::parse(Path::new("x"), b"# fine\n\xff\xfe").unwrap_err().to_string();
        assert_eq!(error, "x: line 2 is no UTF-8 text; expected rules");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Rules::read(Path::new("/nonexistent/rules")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/rules: cannot read the rules: "), "{error}");
    }
}
