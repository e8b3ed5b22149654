//! A fixed pool of frame buffers that backends fill and the engine changes in place.
//!
//! Nothing is allocated after [`Batch::new`]. A frame's buffer:
//!
//! ```text
//! | LINK_ROOM 32 | HEADROOM 64 | packet ...        | TAILROOM 64 |
//!   link header,   outer IP      start .. end
//!   virtio header  header
//! ```
//!
//! The engine sees the buffer from `HEADROOM` on, so the room for the backend's own header is always there.

use core::mem;

use super::{Capabilities, Error, LinkHeader};
use crate::Instant;
use crate::wire::{HEADROOM, Meta, Packet, TAILROOM};

/// Frames in a batch made by [`Batch::for_io`].
pub const BATCH: usize = 64;

/// Room in front of the engine's headroom for a backend's own header, in bytes: Ethernet with two VLAN tags is
/// 22, a virtio network header 10.
pub const LINK_ROOM: usize = 32;

/// Size of the largest IP packet in bytes, GSO packets included.
pub const MAX_PACKET: usize = 65_535;

/// Where a received packet starts in its buffer.
const START: usize = LINK_ROOM + HEADROOM;

/// One packet buffer with what its backend knows of it.
#[derive(Debug, Clone)]
pub struct Frame {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// What the backend knows beside the bytes.
    pub meta: Meta,
    /// The link header that the packet came with; empty where there is none.
    pub link: LinkHeader,
}

impl Frame {
    fn new(packet_size: usize) -> Self {
        Self {
            buffer: vec![0; START + packet_size + TAILROOM].into(),
            start: START,
            end: START,
            meta: Meta::default(),
            link: LinkHeader::NONE,
        }
    }

    fn reset(&mut self) {
        (self.start, self.end) = (START, START);
        self.meta = Meta::default();
        self.link = LinkHeader::NONE;
    }

    /// Returns the packet's bytes from its IP header on.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Returns the packet's bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Returns how large a packet the frame can receive, in bytes.
    pub fn capacity(&self) -> usize {
        self.buffer.len() - START - TAILROOM
    }

    /// Makes the frame hold a copy of `bytes`, without metadata and link header.
    ///
    /// # Errors
    /// [`Error::FrameTooSmall`]; the frame is then empty.
    pub fn set(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.reset();
        if bytes.len() > self.capacity() {
            return Err(Error::FrameTooSmall { need: bytes.len(), have: self.capacity() });
        }
        self.end = START + bytes.len();
        self.bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    /// Makes the frame a copy of `other`, metadata and link header included.
    ///
    /// # Errors
    /// [`Error::FrameTooSmall`]; the frame is then empty.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), Error> {
        self.set(other.bytes())?;
        (self.meta, self.link) = (other.meta, other.link);
        Ok(())
    }

    /// Makes the frame an exact copy of `other`, with the packet at the same place: a packet that has grown into
    /// its headroom or tailroom still fits.
    ///
    /// # Errors
    /// [`Error::FrameTooSmall`] when the packet does not even fit into the whole buffer; the frame is then empty.
    pub(super) fn copy_from_whole(&mut self, other: &Self) -> Result<(), Error> {
        self.reset();
        if other.end > self.buffer.len() {
            return Err(Error::FrameTooSmall { need: other.bytes().len(), have: self.capacity() });
        }
        self.buffer[other.start..other.end].copy_from_slice(other.bytes());
        (self.start, self.end) = (other.start, other.end);
        (self.meta, self.link) = (other.meta, other.link);
        Ok(())
    }

    /// Returns the room for a system call that reads `prefix` bytes of backend header and then the packet.
    ///
    /// # Panics
    /// When `prefix` is larger than [`LINK_ROOM`].
    pub fn receive_buffer(&mut self, prefix: usize) -> &mut [u8] {
        assert!(prefix <= LINK_ROOM, "a backend's header is at most LINK_ROOM bytes");
        self.reset();
        let end = self.buffer.len() - TAILROOM;
        &mut self.buffer[START - prefix..end]
    }

