//! The TCP state machine from its table, how long each state lasts, and the words for the states.

use std::collections::BTreeMap;
use std::time::Duration;

use lvs_core::wire::{Parsed, Transport};

use super::{Reference, Way};
use crate::packets::flags;

/// The TCP machine from its table, read as text.
#[derive(Debug)]
pub(super) struct Machine(BTreeMap<(&'static str, &'static str, &'static str), &'static str>);

/// Direction and event, then the next state for each of the states of the first line.
const TCP_TABLE: &str = "\
    from    .   NO ES SS SR FW TW CL CW LA LI SA
    in      syn SR ES ES SR SR SR SR SR SR SR SR
    in      fin CL CW SS TW TW TW CL CW LA LI TW
    in      ack ES ES SS ES FW TW CL CW CL LI ES
    in      rst CL CL CL SR CL CL CL CL LA LI SR
    out     syn SS ES SS SR SS SS SS SS SS LI SR
    out     fin TW FW SS TW FW TW CL TW LA LI TW
    out     ack ES ES SS ES FW TW CL CW LA ES ES
    out     rst CL CL SS CL CL TW CL CL CL CL CL
    in-only syn SR ES ES SR SR SR SR SR SR SR SR
    in-only fin CL FW SS TW FW TW CL CW LA LI TW
    in-only ack ES ES SS ES FW TW CL CW CL LI ES
    in-only rst CL CL CL SR CL CL CL CL LA LI CL";

impl Machine {
    pub(super) fn new() -> Self {
        let mut lines = TCP_TABLE.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let from = lines.next().expect("a first line");
        let mut table = BTreeMap::new();
        for line in lines {
            for (from, to) in from[2..].iter().zip(&line[2..]) {
                table.insert((line[0], line[1], *from), *to);
            }
        }
        Self(table)
    }

    pub(super) fn next(&self, state: &'static str, way: Way, no_output: bool, tcp: u8) -> &'static str {
        let row = match (way, no_output) {
            (Way::Out, _) => "out",
            (Way::In, true) => "in-only",
            (Way::In, false) => "in",
        };
        let event = if tcp & flags::RST != 0 {
            "rst"
        } else if tcp & flags::SYN != 0 {
            "syn"
        } else if tcp & flags::FIN != 0 {
            "fin"
        } else if tcp & flags::ACK != 0 {
            "ack"
        } else {
            return state;
        };
        self.0[&(row, event, state)]
    }
}

impl Reference {
    pub(super) fn timeout(&self, state: &str) -> Duration {
        Duration::from_secs(match state {
            "NO" => 2,
            "ES" => return self.established,
            "FW" => return self.fin_wait,
            "SS" | "TW" | "LI" | "SA" => 120,
            "SR" | "CW" => 60,
            "CL" => 10,
            "LA" => 30,
            "UDP" => return self.udp,
            other => panic!("no state {other}"),
        })
    }
}

pub(super) fn is_active(state: &str) -> bool {
    matches!(state, "ES" | "SS" | "SR" | "SA")
}

/// The kernel's long word for a state of the table.
pub fn long_name(state: &str) -> &'static str {
    match state {
        "NO" => "NONE",
        "ES" => "ESTABLISHED",
        "SS" => "SYN_SENT",
        "SR" => "SYN_RECV",
        "FW" => "FIN_WAIT",
        "TW" => "TIME_WAIT",
        "CL" => "CLOSE",
        "CW" => "CLOSE_WAIT",
        "LA" => "LAST_ACK",
        "LI" => "LISTEN",
        "SA" => "SYNACK",
        "UDP" => "UDP",
        other => panic!("no state {other}"),
    }
}

pub(super) fn tcp_flags(parsed: &Parsed) -> u8 {
    match parsed.transport {
        Transport::Tcp { flags, .. } => flags.bits(),
        _ => 0,
    }
}
