//! What the director says of a packet, and why it drops one.

use core::fmt;
use core::net::IpAddr;

/// The director's answer to one packet. It speaks of the caller's buffer, which has been changed in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send the buffer on towards `next_hop` (a real server or a client; the I/O edge resolves the link).
    Transmit {
        /// The IP address that the packet must reach next.
        next_hop: IpAddr,
    },
    /// The buffer now holds an answer (ICMP error, RST, echo reply): send it towards `next_hop`.
    Reply {
        /// Whom the answer is for.
        next_hop: IpAddr,
    },
    /// The packet is not the director's; the buffer is unchanged. Give it to the host, if there is one.
    Pass,
    /// The packet was taken in: a fragment that waits for the rest, or a packet that leaves in pieces.
    /// What comes of it is returned by `Director::poll_transmit`.
    Queued,
    /// The packet ends here.
    Drop(DropReason),
}

impl Verdict {
    /// The word used in JSON, Python and traces: `transmit`, `reply`, `pass`, `queued` or `drop`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transmit { .. } => "transmit",
            Self::Reply { .. } => "reply",
            Self::Pass => "pass",
            Self::Queued => "queued",
            Self::Drop(_) => "drop",
        }
    }

    /// Where the packet goes next, for those that leave.
    pub const fn next_hop(self) -> Option<IpAddr> {
        match self {
            Self::Transmit { next_hop } | Self::Reply { next_hop } => Some(next_hop),
            Self::Pass | Self::Queued | Self::Drop(_) => None,
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a packet ended at the director. Each has a counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name,)+ }

        impl DropReason {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason's stable name, as counters and JSON use it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or a header field that cannot be.
    Malformed = "malformed",
    /// The IPv4 header checksum is wrong.
    BadHeaderChecksum = "bad-header-checksum",
    /// Loose or strict source routing, as the kernel refuses by default.
    SourceRoute = "source-route",
    /// A source address that no packet from a network may have (loopback, multicast, broadcast, unspecified).
    Martian = "martian",
    /// An ICMP error whose checksum is wrong.
    BadIcmpChecksum = "bad-icmp-checksum",
    /// An ICMP error that quotes no known flow.
    UnrelatedIcmp = "unrelated-icmp",
    /// An ICMP error that quotes a later fragment or is one itself.
    IcmpFragment = "icmp-fragment",
    /// The virtual service has no server that may take the flow, and the ICMP answer was not due.
    NoServer = "no-server",
    /// The flow's server was deleted and `expire_nodest_conn` is 0.
    ServerGone = "server-gone",
    /// The connection table is full and holds nothing that may be evicted.
    TableFull = "table-full",
    /// Another connection already has the return tuple (same client port, same server, another VIP).
    ReturnTupleTaken = "return-tuple-taken",
    /// FULLNAT: every local port towards that server is in use.
    LocalPortsExhausted = "local-ports-exhausted",
    /// FULLNAT: the service has no local address of the needed family.
    NoLocalAddress = "no-local-address",
    /// TTL or hop limit ran out and the ICMP answer was not due.
    TtlExceeded = "ttl-exceeded",
    /// Larger than the next hop's MTU, may not be fragmented, and the ICMP answer was not due.
    TooBig = "too-big",
    /// The own ICMP answer was over its rate limit.
    IcmpRateLimited = "icmp-rate-limited",
    /// No own address of the outer header's family: a tunnel has no source.
    NoTunnelSource = "no-tunnel-source",
    /// The buffer has no room for the outer header or option.
    NoRoom = "no-room",
    /// Fragments overlap or contradict each other; the whole datagram is given up.
    FragmentOverlap = "fragment-overlap",
    /// The fragment store is full.
    FragmentLimit = "fragment-limit",
    /// Part of a datagram whose other fragments did not come in time.
    FragmentTimeout = "fragment-timeout",
    /// Nothing here is responsible for the packet and there is no host to give it to.
    NotForUs = "not-for-us",
    /// Addressed to the director itself, which offers nothing there (no answer is due).
    LocalSilent = "local-silent",
    /// Too many packets wait in `poll_transmit`.
    QueueFull = "queue-full",
    /// Forwarding method and address family do not go together for this packet.
    Unsupported = "unsupported",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
