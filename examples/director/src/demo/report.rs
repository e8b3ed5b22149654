//! What the demo says: tables and bars for people, JSON for programs.

use core::fmt::Write;
use core::time::Duration;
use std::collections::BTreeMap;

use serde::Serialize;

use super::ModeArg;
use super::scene::{Outcome, Phase, title};

/// Characters of a full bar.
const BAR: u64 = 40;

#[derive(Serialize)]
struct Record {
    mode: &'static str,
    scheduler: String,
    connections: u32,
    completed: u64,
    lost_with_server: u64,
    failed: usize,
    /// Kind of failure and how often.
    failures: BTreeMap<String, u64>,
    killed_server: String,
    phases: Vec<PhaseRecord>,
    seed: u64,
    virtual_seconds: f64,
    wall_seconds: f64,
    packets: u64,
}

#[derive(Serialize)]
struct PhaseRecord {
    name: &'static str,
    /// New connections of each server.
    per_server: BTreeMap<String, u64>,
    weights: BTreeMap<String, u16>,
}

/// One line of JSON.
pub(super) fn json(outcome: &Outcome, wall: Duration) -> serde_json::Result<String> {
    let phases = outcome.phases.iter().map(|phase| PhaseRecord {
        name: phase.name,
        per_server: phase.servers.iter().map(|share| (share.server.to_string(), share.opened)).collect(),
        weights: phase.servers.iter().map(|share| (share.server.to_string(), share.weight)).collect(),
    });
    serde_json::to_string(&Record {
        mode: word(outcome.plan.mode),
        scheduler: outcome.plan.scheduler.to_string(),
        connections: outcome.plan.connections,
        completed: outcome.completed,
        lost_with_server: outcome.lost_with_server,
        failed: outcome.failures.len(),
        failures: failures(outcome),
        killed_server: outcome.victim.to_string(),
        phases: phases.collect(),
        seed: outcome.plan.seed,
        virtual_seconds: outcome.virtual_time.as_secs_f64(),
        wall_seconds: wall.as_secs_f64(),
        packets: outcome.packets,
    })
}

/// Tables and bars.
pub(super) fn text(outcome: &Outcome, wall: Duration) -> String {
    let mut text = format!("{}, {}\n\n", title(outcome.plan.mode), outcome.plan.scheduler);
    text.push_str(&outcome.table);
    for phase in &outcome.phases {
        write_phase(&mut text, phase);
    }
    let total = format!(
        "\n{} connections: {} completed, {} lost with {} when it died, {} failed\n\
         {:.1} s of virtual time in {:.2} s, {} packets through the director, seed {}\n",
        outcome.plan.connections,
        outcome.completed,
        outcome.lost_with_server,
        outcome.victim,
        outcome.failures.len(),
        outcome.virtual_time.as_secs_f64(),
        wall.as_secs_f64(),
        outcome.packets,
        outcome.plan.seed
    );
    text.push_str(&total);
    for (failure, count) in failures(outcome) {
        line(&mut text, format_args!("  failed: {count} {failure}"));
    }
    text.push('\n');
    text
}

fn write_phase(text: &mut String, phase: &Phase) {
    line(text, format_args!("\n{}: {} new connections", phase.name, phase.opened()));
    for share in &phase.servers {
        let asked = percent(u64::from(share.weight), phase.weight());
        let got = percent(share.opened, phase.opened());
        let filled = (share.opened * BAR).checked_div(phase.opened()).unwrap_or(0);
        let bar = "█".repeat(usize::try_from(filled).unwrap_or(0));
        let server = share.server.to_string();
        line(
            text,
            format_args!(
                "  {server:<14} {:>7}  {got:>5.1} % (weight {}: {asked:>4.1} %) {bar}",
                share.opened, share.weight
            ),
        );
    }
}

fn line(text: &mut String, content: core::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{content}");
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn failures(outcome: &Outcome) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for failure in &outcome.failures {
        *kinds.entry(failure.to_string()).or_default() += 1;
    }
    kinds
}

fn word(mode: ModeArg) -> &'static str {
    match mode {
        ModeArg::Nat => "nat",
        ModeArg::Dr => "dr",
        ModeArg::Tun => "tun",
        ModeArg::Fullnat => "fullnat",
        ModeArg::All => "all",
    }
}
