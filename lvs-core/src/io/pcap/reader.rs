//! Reads capture files: classic pcap and pcapng, frame by frame.

use core::fmt;
use std::io::Read;

use pcap_file::pcap::{PcapReader, RawPcapPacket};
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::{Endianness, PcapError, TsResolution};

use super::{CaptureError, CaptureFrame, LinkType, MAX_RECORD};
use crate::Instant;

const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Type of the enhanced packet block.
const ENHANCED_PACKET: u32 = 6;
/// Types of blocks with packets that no current tool writes: the obsolete packet block and the simple packet
/// block, which has no timestamp.
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;

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
