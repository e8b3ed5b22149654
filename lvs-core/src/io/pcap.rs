//! Capture files as packet I/O, and as plain reader and writer.
//!
//! Read: classic pcap (micro- and nanoseconds, both byte orders) and pcapng (enhanced packet blocks).
//! Written: classic pcap with nanoseconds. Link types: raw IP (101, 12, 14), IPv4 (228), IPv6 (229) and
//! Ethernet (1), VLAN tags included.
//!
//! Time is the capture's own: an [`Instant`] from a capture counts from 1970-01-01 00:00:00 UTC.

use core::fmt;
use core::time::Duration;
use std::io::{Read, Write};

use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::link::without_padding;
use super::{Batch, Capabilities, Counters, Error, LinkHeader, MAX_PACKET, PacketIo, Received};
use crate::wire::checksum::finish_checksum;
use crate::wire::{ChecksumState, Meta};
use crate::{Instant, Verdict};

/// Largest record that is read or written, in bytes (what tcpdump uses).
pub const MAX_RECORD: u32 = 262_144;

const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Type of the enhanced packet block.
const ENHANCED_PACKET: u32 = 6;
/// Types of blocks with packets that no current tool writes: the obsolete packet block and the simple packet
/// block, which has no timestamp.
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;

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

/// Reads the frames of a capture, in the file's order.
///
/// As an iterator it ends after the first error.
///
/// # Examples
/// ```
/// use lvs_core::Instant;
/// use lvs_core::io::{CaptureReader, CaptureWriter, LinkType};
///
/// let mut file = Vec::new();
/// let mut writer = CaptureWriter::new(&mut file, LinkType::Raw)?;
/// writer.write(Instant::from_millis(1500), &[0x45, 0, 0, 20])?;
/// let frames: Vec<_> = CaptureReader::new(&file[..])?.collect::<Result<_, _>>()?;
/// assert_eq!(frames[0].at, Instant::from_millis(1500));
/// assert_eq!(frames[0].bytes, [0x45, 0, 0, 20]);
/// # Ok::<(), lvs_core::io::CaptureError>(())
/// ```
pub struct CaptureReader<R: Read> {
    format: Format<R>,
    record: u64,
    failed: bool,
}

enum Format<R: Read> {
    Classic { reader: PcapReader<Peeked<R>>, link: LinkType },
    Next(PcapNgReader<Peeked<R>>),
}

/// A reader whose first bytes were already looked at.
type Peeked<R> = std::io::Chain<std::io::Cursor<Vec<u8>>, R>;

impl<R: Read> CaptureReader<R> {
    /// Reads the file's header. The reader has a large buffer of its own; a `BufReader` around the file gains
    /// nothing.
    ///
    /// # Errors
    /// [`CaptureError::Header`] when this is no capture, [`CaptureError::LinkType`].
    pub fn new(mut file: R) -> Result<Self, CaptureError> {
        let mut magic = Vec::with_capacity(4);
        let header = |error: &dyn fmt::Display| CaptureError::Header { what: error.to_string() };
        file.by_ref().take(4).read_to_end(&mut magic).map_err(|error| header(&error))?;
        let next = magic == PCAPNG_MAGIC;
        let file = std::io::Cursor::new(magic).chain(file);
        let format = if next {
            Format::Next(PcapNgReader::new(file).map_err(|error| header(&explain(&error)))?)
        } else {
            let reader = PcapReader::new(file).map_err(|error| header(&explain(&error)))?;
            // The upper half of the field says whether frames end with a checksum.
            let number = u32::from(reader.header().datalink) & 0xffff;
            let link = LinkType::from_number(number).ok_or(CaptureError::LinkType { record: 0, number })?;
            Format::Classic { reader, link }
        };
        Ok(Self { format, record: 0, failed: false })
    }

    /// Returns the link type, as far as the file's header says it: each interface of a pcapng file has its own.
    pub const fn link(&self) -> Option<LinkType> {
        match &self.format {
            Format::Classic { link, .. } => Some(*link),
            Format::Next(_) => None,
        }
    }

    /// Returns how many records were read.
    pub const fn records(&self) -> u64 {
        self.record
    }

