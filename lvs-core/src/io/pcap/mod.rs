//! Capture files as packet I/O, and as plain reader and writer.
//!
//! Read: classic pcap (micro- and nanoseconds, both byte orders) and pcapng (enhanced packet blocks).
//! Written: classic pcap with nanoseconds. Link types: raw IP (101, 12, 14), IPv4 (228), IPv6 (229) and
//! Ethernet (1), VLAN tags included.
//!
//! Time is the capture's own: an [`Instant`] from a capture counts from 1970-01-01 00:00:00 UTC.

mod backend;
mod reader;
mod writer;

pub use backend::PcapIo;
pub use reader::CaptureReader;
pub use writer::CaptureWriter;

use super::LinkHeader;
use super::link::without_padding;
use crate::Instant;

/// Largest record that is read or written, in bytes (what tcpdump uses).
pub const MAX_RECORD: u32 = 262_144;

/// What the first bytes of a captured frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// An IPv4 or IPv6 header (101).
    Raw,
    /// An IPv4 header (228).
    Ipv4,
    /// An IPv6 header (229).
    Ipv6,
    /// An Ethernet header (1).
    Ethernet,
}

impl LinkType {
    /// Returns the link type of a number in a capture file.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            // 12 and 14: the same under the names that some systems' capture libraries write.
            101 | 12 | 14 => Some(Self::Raw),
            228 => Some(Self::Ipv4),
            229 => Some(Self::Ipv6),
            _ => None,
        }
    }

    /// Returns the number in a capture file.
    pub const fn number(self) -> u32 {
        match self {
            Self::Ethernet => 1,
            Self::Raw => 101,
            Self::Ipv4 => 228,
            Self::Ipv6 => 229,
        }
    }

    /// Returns the link type for what a director makes of packets of this type: a tunnel changes the IP version,
    /// so IPv4 and IPv6 become raw IP.
    pub const fn for_output(self) -> Self {
        match self {
            Self::Ethernet => Self::Ethernet,
            Self::Raw | Self::Ipv4 | Self::Ipv6 => Self::Raw,
        }
    }
}

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file's own header is damaged, or this is no capture.
    #[error("not a capture file (pcap or pcapng): {what}")]
    Header {
        /// What is wrong.
        what: String,
    },
    /// A link type that is not supported.
    #[error(
        "record {record}: link type {number} is not supported (1 Ethernet, 101 raw IP, 228 IPv4, 229 IPv6 are)"
    )]
    LinkType {
        /// Number of the packet, from 1; 0 for the whole file.
        record: u64,
        /// The link type.
        number: u32,
    },
    /// A record is damaged; nothing after it can be read.
    #[error("record {record}: {what}")]
    Record {
        /// Number of the packet, from 1.
        record: u64,
        /// What is wrong.
        what: String,
    },
    /// A packet cannot be written: its time or its length does not fit.
    #[error("record {record} cannot be written: {what}")]
    Unwritable {
        /// Number of the packet, from 1.
        record: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// The file cannot be written.
    #[error("record {record} cannot be written: {source}")]
    Write {
        /// Number of the packet, from 1; 0 for the file's header.
        record: u64,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A frame of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureFrame {
    /// When it was captured, since 1970-01-01 00:00:00 UTC.
    pub at: Instant,
    /// What its first bytes are.
    pub link: LinkType,
    /// Its length on the wire in bytes, link header included; more than `bytes` when the capture cut it.
    pub original_len: u32,
    /// What was captured.
    pub bytes: Vec<u8>,
}

impl CaptureFrame {
    /// Returns the link header and the IP packet without link padding; `None` when the frame holds no IP packet.
    pub fn network(&self) -> Option<(LinkHeader, &[u8])> {
        let header = match self.link {
            LinkType::Ethernet => LinkHeader::parse_ethernet(&self.bytes)?,
            LinkType::Raw | LinkType::Ipv4 | LinkType::Ipv6 => LinkHeader::NONE,
        };
        let packet = without_padding(self.bytes.get(header.bytes().len()..)?);
        matches!(packet.first()? >> 4, 4 | 6).then_some((header, packet))
    }
}

#[cfg(test)]
mod tests;
