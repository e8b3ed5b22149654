//! Why bytes are not a packet: every error names the layer, what would be right and what is there.

use core::fmt;

use crate::DropReason;

/// The header that an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layer {
    /// Ethernet II, or a VLAN tag behind it.
    Ethernet,
    /// IP of a version not yet known.
    Ip,
    /// IPv4.
    Ipv4,
    /// The fixed IPv6 header and its payload length.
    Ipv6,
    /// An IPv6 extension header.
    Ipv6Extension,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmpv6,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ethernet => "Ethernet",
            Self::Ip => "IP",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Ipv6Extension => "IPv6 extension header",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
        })
    }
}

/// Why a packet or frame could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The bytes end inside a header, or before the length that a header states.
    #[error("{layer}: {need} bytes are needed, {have} are there")]
    Truncated {
        /// Where.
        layer: Layer,
        /// Bytes needed, from the start of that layer's header.
        need: usize,
        /// Bytes there, from the same place.
        have: usize,
    },
    /// The first four bits are neither 4 nor 6.
    #[error("IP: version is {version}, 4 or 6 is right")]
    BadVersion {
        /// The version found.
        version: u8,
    },
    /// A length field states less than its own header needs.
    #[error("{layer}: {field} is {is} bytes, at least {least} is right")]
    TooSmall {
        /// Where.
        layer: Layer,
        /// The field's name.
        field: &'static str,
        /// The smallest right value, in bytes.
        least: usize,
        /// The value found, in bytes.
        is: usize,
    },
    /// The IPv4 header checksum is wrong.
    #[error("IPv4: header checksum is {is:#06x}, {right:#06x} is right")]
    BadHeaderChecksum {
        /// The field as found.
        is: u16,
        /// What it would have to be.
        right: u16,
    },
    /// IPv4 loose or strict source route option (RFC 791), or an IPv6 routing header of type 0 (RFC 5095).
    #[error("{layer}: source routing is refused")]
    SourceRoute {
        /// [`Layer::Ipv4`] or [`Layer::Ipv6Extension`].
        layer: Layer,
    },
    /// An option's length field is below 2 or leads past the end of the options.
    #[error("{layer}: option at byte {at} states {len} bytes, 2 to {most} is right")]
    BadOption {
        /// Where.
        layer: Layer,
        /// The option's place, in bytes from the header's start.
        at: usize,
        /// The length it states.
        len: usize,
        /// The bytes left for it.
        most: usize,
    },
    /// IPv6 payload length 0 with a hop-by-hop header: a jumbogram (RFC 2675), longer than 65,575 bytes.
    #[error("IPv6: payload length is 0 (jumbogram), 1 to 65535 is right")]
    Jumbogram,
    /// A fragment that would make its datagram longer than its length field can say.
    #[error("{layer}: fragment makes a datagram of {is} bytes, at most 65535 is right")]
    FragmentBeyondEnd {
        /// [`Layer::Ipv4`] or [`Layer::Ipv6Extension`].
        layer: Layer,
        /// What the length field (IPv4 total length, IPv6 payload length) would have to be, in bytes.
        is: usize,
    },
    /// More IPv6 extension headers than [`MAX_EXTENSION_HEADERS`](super::MAX_EXTENSION_HEADERS) or
    /// [`MAX_EXTENSION_BYTES`](super::MAX_EXTENSION_BYTES).
    #[error(
        "IPv6: {headers} extension headers of {bytes} bytes, at most {} of {} are right",
        super::MAX_EXTENSION_HEADERS,
        super::MAX_EXTENSION_BYTES
    )]
    TooManyExtensions {
        /// Headers met when the walk was given up.
        headers: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// A hop-by-hop header that does not follow the IPv6 header itself (RFC 8200 section 4.3).
    #[error("IPv6 extension header: hop-by-hop options at byte {at}, only byte 40 is right")]
    HopByHopNotFirst {
        /// Its place, in bytes from the start of the IPv6 header.
        at: usize,
    },
    /// A second IPv6 fragment header in one packet.
    #[error("IPv6 extension header: second fragment header at byte {at}, one is right")]
    SecondFragmentHeader {
        /// Its place, in bytes from the start of the IPv6 header.
        at: usize,
    },
}

impl ParseError {
    /// The counter that a packet with this error belongs to.
    pub const fn drop_reason(&self) -> DropReason {
        match self {
            Self::BadHeaderChecksum { .. } => DropReason::BadHeaderChecksum,
            Self::SourceRoute { .. } => DropReason::SourceRoute,
            _ => DropReason::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_layer_needed_and_present() {
        let error = ParseError::Truncated { layer: Layer::Tcp, need: 20, have: 19 };
        assert_eq!(error.to_string(), "TCP: 20 bytes are needed, 19 are there");
        let error = ParseError::TooManyExtensions { headers: 9, bytes: 72 };
        assert_eq!(error.to_string(), "IPv6: 9 extension headers of 72 bytes, at most 8 of 256 are right");
    }

    #[test]
    fn reasons_are_told_apart() {
        let reason = |error: ParseError| error.drop_reason();
        assert_eq!(reason(ParseError::Jumbogram), DropReason::Malformed);
        assert_eq!(reason(ParseError::BadHeaderChecksum { is: 0, right: 1 }), DropReason::BadHeaderChecksum);
        assert_eq!(reason(ParseError::SourceRoute { layer: Layer::Ipv4 }), DropReason::SourceRoute);
    }
}
