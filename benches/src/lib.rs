//! What the benches share: packets with right checksums, directors full of connections, bursts of packets that
//! are made anew for every measurement.
//!
//! It measures nothing itself; the benches in `benches/` do, and `README.md` says how to run and read them.
#![forbid(unsafe_code)]

mod burst;
mod packet;
mod setup;

pub use burst::{BUFFER, BURST, Burst, Order};
pub use packet::{Kind, Template, packet};
pub use setup::{CLIENT_PORT, Ip, Method, NOW, SERVICE_PORT, Setup, client, servers, vip};
