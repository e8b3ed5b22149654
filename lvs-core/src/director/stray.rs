//! Packets that belong to no connection and open none: other traffic of real servers, and the host's.

use super::{Director, Job, PassPolicy, Refusal, Step};
use crate::answer::{self, IcmpError};
use crate::conn::Connection;
use crate::rewrite::{Deltas, Rewrite};
use crate::service::Family;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Parsed, TcpFlags, Transport, Tuple};

impl Director {
    /// No connection and no service: perhaps a reply of a real server that nobody waits for.
    pub(super) fn stray(&mut self, job: &mut Job<'_, '_>, tuple: &Tuple) -> Verdict {
        let resets = job.parsed.tcp_flags().contains(TcpFlags::RST);
        // A TTL that is used up comes first, and is the host's or `host`'s to answer.
        let alive = job.parsed.ttl > 1;
        if self.config.sysctl.nat_icmp_send
            && alive
            && !resets
            && self.pool.is_reply_source(tuple.protocol, tuple.src)
        {
            let from = self.config.environment.source(Family::of(&job.parsed.src));
            return self.answer_icmp(job, IcmpError::PortUnreachable, DropReason::NoServer, from, true);
        }
        self.host(job)
    }

    /// To a multicast or broadcast address: never a connection's (IPVS takes packets for one host only).
    pub(super) fn group_traffic(&mut self, parsed: &Parsed) -> Verdict {
        self.trace.note(|| Step::Host { to: parsed.dst });
        match self.config.pass {
            PassPolicy::Pass => Verdict::Pass,
            PassPolicy::Answer => Verdict::Drop(DropReason::NotForUs),
        }
    }

    /// The director is the real server itself: the host's stack gets the packet, where there is one.
    pub(super) fn local_node(&self) -> Verdict {
        match self.config.pass {
            PassPolicy::Pass => Verdict::Pass,
            PassPolicy::Answer => Verdict::Drop(DropReason::Unsupported),
        }
    }

    /// Opens a connection whose server is the director itself.
    pub(super) fn open_local(
        &mut self,
        job: &mut Job<'_, '_>,
        service: usize,
        conn: &Connection,
        one_packet: bool,
    ) -> Verdict {
        let verdict = self.local_node();
        if verdict == Verdict::Pass {
            if !one_packet && let Err(refusal) = self.insert(conn, Deltas::default(), job.now) {
                return self.refuse_opening(job, refusal);
            }
            self.count_opened(service, conn.server_id, job.parsed.len);
        }
        verdict
    }

    /// What the host's own stack would do with the packet, or leaves it to it.
    pub(super) fn host(&mut self, job: &mut Job<'_, '_>) -> Verdict {
        self.trace.note(|| Step::Host { to: job.parsed.dst });
        if self.config.pass == PassPolicy::Pass {
            return Verdict::Pass;
        }
        let parsed = job.parsed;
        if self.pool.is_vip(parsed.dst) || self.config.environment.is_own(parsed.dst) {
            return self.answer_for_host(job);
        }
        if !self.pool.is_server_addr(parsed.src) {
            return Verdict::Drop(DropReason::NotForUs);
        }
        let rewrite = Rewrite::forward(parsed.dst, self.config.environment.mtu_to(parsed.dst));
        match self.fit(job, &rewrite) {
            Ok(fit) => self.send(job, &rewrite, fit, None),
            Err(refusal) => {
                let from = self.config.environment.source(Family::of(&parsed.src));
                self.refuse(job, refusal, from, false)
            }
        }
    }

    /// Addressed to a VIP or to the director, which offers nothing but good manners.
    fn answer_for_host(&mut self, job: &mut Job<'_, '_>) -> Verdict {
        let parsed = job.parsed;
        if matches!(parsed.transport, Transport::Udp { .. }) {
            return self.refuse(job, Refusal::NoServer, Some(parsed.dst), false);
        }
        let id = self.take_id();
        let mut message = core::mem::take(&mut self.answer);
        message.clear();
        let to = match parsed.transport {
            Transport::Tcp { .. } => answer::tcp_reset(&mut message, parsed),
            _ => answer::echo_reply(&mut message, job.packet.bytes(), parsed, id),
        };
        let verdict = match to {
            Some(to) => self.reply(job, &message, to),
            None => Verdict::Drop(DropReason::LocalSilent),
        };
        self.answer = message;
        verdict
    }
}