    fn read(&mut self) -> Result<Option<CaptureFrame>, CaptureError> {
        let record = self.record + 1;
        let damaged = |what: &dyn fmt::Display| CaptureError::Record { record, what: what.to_string() };
        let frame = match &mut self.format {
            Format::Classic { reader, link } => {
                let resolution = reader.header().ts_resolution;
                // Not `next_packet`: it refuses cut frames whose original length is above the snap length.
                match reader.next_raw_packet() {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(damaged(&explain(&error))),
                    Some(Ok(raw)) => classic_frame(&raw, resolution, *link).map_err(|what| damaged(&what))?,
                }
            }
            Format::Next(reader) => match next_frame(reader, record)? {
                None => return Ok(None),
                Some(frame) => frame,
            },
        };
        self.record = record;
        Ok(Some(frame))
    }
}

impl<R: Read> Iterator for CaptureReader<R> {
    type Item = Result<CaptureFrame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.read().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

impl<R: Read> fmt::Debug for CaptureReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureReader").field("link", &self.link()).field("record", &self.record).finish()
    }
}

fn classic_frame(
    raw: &RawPcapPacket<'_>,
    resolution: TsResolution,
    link: LinkType,
) -> Result<CaptureFrame, String> {
    if raw.incl_len > MAX_RECORD {
        return Err(format!("captured length {} is above {MAX_RECORD}", raw.incl_len));
    }
    let nanos = match resolution {
        TsResolution::MicroSecond => u64::from(raw.ts_frac) * 1000,
        TsResolution::NanoSecond => u64::from(raw.ts_frac),
    };
    if nanos >= 1_000_000_000 {
        return Err(format!("the timestamp's fraction {} is a second or more", raw.ts_frac));
    }
    Ok(CaptureFrame {
        at: Instant::from_nanos(u64::from(raw.ts_sec) * 1_000_000_000 + nanos),
        link,
        original_len: raw.orig_len,
        bytes: raw.data.to_vec(),
    })
}

/// Reads on to the next packet of a pcapng file.
fn next_frame<R: Read>(
    reader: &mut PcapNgReader<R>,
    record: u64,
) -> Result<Option<CaptureFrame>, CaptureError> {
    let damaged = |what: String| CaptureError::Record { record, what };
    loop {
        // Raw blocks: the options of a packet (comments in any encoding) are none of our business.
        let (kind, body) = match reader.next_raw_block() {
            None => return Ok(None),
            Some(Err(error)) => return Err(damaged(explain(&error))),
            Some(Ok(block)) => match block.type_ {
                ENHANCED_PACKET => (block.type_, block.body.into_owned()),
                kind => (kind, Vec::new()),
            },
        };
        match kind {
            ENHANCED_PACKET => {}
            OBSOLETE_PACKET | SIMPLE_PACKET => {
                return Err(damaged(format!(
                    "block type {kind} is not supported (type 6, enhanced packet, is)"
                )));
            }
            _ => continue,
        }
        let little = reader.section().endianness == Endianness::Little;
        let field = |index: usize| {
            let bytes: [u8; 4] = body.get(index * 4..index * 4 + 4)?.try_into().ok()?;
            Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
        };
        let (Some(interface), Some(high), Some(low), Some(captured), Some(original_len)) =
            (field(0), field(1), field(2), field(3), field(4))
        else {
            return Err(damaged("the packet block is shorter than its 20 byte header".into()));
        };
        let Some(bytes) = body[20..].get(..captured as usize) else {
            return Err(damaged(format!("captured length {captured} is more than the block holds")));
        };
        if captured > MAX_RECORD {
            return Err(damaged(format!("captured length {captured} is above {MAX_RECORD}")));
        }
        let Some(interface) = reader.interfaces().get(interface as usize) else {
            return Err(damaged(format!("interface {interface} was not described")));
        };
        let number = u32::from(interface.linktype);
        let link = LinkType::from_number(number).ok_or(CaptureError::LinkType { record, number })?;
        let (mut resolution, mut offset) = (6, 0);
        for option in &interface.options {
            match option {
                InterfaceDescriptionOption::IfTsResol(value) => resolution = *value,
                InterfaceDescriptionOption::IfTsOffset(seconds) => offset = *seconds,
                _ => {}
            }
        }
        let units = u64::from(high) << 32 | u64::from(low);
        let at = instant(units, resolution, offset).ok_or_else(|| {
            damaged(format!("the timestamp {units} (resolution {resolution}) is out of range"))
        })?;
        return Ok(Some(CaptureFrame { at, link, original_len, bytes: bytes.to_vec() }));
    }
}

