//! A thin director daemon over `lvs-core`.

mod routes;
mod rules_file;
mod run;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a director behind a TUN device: LVS/NAT, FULLNAT and LVS/TUN
    Run(run::Args),
}

fn main() -> ExitCode {
    let Verb::Run(args) = Cli::parse().verb;
    match run::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "lvs-director: {error}"));
            ExitCode::from(run::exit_code(&*error))
        }
    }
}
