//! A capture as a backend: packets come from one file and go to another.

use core::time::Duration;
use std::io::{Read, Write};

use super::{CaptureError, CaptureFrame, CaptureReader, CaptureWriter, LinkType};
use crate::io::{Batch, Capabilities, Counters, Error, LinkHeader, MAX_PACKET, PacketIo, Received};
use crate::wire::checksum::finish_checksum;
use crate::wire::{ChecksumState, Meta};
use crate::{Instant, Verdict};

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