/// Turns a pcapng timestamp into nanoseconds since 1970. The resolution is 10^-n seconds, or 2^-n with the top
/// bit set.
fn instant(units: u64, resolution: u8, offset_secs: u64) -> Option<Instant> {
    let exponent = u32::from(resolution & 0x7f);
    let per_second =
        if resolution & 0x80 == 0 { 10u128.checked_pow(exponent)? } else { 1u128.checked_shl(exponent)? };
    let nanos = u128::from(units).checked_mul(1_000_000_000)?.checked_div(per_second)?;
    let offset = u128::from(offset_secs) * 1_000_000_000;
    u64::try_from(nanos.checked_add(offset)?).ok().map(Instant::from_nanos)
}

/// The library's messages lack the cause of an input error.
fn explain(error: &PcapError) -> String {
    match error {
        PcapError::IoError(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file ends in the middle of a record, or the record's length is wrong".into()
        }
        PcapError::IoError(source) => source.to_string(),
        other => other.to_string(),
    }
}

/// Writes a classic pcap file with nanosecond timestamps.
#[derive(Debug)]
pub struct CaptureWriter<W: Write> {
    writer: PcapWriter<W>,
    link: LinkType,
    record: u64,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the file's header. Give a `BufWriter` around a file.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn new(file: W, link: LinkType) -> Result<Self, CaptureError> {
        let header = PcapHeader {
            datalink: DataLink::from(link.number()),
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::Little,
            snaplen: MAX_RECORD,
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(file, header).map_err(|error| write_error(0, error))?;
        Ok(Self { writer, link, record: 0 })
    }

    /// Returns the file's link type.
    pub const fn link(&self) -> LinkType {
        self.link
    }

    /// Writes one frame, link header included.
    ///
    /// # Errors
    /// [`CaptureError::Unwritable`] for a time after 2106 or a frame above [`MAX_RECORD`] bytes; nothing is written
    /// then. [`CaptureError::Write`].
    pub fn write(&mut self, at: Instant, frame: &[u8]) -> Result<(), CaptureError> {
        let record = self.record + 1;
        let unwritable = |what| CaptureError::Unwritable { record, what };
        let seconds = u32::try_from(at.as_nanos() / 1_000_000_000)
            .map_err(|_| unwritable("the time is after 2106-02-07"))?;
        let len = u32::try_from(frame.len())
            .ok()
            .filter(|len| *len <= MAX_RECORD)
            .ok_or_else(|| unwritable("the frame is longer than 262144 bytes"))?;
        let raw = RawPcapPacket {
            ts_sec: seconds,
            ts_frac: (at.as_nanos() % 1_000_000_000) as u32,
            incl_len: len,
            orig_len: len,
            data: frame.into(),
        };
        self.writer.write_raw_packet(&raw).map_err(|error| write_error(record, error))?;
        self.record = record;
        Ok(())
    }

    /// Returns the file; a `BufWriter` must still be flushed.
    pub fn into_inner(self) -> W {
        self.writer.into_writer()
    }
}

fn write_error(record: u64, error: PcapError) -> CaptureError {
    match error {
        PcapError::IoError(source) => CaptureError::Write { record, source },
        other => CaptureError::Write { record, source: std::io::Error::other(other) },
    }
}

/// A capture as a backend: packets come from one file and go to another.
///
/// All packets of a batch have one timestamp, which is the batch's [`at`](Batch::at); what is sent gets it too.
/// On Ethernet a transmitted packet keeps the link header it came with (VLAN tags and addresses: no neighbours
/// are known here), an answer gets it with the addresses swapped, and a packet from the engine's queue gets a
/// [synthetic](LinkHeader::synthetic) one. Frames without an IP packet are skipped and counted.
#[derive(Debug)]
pub struct PcapIo<R: Read, W: Write> {
    reader: CaptureReader<R>,
    writer: CaptureWriter<W>,
    /// A frame that was read but has a later time than the batch.
    next: Option<CaptureFrame>,
    /// An error that waits until the packets in front of it are delivered.
    damage: Option<CaptureError>,
    pass: bool,
    counters: Counters,
    last: Instant,
}

