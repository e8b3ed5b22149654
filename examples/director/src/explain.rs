//! `lvs-director explain`: where a flow would go and every step why.

use std::error::Error;

use lvs_core::wire::Tuple;
use lvs_core::{Config, Endpoint, Instant, Protocol};

use crate::rules_file::RuleArgs;

/// Say which server a flow would go to, and every step why
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) rules: RuleArgs,
    /// Firewall mark of the packet; 0 = none
    #[arg(long, default_value_t = 0)]
    pub(crate) mark: u32,
    /// tcp or udp
    #[arg(value_name = "PROTO")]
    pub(crate) protocol: Protocol,
    /// The client's address and port
    #[arg(value_name = "CIP:PORT")]
    pub(crate) client: Endpoint,
    /// The address and port that the client asks for
    #[arg(value_name = "VIP:PORT")]
    pub(crate) service: Endpoint,
}

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if args.client.addr.is_ipv4() != args.service.addr.is_ipv4() {
        return Err("client and service are of two address families: no packet can be".into());
    }
    let director = args.rules.director(Config::default())?;
    let tuple = Tuple { protocol: args.protocol, src: args.client, dst: args.service };
    print(&director.explain(tuple, args.mark, Instant::ZERO).to_string());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is the program's output")]
fn print(text: &str) {
    print!("{text}");
}
