//! What FULLNAT does to a segment beside its rewrite: tell the server who the client is. A step of its own, since
//! it changes the packet's length; it is never part of a [`Rewrite`].

use lvs_sched::Endpoint;

use super::{Director, Job};
use crate::conn::{Connection, Direction, Method, State};
use crate::rewrite::Rewrite;
use crate::toa;
use crate::wire::{TcpFlags, Transport};

/// What FULLNAT does to a client's segment beside its rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FullNatStep {
    /// Put in the client's address.
    tell: bool,
    /// Take out addresses that the client itself has put in.
    unmask: bool,
    /// Take out the timestamp.
    blank_timestamp: bool,
}

impl Director {
    /// What FULLNAT does to a segment beside its rewrite; `None` for all that is no client's packet of a FULLNAT
    /// connection.
    ///
    /// The server is told the client until the handshake is over: with each SYN, and with the packet behind it, in
    /// case the server reads options of the established connection only.
    pub(super) fn fullnat_step(
        &self,
        conn: &Connection,
        direction: Direction,
        tcp: TcpFlags,
    ) -> Option<FullNatStep> {
        if conn.method != Method::FullNat || direction != Direction::In || tcp.is_empty() {
            return None;
        }
        let syn = tcp.contains(TcpFlags::SYN);
        let options = self.config.fullnat;
        let tell = options.toa && (syn || conn.packets == 1 || conn.state == State::SynRecv);
        Some(FullNatStep { tell, unmask: options.toa, blank_timestamp: options.blank_timestamp && syn })
    }

    /// FULLNAT's own step. `parsed` is the packet as it came; a rewrite moves no header. Without room the packet goes
    /// without the option.
    pub(super) fn apply_fullnat(&mut self, job: &mut Job<'_, '_>, rewrite: &Rewrite, step: FullNatStep) {
        let Transport::Tcp { sport, .. } = job.parsed.transport else { return };
        if step.unmask {
            toa::blank_forged(job.packet, job.parsed);
        }
        if step.blank_timestamp {
            toa::blank_timestamp(job.packet, job.parsed);
        }
        if !step.tell {
            return;
        }
        // A device would copy the option into every segment of a large packet.
        if job.packet.meta.gso.is_some() {
            self.counters.toa_refused += 1;
            return;
        }
        let client = Endpoint::new(job.parsed.src, sport);
        let refused =
            toa::insert(job.packet, job.parsed, client, toa::Ipv6Kind::default(), usize::from(rewrite.mtu));
        self.counters.toa_refused += u64::from(refused.is_err());
    }
}