    /// Says that `len` bytes of packet were read into [`receive_buffer`](Self::receive_buffer); more than fits
    /// counts as what fits.
    pub fn set_received(&mut self, len: usize) {
        self.start = START;
        self.end = START + len.min(self.capacity());
    }

    /// Writes `header` right in front of the packet and returns both, as one piece to send. The packet itself
    /// does not change.
    ///
    /// # Panics
    /// When `header` is longer than [`LINK_ROOM`].
    pub fn with_header(&mut self, header: &[u8]) -> &[u8] {
        assert!(header.len() <= LINK_ROOM, "a backend's header is at most LINK_ROOM bytes");
        let from = self.start - header.len();
        self.buffer[from..self.start].copy_from_slice(header);
        &self.buffer[from..self.end]
    }
}

/// Reusable frames; the first [`len`](Self::len) of them hold packets.
#[derive(Debug)]
pub struct Batch {
    frames: Vec<Frame>,
    len: usize,
    at: Option<Instant>,
    /// Always empty between calls: the memory for the views of `with_packets`.
    views: Vec<Packet<'static>>,
    /// The memory for what `with_packets` takes back.
    places: Vec<(usize, usize, Meta)>,
}

impl Batch {
    /// Makes `count` empty frames for packets of up to `packet_size` bytes.
    pub fn new(count: usize, packet_size: usize) -> Self {
        Self {
            frames: (0..count).map(|_| Frame::new(packet_size)).collect(),
            len: 0,
            at: None,
            views: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
        }
    }

    /// Makes [`BATCH`] frames of the size that a backend with these capabilities needs.
    pub fn for_io(capabilities: &Capabilities) -> Self {
        Self::new(BATCH, capabilities.max_packet())
    }

    /// Returns how many frames hold packets.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no frame holds a packet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether every frame holds a packet.
    pub const fn is_full(&self) -> bool {
        self.len == self.frames.len()
    }

    /// Returns when the packets were received, for backends with a clock of their own (captures).
    pub const fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Sets when the packets were received.
    pub const fn set_at(&mut self, at: Option<Instant>) {
        self.at = at;
    }

    /// Forgets all packets and the time.
    pub const fn clear(&mut self) {
        self.len = 0;
        self.at = None;
    }

    /// Takes the next free frame into use, empty; `None` when there is none.
    pub fn push(&mut self) -> Option<&mut Frame> {
        let frame = self.frames.get_mut(self.len)?;
        self.len += 1;
        frame.reset();
        Some(frame)
    }

    /// Puts the last frame out of use.
    pub const fn pop(&mut self) {
        self.len = self.len.saturating_sub(1);
    }

    /// Returns the frames that hold packets.
    pub fn frames(&self) -> &[Frame] {
        &self.frames[..self.len]
    }

    /// Returns the frames that hold packets, to change.
    pub fn frames_mut(&mut self) -> &mut [Frame] {
        &mut self.frames[..self.len]
    }

