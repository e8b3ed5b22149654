//! Says which real servers are alive: health checks as machines without I/O.
//!
//! The [`Monitor`] decides when to probe what, the check judges the answer, [`FallRise`] decides when the
//! server has changed its state. The owner does everything else: it opens the sockets, reads the clock,
//! and sets weights. The same machine therefore runs in a daemon, in a simulation and in a test.
//!
//! ```text
//!                     ┌────────────────────────── Monitor ──────────────────────────┐
//! add_check ─────────▶│ schedule: one entry per check                               │
//! handle_timeout ────▶│    │ due                                                    │
//!                     │    ├──────────────▶ poll_probe ─▶ Probe {check, deadline} ──┼─▶ the owner connects
//!                     │    │                                                        │        │
//! handle_outcome ────▶│    └─▶ FallRise ─▶ all checks of the server up?             │   TcpAnswer
//!        ▲            │                        │ changed                             │        │
//!        │            │                        └─▶ poll_event ─▶ HealthEvent ───────┼─▶ the owner sets the
//!        │            └─────────────────────────────────────────────────────────────┘   weight
//!        └───────────────────────── Outcome ◀───────────────── TcpCheck::judge ◀──────────────┘
//! ```
//!
//! Nothing here reads a clock, holds a socket, draws a random number or knows a director. Time is the
//! argument `now`, randomness is the seed of [`Monitor::new`]. The owner's loop is always the same:
//! [`handle_timeout`](Monitor::handle_timeout), drain [`poll_probe`](Monitor::poll_probe) and
//! [`poll_event`](Monitor::poll_event), sleep until [`poll_timeout`](Monitor::poll_timeout) or until a
//! probe is answered.
//!
//! # Examples
//! A server refuses connections: it fails once, is tried again a second later, and is down.
//! ```
//! use lvs_health::{Cause, Check, CheckConfig, DownReason, Monitor, Status, TcpAnswer, TcpCheck};
//! use lvs_sched::{Instant, Weight};
//!
//! let mut monitor = Monitor::new(7);
//! monitor.add_check("web-1", CheckConfig::new(TcpCheck::new("192.0.2.10:80".parse()?)), Instant::ZERO)?;
//!
//! // The owner's loop, with a clock that jumps from one timeout to the next.
//! let event = loop {
//!     let now = monitor.poll_timeout().expect("there is a check");
//!     monitor.handle_timeout(now);
//!     while let Some(probe) = monitor.poll_probe(now) {
//!         // Here the owner connects to `probe.endpoint()` and gives up at `probe.deadline`.
//!         let Check::Tcp(check) = probe.check else { continue };
//!         monitor.handle_outcome(probe.id, check.judge(TcpAnswer::Refused), now);
//!     }
//!     if let Some(event) = monitor.poll_event() {
//!         break event;
//!     }
//! };
//! assert_eq!((event.server, event.status), ("web-1", Status::Down));
//! assert_eq!(event.cause, Cause::Failed(DownReason::Refused));
//!
//! // What a director is told: no new connections while the server is down.
//! assert_eq!(event.status.weight(Weight::new(3)?), Weight::QUIESCED);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not do yet
//! The TCP connect check is the only check: there is no HTTP, TLS, DNS, SMTP, UDP or ping check and no
//! check by script. There is no quorum and no sorry server, no VRRP, and no module that owns sockets.
#![forbid(unsafe_code)]

mod check;
mod fall_rise;
mod monitor;

pub use check::{Check, DownReason, Outcome, TcpAnswer, TcpCheck};
pub use fall_rise::{FallRise, Status, Thresholds};
pub use monitor::{Cause, CheckConfig, CheckError, CheckId, HealthEvent, Monitor, Probe, ProbeId};
