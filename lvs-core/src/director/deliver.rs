//! The last stage: may the packet leave as it would be, and if so, do it.

use core::net::IpAddr;

use lvs_sched::Endpoint;

use super::{Director, Job, Outgoing, Step};
use crate::answer::{self, IcmpError};
use crate::conn::{ConnFlags, Connection, Direction, Method};
use crate::environment::{MIN_MTU_V4, MIN_MTU_V6};
use crate::fragment;
use crate::rewrite::Rewrite;
use crate::service::Family;
use crate::toa;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::finish_checksum;
use crate::wire::{ChecksumState, Meta, TcpFlags, Transport, ipv4, ipv6};

/// How a packet that may leave leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// In one piece.
    Whole,
    /// In fragments no larger than the MTU; reassembled datagrams in their received sizes.
    Cut,
}

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
    /// Checks everything that could stop the packet; changes nothing.
    pub(super) fn fit(&mut self, job: &Job<'_, '_>, rewrite: &Rewrite) -> Result<Fit, Refusal> {
        let parsed = job.parsed;
        if parsed.ttl <= 1 {
            return Err(Refusal::Ttl);
        }
        let overhead = rewrite.overhead();
        if usize::from(overhead) > job.packet.headroom() {
            return Err(Refusal::Silent(DropReason::NoRoom));
        }
        let gso = job.packet.meta.gso;
        let inner = match (gso, job.pieces) {
            (Some(gso), _) => u32::from(gso.header_len) + u32::from(gso.size),
            (None, Some(pieces)) => u32::from(pieces.largest),
            (None, None) => parsed.len,
        };
        let size = inner + u32::from(overhead);
        if size <= u32::from(rewrite.mtu) {
            return Ok(if job.pieces.is_some() { Fit::Cut } else { Fit::Whole });
        }
        let keeps_df = rewrite.outer.is_none_or(|outer| outer.copy_df);
        let cut = parsed.is_ipv4() && !(parsed.dont_fragment && keeps_df) && gso.is_none();
        self.trace.note(|| Step::TooLarge { size, mtu: rewrite.mtu, cut });
        if cut {
            return Ok(Fit::Cut);
        }
        let mtu = rewrite.mtu.saturating_sub(overhead);
        if parsed.is_ipv4() {
            // RFC 791: every link carries 68 bytes; less is nothing a sender could obey.
            return Err(if mtu < MIN_MTU_V4 {
                Refusal::Silent(DropReason::TooBig)
            } else {
                Refusal::TooBig { mtu }
            });
        }
        Err(Refusal::TooBig { mtu: mtu.max(MIN_MTU_V6) })
    }

    /// Applies a rewrite that [`fit`](Self::fit) has passed.
    pub(super) fn send(&mut self, job: &mut Job<'_, '_>, rewrite: &Rewrite, fit: Fit, toa: bool) -> Verdict {
        let verdict = Verdict::Transmit { next_hop: rewrite.next_hop };
        // Link padding behind the packet stays here.
        if job.packet.set_len(job.parsed.len as usize).is_err() {
            return Verdict::Drop(DropReason::Malformed);
        }
        if rewrite.apply(job.packet, job.parsed).is_err() {
            return Verdict::Drop(DropReason::NoRoom);
        }
        if toa {
            self.tell_client(job, rewrite);
        }
        match fit {
            Fit::Whole => verdict,
            Fit::Cut => self.send_cut(job, rewrite, verdict),
        }
    }

    /// Cuts a rewritten packet. A tunnel wraps a reassembled datagram once, and its outer packet is cut to the
    /// largest fragment that came; without a tunnel the fragments leave in the sizes in which they came.
    fn send_cut(&mut self, job: &mut Job<'_, '_>, rewrite: &Rewrite, verdict: Verdict) -> Verdict {
        if let ChecksumState::Partial { start, offset } = job.packet.meta.checksum {
            finish_checksum(job.packet.bytes_mut(), start, offset);
        }
        // What is cut of a tunnel is the director's own packet, and so is the identification.
        let own_id = rewrite.outer.map_or(0, |outer| u32::from(outer.id));
        let (sizes, limit, id): (&[u16], u16, u32) = match job.pieces {
            Some(pieces) if rewrite.outer.is_some() => (&[], pieces.largest.min(rewrite.mtu), own_id),
            Some(pieces) => (&pieces.sizes, rewrite.mtu, pieces.id),
            None => (&[], rewrite.mtu, own_id),
        };
        let meta = Meta { mark: job.packet.meta.mark, ..Meta::default() };
        match fragment::cut(job.packet.bytes(), sizes, usize::from(limit), id) {
            Ok(pieces) => self.queue(pieces, verdict, meta),
            Err(_) => Verdict::Drop(DropReason::Malformed),
        }
    }

    /// Puts packets into the queue of `poll_transmit`: all of them or none.
    pub(super) fn queue(&mut self, packets: Vec<Vec<u8>>, verdict: Verdict, meta: Meta) -> Verdict {
        if self.outgoing.len() + packets.len() > self.config.limits.outgoing {
            return Verdict::Drop(DropReason::QueueFull);
        }
        self.outgoing.extend(packets.into_iter().map(|packet| Outgoing { verdict, packet, meta }));
        Verdict::Queued
    }

    /// Whether this packet of a FULLNAT connection tells the server who the client is: the SYN, and the packet
    /// that follows it, in case the server reads options of the established connection only.
    pub(super) fn toa_for(&self, conn: &Connection, direction: Direction, tcp: TcpFlags) -> bool {
        self.config.fullnat.toa
            && conn.method == Method::FullNat
            && direction == Direction::In
            && (tcp.contains(TcpFlags::SYN) || conn.packets == 1)
            && !tcp.is_empty()
            && !conn.flags.contains(ConnFlags::TEMPLATE)
    }

    /// FULLNAT's own step: timestamps blanked on a SYN, the client's address as a TCP option. `parsed` is the
    /// packet as it came; a rewrite moves no header. Without room the packet goes without the option.
    fn tell_client(&mut self, job: &mut Job<'_, '_>, rewrite: &Rewrite) {
        let Transport::Tcp { sport, flags, .. } = job.parsed.transport else { return };
        if self.config.fullnat.blank_timestamp && flags.contains(TcpFlags::SYN) {
            toa::blank_timestamp(job.packet, job.parsed);
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