    /// Lets `work` change the packets through views of the frames' buffers. What it leaves (bytes, place and
    /// metadata) is what the frames then hold. The views must keep their order.
    pub fn with_packets<R>(&mut self, work: impl FnOnce(&mut [Packet<'_>]) -> R) -> R {
        let mut views = recycle(mem::take(&mut self.views));
        views.extend(self.frames[..self.len].iter_mut().map(|frame| {
            // The engine never sees the backend's own room in front.
            let (start, end) = (frame.start - LINK_ROOM, frame.end - LINK_ROOM);
            let mut packet = Packet::new(&mut frame.buffer[LINK_ROOM..], start, end)
                .expect("a frame keeps start..end inside its buffer");
            packet.meta = frame.meta;
            packet
        }));
        let result = work(&mut views);
        self.places.clear();
        self.places.extend(views.iter().map(|packet| (packet.start(), packet.end(), packet.meta)));
        self.views = recycle(views);
        for (frame, &(start, end, meta)) in self.frames.iter_mut().zip(&self.places) {
            // A swapped-in view of a larger buffer must not lead outside of this one.
            frame.end = (end + LINK_ROOM).min(frame.buffer.len());
            frame.start = (start + LINK_ROOM).min(frame.end);
            frame.meta = meta;
        }
        result
    }
}

/// Empties a vector and gives its memory another lifetime. Collecting an empty vector's own iterator reuses the
/// allocation, so nothing is allocated (a test holds the standard library to that).
fn recycle<'b>(mut views: Vec<Packet<'_>>) -> Vec<Packet<'b>> {
    views.clear();
    views.into_iter().map(|_| unreachable!("the vector was cleared")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ChecksumState;

    #[test]
    fn what_the_engine_leaves_is_what_the_frames_hold() {
        let mut batch = Batch::new(2, 100);
        batch.push().unwrap().set(&[1, 2, 3]).unwrap();
        batch.push().unwrap().set(&[9]).unwrap();
        let partial = ChecksumState::Partial { start: 20, offset: 16 };
        batch.with_packets(|packets| {
            assert_eq!(packets.len(), 2);
            assert_eq!(packets[0].headroom(), HEADROOM);
            assert!(packets[0].tailroom() >= TAILROOM + 97);
            packets[0].prepend(1).unwrap();
            packets[0].bytes_mut()[0] = 7;
            packets[0].set_len(3).unwrap();
            packets[0].meta.checksum = partial;
        });
        assert_eq!(batch.frames()[0].bytes(), [7, 1, 2]);
        assert_eq!(batch.frames()[0].meta.checksum, partial);
        assert_eq!(batch.frames()[1].bytes(), [9]);
    }

    #[test]
    fn a_backend_header_fits_in_front_of_a_packet_that_used_all_headroom() {
        let mut batch = Batch::new(1, 10);
        batch.push().unwrap().set(&[5; 10]).unwrap();
        batch.with_packets(|packets| {
            packets[0].prepend(HEADROOM).unwrap();
            packets[0].bytes_mut()[..HEADROOM].fill(6);
            assert!(packets[0].prepend(1).is_err());
        });
        let sent = batch.frames_mut()[0].with_header(&[8; LINK_ROOM]);
        assert_eq!(sent.len(), LINK_ROOM + HEADROOM + 10);
        assert_eq!((sent[0], sent[LINK_ROOM], sent[LINK_ROOM + HEADROOM]), (8, 6, 5));
    }

    #[test]
    fn views_reuse_their_memory() {
        let mut batch = Batch::new(3, 10);
        batch.push().unwrap().set(&[1]).unwrap();
        let before = batch.with_packets(|packets| packets.as_ptr() as usize);
        let after = batch.with_packets(|packets| packets.as_ptr() as usize);
        assert_eq!(before, after);
        assert!(batch.views.capacity() >= 3);
    }

    #[test]
    fn a_full_batch_takes_no_more_and_a_popped_frame_comes_back_empty() {
        let mut batch = Batch::new(1, 10);
        batch.push().unwrap().set(&[1]).unwrap();
        assert!(batch.is_full());
        assert!(batch.push().is_none());
        batch.pop();
        assert!(batch.push().unwrap().bytes().is_empty());
    }

    #[test]
    fn a_packet_larger_than_the_frame_is_refused() {
        let mut batch = Batch::new(1, 10);
        let error = batch.push().unwrap().set(&[0; 11]).unwrap_err();
        assert_eq!(error.to_string(), "a packet of 11 bytes does not fit into a frame for 10 bytes");
    }

    #[test]
    fn received_bytes_lie_behind_the_headroom_and_never_reach_the_tailroom() {
        let mut batch = Batch::new(1, 4);
        let frame = batch.push().unwrap();
        let room = frame.receive_buffer(2);
        assert_eq!(room.len(), 6);
        room.copy_from_slice(&[0xaa, 0xbb, 1, 2, 3, 4]);
        frame.set_received(99);
        assert_eq!(frame.bytes(), [1, 2, 3, 4]);
    }
}
