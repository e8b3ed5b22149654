//! Writes capture files: classic pcap with nanoseconds.

use std::io::Write;

use pcap_file::pcap::{PcapHeader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::{CaptureError, LinkType, MAX_RECORD};
use crate::Instant;

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