impl<R: Read, W: Write> PcapIo<R, W> {
    /// Joins a reader and a file to write to. The output has the input's
    /// [output link type](LinkType::for_output); raw IP for pcapng.
    ///
    /// # Errors
    /// [`CaptureError::Write`].
    pub fn new(reader: CaptureReader<R>, output: W) -> Result<Self, CaptureError> {
        let link = reader.link().unwrap_or(LinkType::Raw).for_output();
        let writer = CaptureWriter::new(output, link)?;
        let counters = Counters::default();
        Ok(Self { reader, writer, next: None, damage: None, pass: true, counters, last: Instant::ZERO })
    }

    /// Says whether there is a host behind the director (the default): it gets the packets that pass, which
    /// means they are counted and not written. Without one the engine answers them itself.
    #[must_use]
    pub const fn with_host(mut self, host: bool) -> Self {
        self.pass = host;
        self
    }

    /// Returns the file that was written to.
    pub fn into_output(self) -> W {
        self.writer.into_inner()
    }

    fn next_frame(&mut self) -> Result<Option<CaptureFrame>, CaptureError> {
        match (self.next.take(), self.damage.take()) {
            (Some(frame), _) => Ok(Some(frame)),
            (None, Some(error)) => Err(error),
            (None, None) => self.reader.next().transpose(),
        }
    }
}

impl<R: Read, W: Write> PacketIo for PcapIo<R, W> {
    fn recv(&mut self, batch: &mut Batch, _timeout: Option<Duration>) -> Result<Received, Error> {
        batch.clear();
        while !batch.is_full() {
            let read = match self.next_frame() {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(error) if batch.is_empty() => return Err(error.into()),
                // What came before the damaged record is delivered first.
                Err(error) => {
                    self.damage = Some(error);
                    break;
                }
            };
            if batch.at().is_some_and(|at| at != read.at) {
                self.next = Some(read);
                break;
            }
            let Some((link, packet)) = read.network() else {
                self.counters.skipped += 1;
                continue;
            };
            let Some(frame) = batch.push() else { break };
            if frame.set(packet).is_err() {
                batch.pop();
                self.counters.skipped += 1;
                continue;
            }
            frame.link = link;
            batch.set_at(Some(read.at));
            self.last = read.at;
        }
        self.counters.received += batch.len() as u64;
        Ok(if batch.is_empty() { Received::End } else { Received::Frames(batch.len()) })
    }

    fn send(&mut self, batch: &mut Batch, verdicts: &[Verdict]) -> Result<usize, Error> {
        let at = batch.at().unwrap_or(self.last);
        let ethernet = self.writer.link() == LinkType::Ethernet;
        let mut sent = 0;
        for (frame, verdict) in batch.frames_mut().iter_mut().zip(verdicts) {
            let Some(next_hop) = verdict.next_hop() else {
                self.counters.passed += u64::from(*verdict == Verdict::Pass && self.pass);
                continue;
            };
            if let Meta { checksum: ChecksumState::Partial { start, offset }, .. } = frame.meta {
                finish_checksum(frame.bytes_mut(), start, offset);
            }
            let mut link = LinkHeader::NONE;
            if ethernet {
                link = if frame.link.is_none() { LinkHeader::synthetic(next_hop) } else { frame.link };
                if !frame.link.is_none() && matches!(verdict, Verdict::Reply { .. }) {
                    link.swap();
                }
                link.set_ip_version(frame.bytes());
            }
            self.writer.write(at, frame.with_header(link.bytes()))?;
            sent += 1;
        }
        self.counters.sent += sent as u64;
        Ok(sent)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            layer2: self.writer.link() == LinkType::Ethernet,
            pass: self.pass,
            gso: false,
            partial_checksum: false,
            mtu: MAX_PACKET as u16,
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKET: [u8; 28] = [
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
        0x03, 0xe8, 0, 53, 0, 8, 0, 0, // UDP
    ];

    fn ethernet(packet: &[u8]) -> Vec<u8> {
        [&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x00], packet].concat()
    }

