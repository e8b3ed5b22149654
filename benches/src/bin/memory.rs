//! Prints how much resident memory one connection takes: that of a director with a full table less that of the
//! same director before its first connection, over the number of connections. Linux only (`/proc`).
//!
//! `cargo run --release -p lvs-benches --bin memory`
#![expect(clippy::print_stdout, reason = "a program that prints its measurement")]

use std::process::Command;

use lvs_benches::{Ip, Kind, Method, NOW, Setup};
use lvs_core::wire::{HEADROOM, Packet};

const CONNECTIONS: u32 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let [method, ip] = std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        let method = Method::ALL.into_iter().find(|known| known.name() == method).ok_or("no such method")?;
        let ip = [Ip::V4, Ip::V6].into_iter().find(|known| known.name() == ip).ok_or("no such family")?;
        return measure(method, ip);
    }
    println!("{CONNECTIONS} connections; bytes of resident memory per connection, index and expiry included");
    for method in Method::ALL {
        for ip in [Ip::V4, Ip::V6] {
            // A process of its own: memory that an earlier director gave back would count as never taken.
            let status = Command::new(std::env::current_exe()?).args([method.name(), ip.name()]).status()?;
            if !status.success() {
                return Err("a measurement failed".into());
            }
        }
    }
    Ok(())
}

fn measure(method: Method, ip: Ip) -> Result<(), Box<dyn std::error::Error>> {
    let setup = Setup::new(ip, method, CONNECTIONS);
    let template = setup.template(Kind::Syn);
    let mut buffer = [0; 256];
    let mut director = setup.director();
    let empty = resident_bytes()?;
    for number in 0..CONNECTIONS {
        template.write(number, &mut buffer[HEADROOM..]);
        let mut packet =
            Packet::new(&mut buffer, HEADROOM, HEADROOM + template.len()).ok_or("the buffer is too small")?;
        let _ = director.process(&mut packet, NOW);
    }
    let full = resident_bytes()?;
    if director.connection_count() != CONNECTIONS as usize {
        return Err("a connection is missing".into());
    }
    let measured = (full - empty) as f64 / f64::from(CONNECTIONS);
    let reserved = director.table_bytes() as f64 / f64::from(CONNECTIONS);
    println!(
        "{:<8} {}  measured {measured:6.1}  reserved for the table {reserved:6.1}",
        method.name(),
        ip.name()
    );
    Ok(())
}

/// Resident memory of this process in bytes.
fn resident_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
