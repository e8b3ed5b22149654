//! `lvs-director`: the thin director daemon over lvs-core.
//!
//! It joins the engine with files, devices and the terminal. Whatever decides about a packet is in lvs-core.

mod demo;
mod explain;
mod replay;
mod routes;
mod rules_file;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Linux Virtual Server in user space: NAT, FULLNAT, direct routing and tunnels
#[derive(Debug, Parser)]
#[command(name = "lvs-director", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::Args),
    Run(run::Args),
    Replay(replay::Args),
    Explain(explain::Args),
}

#[expect(clippy::print_stderr, reason = "errors belong to the terminal")]
fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Replay(args) => replay::run(&args),
        Verb::Explain(args) => explain::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lvs-director: {error}");
            ExitCode::from(run::exit_code(&*error))
        }
    }
}