    fn capture(link: LinkType, frames: &[(u64, &[u8])]) -> Vec<u8> {
        let mut writer = CaptureWriter::new(Vec::new(), link).unwrap();
        for (nanos, frame) in frames {
            writer.write(Instant::from_nanos(*nanos), frame).unwrap();
        }
        writer.into_inner()
    }

    fn read(file: &[u8]) -> Result<Vec<CaptureFrame>, CaptureError> {
        CaptureReader::new(file)?.collect()
    }

    /// A classic header with this magic, in little endian unless the magic says big.
    fn header(magic: [u8; 4], link: u8) -> Vec<u8> {
        let mut file = magic.to_vec();
        if magic[0] == 0xa1 {
            file.extend([0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, link]);
        } else {
            file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, link, 0, 0, 0]);
        }
        file
    }

    #[test]
    fn micro_and_nanoseconds_in_both_byte_orders() {
        let little = [5, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0x45];
        let big = [0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0x45];
        for (magic, record, nanos) in [
            ([0xd4, 0xc3, 0xb2, 0xa1], little, 5_000_007_000),
            ([0x4d, 0x3c, 0xb2, 0xa1], little, 5_000_000_007),
            ([0xa1, 0xb2, 0xc3, 0xd4], big, 5_000_007_000),
            ([0xa1, 0xb2, 0x3c, 0x4d], big, 5_000_000_007),
        ] {
            let file = [header(magic, 101), record.to_vec()].concat();
            let frames = read(&file).unwrap();
            assert_eq!(frames[0].at, Instant::from_nanos(nanos), "{magic:x?}");
            assert_eq!(frames[0].bytes, [0x45]);
        }
    }

    #[test]
    fn a_frame_cut_by_the_snap_length_is_read() {
        let record = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 2, 0, 0x45];
        let file = [header([0xd4, 0xc3, 0xb2, 0xa1], 101), record.to_vec()].concat();
        assert_eq!(read(&file).unwrap()[0].original_len, 0x2_ffff);
    }

    #[test]
    fn errors_name_the_record() {
        let mut file = capture(LinkType::Raw, &[(1, &PACKET), (2, &PACKET)]);
        file.truncate(file.len() - 1);
        let error = read(&file).unwrap_err().to_string();
        assert_eq!(
            error,
            "record 2: the file ends in the middle of a record, or the record's length is wrong"
        );
        let record = [0, 0, 0, 0, 0x40, 0x42, 0x0f, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let file = [header([0xd4, 0xc3, 0xb2, 0xa1], 101), record.to_vec()].concat();
        let error = read(&file).unwrap_err().to_string();
        assert_eq!(error, "record 1: the timestamp's fraction 1000000 is a second or more");
        let error = read(&header([0xd4, 0xc3, 0xb2, 0xa1], 113)).unwrap_err().to_string();
        assert!(error.starts_with("record 0: link type 113 is not supported"), "{error}");
        assert!(matches!(read(b"plain text, not a capture"), Err(CaptureError::Header { .. })));
        assert!(matches!(read(b""), Err(CaptureError::Header { .. })));
    }

    #[test]
    fn a_reader_ends_after_an_error() {
        let mut file = capture(LinkType::Raw, &[(1, &PACKET)]);
        file.truncate(file.len() - 1);
        let mut reader = CaptureReader::new(&file[..]).unwrap();
        assert!(reader.next().unwrap().is_err());
        assert!(reader.next().is_none());
    }

    /// A pcapng file: section, interface of this link type with a timestamp resolution, one packet.
    fn pcapng(link: u8, resolution: u8, units: u64, packet: &[u8]) -> Vec<u8> {
        let mut file = vec![0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
        file.extend([0xff; 8]);
        file.extend([28, 0, 0, 0]);
        file.extend([1, 0, 0, 0, 32, 0, 0, 0, link, 0, 0, 0, 0, 0, 4, 0]);
        file.extend([9, 0, 1, 0, resolution, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0]);
        let padded = packet.len().next_multiple_of(4);
        let total = (32 + padded) as u8;
        file.extend([6, 0, 0, 0, total, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(((units >> 32) as u32).to_le_bytes());
        file.extend((units as u32).to_le_bytes());
        file.extend([packet.len() as u8, 0, 0, 0, packet.len() as u8, 0, 0, 0]);
        file.extend(packet);
        file.resize(file.len() + padded - packet.len(), 0);
        file.extend([total, 0, 0, 0]);
        file
    }

    #[test]
    fn pcapng_with_its_timestamp_resolutions() {
        for (resolution, units, nanos) in
            [(6, 5_000_007, 5_000_007_000), (9, 5_000_000_007, 5_000_000_007), (0x80 | 1, 3, 1_500_000_000)]
        {
            let frames = read(&pcapng(101, resolution, units, &PACKET[..27])).unwrap();
            assert_eq!(frames[0].at, Instant::from_nanos(nanos));
            assert_eq!((frames[0].link, &frames[0].bytes[..]), (LinkType::Raw, &PACKET[..27]));
        }
        let error = read(&pcapng(113, 6, 0, &PACKET)).unwrap_err().to_string();
        assert!(error.starts_with("record 1: link type 113"), "{error}");
        let error = read(&pcapng(101, 0, u64::MAX, &PACKET)).unwrap_err().to_string();
        assert!(error.starts_with("record 1: the timestamp"), "{error}");
    }

    #[test]
    fn times_and_lengths_that_do_not_fit_are_refused() {
        let mut writer = CaptureWriter::new(Vec::new(), LinkType::Raw).unwrap();
        assert!(writer.write(Instant::from_secs(u64::from(u32::MAX) + 1), &PACKET).is_err());
        assert!(writer.write(Instant::ZERO, &vec![0; MAX_RECORD as usize + 1]).is_err());
        writer.write(Instant::ZERO, &PACKET).unwrap();
        assert_eq!(read(&writer.into_inner()).unwrap().len(), 1);
    }

    fn io(file: &[u8]) -> PcapIo<&[u8], Vec<u8>> {
        PcapIo::new(CaptureReader::new(file).unwrap(), Vec::new()).unwrap()
    }

    #[test]
    fn a_batch_holds_packets_of_one_time() {
        let frames: Vec<(u64, &[u8])> = vec![(1, &PACKET), (1, &PACKET), (2, &PACKET)];
        let file = capture(LinkType::Raw, &frames);
        let mut io = io(&file);
        let mut batch = Batch::new(8, 100);
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(2));
        assert_eq!(batch.at(), Some(Instant::from_nanos(1)));
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
        assert_eq!(batch.at(), Some(Instant::from_nanos(2)));
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::End);
    }

    #[test]
    fn packets_in_front_of_a_damaged_record_are_delivered() {
        let frames: Vec<(u64, &[u8])> = vec![(1, &PACKET), (1, &PACKET)];
        let file = capture(LinkType::Raw, &frames);
        let mut io = io(&file[..file.len() - 1]);
        let mut batch = Batch::new(8, 100);
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(1));
        let error = io.recv(&mut batch, None).unwrap_err().to_string();
        assert!(error.starts_with("record 2: "), "{error}");
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::End);
    }

    #[test]
    fn ethernet_headers_on_the_way_out() {
        let mut padded = ethernet(&PACKET);
        padded.resize(60, 0);
        let arp = [&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x08, 0x06][..], &[0; 28]].concat();
        let mut tagged = ethernet(&PACKET);
        tagged.splice(12..12, [0x81, 0x00, 0, 5]);
        let frames: Vec<(u64, &[u8])> = vec![(1, &padded), (1, &arp), (1, &tagged), (1, &padded)];
        let file = capture(LinkType::Ethernet, &frames);
        let mut io = io(&file);
        let mut batch = Batch::new(8, 100);
        assert_eq!(io.recv(&mut batch, None).unwrap(), Received::Frames(3));
        assert_eq!(batch.frames()[0].bytes(), PACKET);
        // The tunnelled packet changes its IP version.
        batch.frames_mut()[2].bytes_mut()[0] = 0x60;
        let next_hop = "10.9.8.7".parse().unwrap();
        let verdicts =
            [Verdict::Reply { next_hop }, Verdict::Transmit { next_hop }, Verdict::Transmit { next_hop }];
        assert_eq!(io.send(&mut batch, &verdicts).unwrap(), 3);
        batch.clear();
        batch.set_at(Some(Instant::from_nanos(9)));
        batch.push().unwrap().set(&PACKET).unwrap();
        io.send(&mut batch, &verdicts[..1]).unwrap();
        assert_eq!(io.counters().skipped, 1);
        assert!(io.capabilities().layer2);
        let out = read(&io.into_output()).unwrap();
        assert_eq!(out[0].bytes[..14], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0x08, 0x00]);
        assert_eq!(out[1].bytes, tagged);
        assert_eq!(out[2].bytes[..14], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x86, 0xdd]);
        assert_eq!(out[3].bytes[..14], [0x02, 0x01, 10, 9, 8, 7, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00]);
        assert_eq!(out[3].at, Instant::from_nanos(9));
    }

    #[test]
    fn a_partial_checksum_is_finished_before_it_is_written() {
        let file = header([0xd4, 0xc3, 0xb2, 0xa1], 228);
        let mut io = io(&file);
        let mut batch = Batch::new(1, 100);
        let frame = batch.push().unwrap();
        frame.set(&PACKET).unwrap();
        frame.meta.checksum = ChecksumState::Partial { start: 20, offset: 6 };
        io.send(&mut batch, &[Verdict::Transmit { next_hop: "10.0.0.2".parse().unwrap() }]).unwrap();
        let out = read(&io.into_output()).unwrap();
        // Sum of 03e8 + 0035 + 0008, complemented.
        assert_eq!(out[0].bytes[26..], [0xfb, 0xda]);
        assert_eq!(out[0].link, LinkType::Raw);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_written_is_read(frames in prop::collection::vec(
            (0u64..4_000_000_000_000_000_000, prop::collection::vec(any::<u8>(), 0..200)), 0..20), link in 0usize..4) {
            let link = [LinkType::Raw, LinkType::Ipv4, LinkType::Ipv6, LinkType::Ethernet][link];
            let borrowed: Vec<(u64, &[u8])> = frames.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
            let read: Vec<_> = read(&capture(link, &borrowed)).unwrap();
            prop_assert_eq!(read.len(), frames.len());
            for (frame, (at, bytes)) in read.iter().zip(&frames) {
                prop_assert_eq!((frame.at.as_nanos(), frame.link, &frame.bytes), (*at, link, bytes));
            }
        }

        #[test]
        fn hostile_classic_files_are_survived(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                              cut: prop::sample::Index) {
            let frame = ethernet(&PACKET);
            let mut file = capture(LinkType::Ethernet, &[(1, &frame), (2, &frame), (3, &frame)]);
            survive(&mut file, &damage, cut)?;
        }

        #[test]
        fn hostile_pcapng_files_are_survived(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                             cut: prop::sample::Index) {
            let mut file = pcapng(101, 9, 77, &PACKET);
            survive(&mut file, &damage, cut)?;
        }
    }

    /// Damages and perhaps cuts the file, then reads it through the backend to its end or first error.
    fn survive(
        file: &mut Vec<u8>,
        damage: &[(prop::sample::Index, u8)],
        cut: prop::sample::Index,
    ) -> Result<(), TestCaseError> {
        for (place, value) in damage {
            let place = place.index(file.len());
            file[place] = *value;
        }
        let keep = cut.index(file.len() * 2);
        file.truncate(keep);
        let Ok(reader) = CaptureReader::new(&file[..]) else { return Ok(()) };
        let mut io = PcapIo::new(reader, Vec::new()).unwrap();
        let mut batch = Batch::new(4, 100);
        for _ in 0..100 {
            match io.recv(&mut batch, None) {
                Ok(Received::Frames(count)) => prop_assert_eq!(count, batch.len()),
                Ok(_) | Err(_) => return Ok(()),
            }
        }
        Err(TestCaseError::fail("more records than the file can hold"))
    }
}
