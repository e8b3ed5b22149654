//! `lvs-director demo`: real TCP exchanges through one director in memory, on a virtual clock. No root, no network.
//!
//! `scene` builds the network and plays, `report` tells what happened; this file only joins them.

mod report;
mod scene;

use std::error::Error;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lvs_core::SchedulerKind;

use scene::{Plan, Scene};

/// Play clients, a director and weighted servers in memory: one dies under load and comes back
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How packets reach the servers
    #[arg(long, value_enum, default_value_t = ModeArg::All)]
    pub(crate) mode: ModeArg,
    /// How servers are chosen: rr, wrr, lc, wlc, sh, mh or maglev
    #[arg(long, default_value = "wrr")]
    pub(crate) scheduler: SchedulerKind,
    /// TCP connections in each mode
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(30..=1_000_000))]
    pub(crate) connections: u32,
    /// The same seed gives the same packets at the same virtual times
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// One JSON object per mode and line instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `--mode` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// LVS/NAT: addresses are rewritten, replies come back through the director
    Nat,
    /// LVS/DR: only the next hop changes, servers answer directly
    Dr,
    /// LVS/TUN: packets are wrapped (IPIP), servers answer directly
    Tun,
    /// FULLNAT: both addresses are rewritten
    Fullnat,
    /// The four one after another
    All,
}

impl ModeArg {
    fn modes(self) -> &'static [Self] {
        match self {
            Self::Nat => &[Self::Nat],
            Self::Dr => &[Self::Dr],
            Self::Tun => &[Self::Tun],
            Self::Fullnat => &[Self::Fullnat],
            Self::All => &[Self::Nat, Self::Dr, Self::Tun, Self::Fullnat],
        }
    }
}

/// Plays the demo and reports on standard output; progress goes to standard error when that is a terminal.
///
/// # Errors
/// When a connection failed that was not open on the server that died, or when output cannot be written.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for mode in args.mode.modes() {
        let plan =
            Plan { mode: *mode, scheduler: args.scheduler, connections: args.connections, seed: args.seed };
        let bar = progress_bar(*mode, args.connections);
        #[expect(
            clippy::disallowed_methods,
            reason = "the report says how long the demo took; nothing depends on it"
        )]
        let start = std::time::Instant::now();
        let outcome = Scene::new(plan)?.play(|done| bar.set_position(done))?;
        let wall = start.elapsed();
        bar.finish_and_clear();
        failed += outcome.failures.len();
        if args.json {
            writeln!(out, "{}", report::json(&outcome, wall)?)?;
        } else {
            write!(out, "{}", report::text(&outcome, wall))?;
        }
        out.flush()?;
    }
    if failed > 0 {
        return Err(format!("{failed} connections failed that were not open on the server that died").into());
    }
    Ok(())
}

fn progress_bar(mode: ModeArg, connections: u32) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(u64::from(connections)), target);
    if let Ok(style) = ProgressStyle::with_template("{prefix:8} {bar:40} {pos}/{len} connections, {elapsed}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(scene::title(mode));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(mode: ModeArg, scheduler: SchedulerKind) -> scene::Outcome {
        let plan = Plan { mode, scheduler, connections: 360, seed: 7 };
        Scene::new(plan).unwrap().play(|_| ()).unwrap()
    }

    #[test]
    fn no_connection_fails_in_any_mode() {
        for mode in ModeArg::All.modes() {
            let outcome = play(*mode, SchedulerKind::WeightedRoundRobin);
            assert_eq!(outcome.failures, [], "{mode:?}");
            assert!(outcome.lost_with_server > 0, "{mode:?}: some were open on the server that died");
            assert_eq!(outcome.completed + outcome.lost_with_server, 360, "{mode:?}");
        }
    }

    #[test]
    fn shares_follow_the_weights_in_every_phase() {
        for mode in ModeArg::All.modes() {
            let outcome = play(*mode, SchedulerKind::WeightedRoundRobin);
            let counts = outcome.phases.iter().map(|phase| {
                assert_eq!(phase.opened(), 120, "{mode:?} {}", phase.name);
                phase.servers.iter().map(|server| server.opened).collect::<Vec<_>>()
            });
            assert_eq!(counts.collect::<Vec<_>>(), [[20, 40, 60], [30, 0, 90], [20, 40, 60]], "{mode:?}");
        }
    }

    #[test]
    fn every_scheduler_gets_through() {
        for scheduler in SchedulerKind::ALL {
            let outcome = play(ModeArg::Nat, scheduler);
            assert_eq!(outcome.failures, [], "{scheduler}");
            assert_eq!(outcome.phases[1].servers[1].opened, 0, "{scheduler}: the dead server gets nothing");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        let wall = std::time::Duration::ZERO;
        let report =
            || report::json(&play(ModeArg::Tun, SchedulerKind::WeightedLeastConnection), wall).unwrap();
        assert_eq!(report(), report());
    }
}
