//! The last stage: may the packet leave as it would be, and if so, do it.

use core::net::IpAddr;

use lvs_sched::Endpoint;

use super::{Director, Job, Outgoing, Step};
use crate::answer::{self, IcmpError};
use crate::conn::{Connection, Direction, Method, State};
use crate::environment::{MIN_MTU_V4, MIN_MTU_V6};
use crate::fragment;
use crate::rewrite::{Outer, Rewrite};
use crate::service::Family;
use crate::toa;
use crate::verdict::{DropReason, Verdict};
use crate::wire::checksum::finish_checksum;
use crate::wire::{ChecksumState, Delta, Meta, Packet, Parsed, TcpFlags, Transport, ipv4, ipv6, tcp};

/// The kinds of TCP options that servers read as the client's address.
const TOA_KINDS: [u8; 2] = [253, 254];

/// The largest value of a length field.
const MAX_LENGTH: u32 = 0xffff;

/// How a packet that may leave leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// In one piece.
    Whole,
    /// In fragments no larger than the MTU; reassembled datagrams in their received sizes.
    Cut,
}

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

/// Overwrites the options by which a client would pass for another one: servers believe the first that they find, and
/// the director's own may have found no room. The checksum follows; a partial one does not cover options.
fn blank_forged_toa(packet: &mut Packet<'_>, parsed: &Parsed) {
    let Transport::Tcp { header_len, .. } = parsed.transport else { return };
    let (l4, header_len) = (usize::from(parsed.l4), usize::from(header_len));
    if header_len == tcp::MIN_HEADER_LEN {
        return;
    }
    let partial = packet.meta.checksum != ChecksumState::Complete;
    let Some(header) = packet.bytes_mut().get_mut(l4..l4 + header_len) else { return };
    let mut before = [0; tcp::MAX_HEADER_LEN];
    let before = &mut before[..header_len];
    before.copy_from_slice(header);
    let forged = tcp::options(before).flatten().filter(|option| TOA_KINDS.contains(&option.kind));
    let mut found = false;
    for option in forged {
        header[option.range].fill(tcp::OPTION_NOP);
        found = true;
    }
    if found && !partial {
        let delta = Delta::of_bytes(&before[tcp::MIN_HEADER_LEN..], &header[tcp::MIN_HEADER_LEN..]);
        let field = tcp::CHECKSUM..tcp::CHECKSUM + 2;
        let sum = delta.apply(u16::from_be_bytes([header[field.start], header[field.start + 1]]));
        header[field].copy_from_slice(&sum.to_be_bytes());
    }
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
            return if job.pieces.is_some() { self.may_cut(job, rewrite) } else { Ok(Fit::Whole) };
        }
        let keeps_df = rewrite.outer.is_none_or(|outer| outer.copy_df);
        let may_be_cut = if parsed.is_ipv4() {
            !(parsed.dont_fragment && keeps_df)
        } else {
            // No sender can make it smaller, so the tunnel's own packet is cut (RFC 2473 section 7.1).
            rewrite.outer.is_some() && inner <= u32::from(MIN_MTU_V6)
        };
        let cut = may_be_cut && gso.is_none();
        self.trace.note(|| Step::TooLarge { size, mtu: rewrite.mtu, cut });
        if cut {
            return self.may_cut(job, rewrite);
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

    /// Whether a packet can be cut once it has its headers, and its pieces find room in the queue.
    fn may_cut(&self, job: &Job<'_, '_>, rewrite: &Rewrite) -> Result<Fit, Refusal> {
        let len = job.parsed.len + u32::from(rewrite.overhead());
        let (longest, header) = match rewrite.outer {
            Some(Outer { dst: IpAddr::V4(_), .. }) => (MAX_LENGTH, ipv4::MIN_HEADER_LEN),
            Some(_) => (ipv6::HEADER_LEN as u32 + MAX_LENGTH, ipv6::HEADER_LEN + ipv6::FRAGMENT_LEN),
            None => (u32::MAX, usize::from(job.parsed.l4) + ipv6::FRAGMENT_LEN),
        };
        if len > longest {
            return Err(Refusal::Silent(DropReason::TooBig));
        }
        let limit = job.pieces.map_or(rewrite.mtu, |pieces| pieces.largest.min(rewrite.mtu));
        let room = (usize::from(limit).saturating_sub(header) / 8).max(1) * 8;
        // One more than needed, for a TCP option that may yet come.
        let as_they_came = job.pieces.map_or(0, |pieces| pieces.sizes.len());
        let count = as_they_came.max((len as usize).div_ceil(room)) + 1;
        if self.outgoing.len() + count > self.config.limits.outgoing {
            return Err(Refusal::Silent(DropReason::QueueFull));
        }
        Ok(Fit::Cut)
    }

    /// Applies a rewrite that [`fit`](Self::fit) has passed.
    pub(super) fn send(
        &mut self,
        job: &mut Job<'_, '_>,
        rewrite: &Rewrite,
        fit: Fit,
        fullnat: Option<FullNatStep>,
    ) -> Verdict {
        if fit == Fit::Cut
            && let Some(outer @ Outer { copy_df: true, .. }) = rewrite.outer
        {
            // What is cut must have an identification, and so no DF, even if the fragments that came had it.
            let rewrite = Rewrite { outer: Some(Outer { copy_df: false, ..outer }), ..*rewrite };
            return self.send(job, &rewrite, fit, fullnat);
        }
        let verdict = Verdict::Transmit { next_hop: rewrite.next_hop };
        // Link padding behind the packet stays here.
        if job.packet.set_len(job.parsed.len as usize).is_err() {
            return Verdict::Drop(DropReason::Malformed);
        }
        if rewrite.apply(job.packet, job.parsed).is_err() {
            return Verdict::Drop(DropReason::NoRoom);
        }
        if let Some(step) = fullnat {
            self.apply_fullnat(job, rewrite, step);
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
    fn apply_fullnat(&mut self, job: &mut Job<'_, '_>, rewrite: &Rewrite, step: FullNatStep) {
        let Transport::Tcp { sport, .. } = job.parsed.transport else { return };
        if step.unmask {
            blank_forged_toa(job.packet, job.parsed);
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
