//! What one look at a packet found: everything later stages need, as plain values.
//!
//! Offsets are in bytes from the first byte of the (outer) IP header.

use core::net::IpAddr;

use lvs_sched::{Endpoint, Protocol};

/// The flow key of a packet as it stands: who sent it to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Sender.
    pub src: Endpoint,
    /// Receiver.
    pub dst: Endpoint,
}

impl Tuple {
    /// The tuple of a packet the other way.
    pub const fn reversed(self) -> Self {
        Self { protocol: self.protocol, src: self.dst, dst: self.src }
    }
}

bitflags::bitflags! {
    /// TCP flags, the bits of byte 13 of the header.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct TcpFlags: u8 {
        /// No more data from sender.
        const FIN = 0x01;
        /// Synchronize sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// Push.
        const PSH = 0x08;
        /// The acknowledgment field counts.
        const ACK = 0x10;
        /// Urgent.
        const URG = 0x20;
    }
}

/// A fragment's place in its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Identification (16 bits in IPv4, 32 in IPv6).
    pub id: u32,
    /// Where its payload belongs, in bytes.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// IPv6: offset of the fragment header; IPv4: 0.
    pub header: u16,
}

/// The packet that an ICMP error quotes, as far as it was quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Where the quoted IP header starts.
    pub offset: u16,
    /// Where the quoted transport header starts.
    pub l4_offset: u16,
    /// Its sender.
    pub src: IpAddr,
    /// Its receiver.
    pub dst: IpAddr,
    /// Its transport protocol number (behind extension headers).
    pub protocol: u8,
    /// Its ports (source, destination), when the quote reaches that far and it is no later fragment.
    pub ports: Option<(u16, u16)>,
    /// Whether it was a fragment other than the first.
    pub later_fragment: bool,
    /// IPv4: whether it had DF set.
    pub dont_fragment: bool,
}

impl Quoted {
    /// The quoted packet's flow key as it stood, when it is TCP, UDP or SCTP with ports.
    pub fn tuple(&self) -> Option<Tuple> {
        let protocol = Protocol::from_number(self.protocol)?;
        let (sport, dport) = self.ports?;
        Some(Tuple { protocol, src: Endpoint::new(self.src, sport), dst: Endpoint::new(self.dst, dport) })
    }
}

/// What an ICMP or ICMPv6 message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpBody {
    /// An error that concerns a flow: v4 types 3, 4 (source quench), 11; v6 types 1 to 127.
    Error(Quoted),
    /// An error of those types whose quote could not be read.
    BadQuote,
    /// Echo request (v4 type 8, v6 type 128).
    EchoRequest,
    /// Anything else (redirects, parameter problem in v4, neighbour discovery, …).
    Other,
}

/// An ICMP or ICMPv6 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Bytes 4 to 8: MTU in "fragmentation needed" (low 16 bits) and "packet too big".
    pub rest: u32,
    /// What it is about.
    pub body: IcmpBody,
}

/// The layer above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Flags.
        flags: TcpFlags,
        /// Sequence number.
        seq: u32,
        /// Acknowledgment number.
        ack: u32,
        /// Header length in bytes, 20 to 60.
        header_len: u8,
    },
    /// UDP.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Whether the checksum field is 0 (none, IPv4 only).
        no_checksum: bool,
    },
    /// SCTP.
    Sctp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Type of the first chunk, if there is one.
        chunk: Option<u8>,
        /// Type of the second chunk, if there is one.
        second: Option<u8>,
    },
    /// ICMP in IPv4 or ICMPv6 in IPv6.
    Icmp(Icmp),
    /// A fragment that has no transport header (any but the first).
    LaterFragment,
    /// Any other protocol.
    Other,
}

/// Everything the director needs to know of a packet, found by one walk over its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// Transport protocol number (behind extension headers).
    pub protocol: u8,
    /// Type of service / traffic class.
    pub tos: u8,
    /// Time to live / hop limit.
    pub ttl: u8,
    /// IPv4 DF; always true for IPv6.
    pub dont_fragment: bool,
    /// Length of the whole IP packet as its header says (the buffer may hold link padding behind).
    pub len: u32,
    /// Where the transport header starts.
    pub l4: u16,
    /// Present when the packet is a fragment (an IPv6 atomic fragment is not).
    pub fragment: Option<Fragment>,
    /// The layer above.
    pub transport: Transport,
}

impl Parsed {
    /// The flow key, for TCP, UDP and SCTP packets that carry their ports.
    #[inline]
    pub fn tuple(&self) -> Option<Tuple> {
        let (protocol, sport, dport) = match self.transport {
            Transport::Tcp { sport, dport, .. } => (Protocol::Tcp, sport, dport),
            Transport::Udp { sport, dport, .. } => (Protocol::Udp, sport, dport),
            Transport::Sctp { sport, dport, .. } => (Protocol::Sctp, sport, dport),
            Transport::Icmp(_) | Transport::LaterFragment | Transport::Other => return None,
        };
        Some(Tuple { protocol, src: Endpoint::new(self.src, sport), dst: Endpoint::new(self.dst, dport) })
    }

    /// TCP flags, none for other protocols.
    #[inline]
    pub fn tcp_flags(&self) -> TcpFlags {
        match self.transport {
            Transport::Tcp { flags, .. } => flags,
            _ => TcpFlags::empty(),
        }
    }

    /// Whether the packet is IPv4.
    #[inline]
    pub fn is_ipv4(&self) -> bool {
        self.src.is_ipv4()
    }
}
