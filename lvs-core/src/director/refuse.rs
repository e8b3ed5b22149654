//! Packets that may not go on: the ICMP error that their sender is due, or a named drop.

use core::net::IpAddr;

use super::{Director, Job};
use crate::answer::{self, IcmpError};
use crate::conn::Direction;
use crate::service::Family;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Meta, ipv4, ipv6};

/// Why a packet may not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// TTL or hop limit is used up.
    Ttl,
    /// Too large; what the sender is told, in bytes.
    TooBig {
        /// Largest packet of the sender that would fit.
        mtu: u16,
    },
    /// No server takes the flow.
    NoServer,
    /// A drop without an answer.
    Silent(DropReason),
}

impl Director {
    /// A refusal on an existing connection's way: the ICMP error comes from whom the sender addressed.
    pub(super) fn refuse_forwarding(
        &mut self,
        job: &mut Job<'_, '_>,
        refusal: Refusal,
        direction: Direction,
    ) -> Verdict {
        let family = Family::of(&job.parsed.src);
        let from = match direction {
            Direction::In => Some(job.parsed.dst),
            Direction::Out => self.config.environment.source(family),
        };
        // On the way in the kernel has already decremented the TTL of a packet that it finds too large.
        let decremented = direction == Direction::In;
        self.refuse(job, refusal, from, decremented)
    }

    /// A refusal to open a connection: the VIP says so.
    pub(super) fn refuse_opening(&mut self, job: &mut Job<'_, '_>, refusal: Refusal) -> Verdict {
        self.refuse(job, refusal, Some(job.parsed.dst), true)
    }

    /// Answers with the ICMP error that a refusal asks for, or drops.
    pub(super) fn refuse(
        &mut self,
        job: &mut Job<'_, '_>,
        refusal: Refusal,
        from: Option<IpAddr>,
        decremented: bool,
    ) -> Verdict {
        let (error, reason) = match refusal {
            Refusal::Ttl => (IcmpError::TimeExceeded, DropReason::TtlExceeded),
            Refusal::TooBig { mtu } => (IcmpError::TooBig { mtu: u32::from(mtu) }, DropReason::TooBig),
            Refusal::NoServer => (IcmpError::PortUnreachable, DropReason::NoServer),
            Refusal::Silent(reason) => return Verdict::Drop(reason),
        };
        let decremented = decremented && matches!(refusal, Refusal::TooBig { .. });
        self.answer_icmp(job, error, reason, from, decremented)
    }

    /// Replaces the packet by an ICMP error that quotes it, perhaps with the TTL it would have left with.
    pub(super) fn answer_icmp(
        &mut self,
        job: &mut Job<'_, '_>,
        error: IcmpError,
        reason: DropReason,
        from: Option<IpAddr>,
        decremented: bool,
    ) -> Verdict {
        let Some(from) = from.filter(|_| answer::may_answer(job.parsed)) else {
            return Verdict::Drop(reason);
        };
        if error.is_rate_limited() && !self.icmp_limiter.allow(job.parsed.src, job.now) {
            return Verdict::Drop(DropReason::IcmpRateLimited);
        }
        let id = self.take_id();
        if decremented {
            // The packet will be replaced by the answer, so its TTL may go now.
            let bytes = job.packet.bytes_mut();
            if job.parsed.is_ipv4() { ipv4::decrement_ttl(bytes) } else { ipv6::decrement_hop_limit(bytes) }
        }
        let mut message = core::mem::take(&mut self.answer);
        message.clear();
        let verdict = match answer::icmp_error(&mut message, job.packet.bytes(), error, from, id) {
            Some(to) => self.reply(job, &message, to),
            None => Verdict::Drop(reason),
        };
        self.answer = message;
        verdict
    }

    /// Replaces the packet by an answer.
    pub(super) fn reply(&mut self, job: &mut Job<'_, '_>, message: &[u8], next_hop: IpAddr) -> Verdict {
        match job.packet.replace(message) {
            Ok(()) => Verdict::Reply { next_hop },
            // A small receive buffer may be shorter than the answer, which then goes its own way.
            Err(_) => self.queue(vec![message.to_vec()], Verdict::Reply { next_hop }, Meta::default()),
        }
    }
}
