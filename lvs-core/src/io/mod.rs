//! Packet I/O: where packets come from and go to.
//!
//! A backend is a [`PacketIo`]: it fills a [`Batch`] of frames and sends a batch by the director's verdicts.
//! The [run loop](mod@run) joins a backend and an [`Engine`]. Backends:
//!
//! | backend | for |
//! |---|---|
//! | [`Memory`] | tests and examples: queues of packets |
//! | `pcap` (feature `pcap`) | capture files, also usable as plain reader and writer |
//! | [`Fault`] | middleware around any backend: loss, duplicates, reordering, corruption, errors |
//! | `tun` (feature `tun`, Linux) | a TUN device with checksum and segmentation offload |
//!
//! This module owns devices, files and the clock ([`MonotonicClock`]). It decides nothing about a packet: what
//! is sent, and whether, is the engine's verdict.

mod batch;
mod clock;
mod fault;
mod link;
mod memory;
pub mod offload;
#[cfg(feature = "pcap")]
pub mod pcap;
pub mod run;
#[cfg(all(feature = "tun", target_os = "linux"))]
pub mod tun;
pub mod virtio;

use core::time::Duration;

pub use batch::{BATCH, Batch, Frame, LINK_ROOM, MAX_PACKET};
pub use clock::MonotonicClock;
pub use fault::{Fault, FaultCounters, Rates};
pub use link::LinkHeader;
pub use memory::{Memory, Sent};
#[cfg(feature = "pcap")]
pub use pcap::{CaptureError, CaptureFrame, CaptureReader, CaptureWriter, LinkType, PcapIo};
pub use run::{Engine, RunCounters, Runner, Step, run};
#[cfg(all(feature = "tun", target_os = "linux"))]
pub use tun::{Tun, TunConfig};

use crate::Verdict;

/// What a backend can do. It does not change while the backend lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether frames have a link header, so that the backend chooses the neighbour (direct routing needs it).
    pub layer2: bool,
    /// Whether a packet with the verdict [`Pass`](Verdict::Pass) can be given back to the host. Where it cannot,
    /// the engine answers itself.
    pub pass: bool,
    /// Whether packets larger than the MTU come and go whole, with [`Gso`](crate::wire::Gso) metadata.
    pub gso: bool,
    /// Whether packets come and go with [partial](crate::wire::ChecksumState::Partial) transport checksums.
    pub partial_checksum: bool,
    /// Largest IP packet in bytes that travels in one link frame.
    pub mtu: u16,
}

impl Capabilities {
    /// Returns the size of the largest IP packet that [`PacketIo::recv`] may deliver, in bytes.
    pub const fn max_packet(&self) -> usize {
        if self.gso { MAX_PACKET } else { self.mtu as usize }
    }
}

/// How [`PacketIo::recv`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// The batch holds this many frames, at least one.
    Frames(usize),
    /// Nothing came in time; the batch is empty.
    TimedOut,
    /// Nothing will ever come again (end of a capture, closed queue); the batch is empty.
    End,
}

/// What a backend did since it was opened. A packet that could not be sent is counted once, and is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets delivered by `recv`.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets given back to the host.
    pub passed: u64,
    /// Incoming frames that hold no whole IP header, such as ARP.
    pub skipped: u64,
    /// Packets not sent because the device's queue was full (`EAGAIN`, `ENOBUFS`, `ENOMEM`).
    pub send_full: u64,
    /// Packets not sent because the device refused them (`EINVAL` and the like).
    pub send_refused: u64,
    /// Packets not sent because the link was down (`EIO`, `ENETDOWN`).
    pub link_down: u64,
    /// Packets that were cut into segments here because no device can do it (GSO inside a tunnel).
    pub segmented: u64,
}

/// Why a backend cannot go on, or, for [transient](Self::is_transient) errors, why one call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a device.
    #[error("{device}: cannot {operation}: {source}")]
    Device {
        /// The device's name.
        device: String,
        /// What was tried, such as `open`.
        operation: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A device was deleted or detached while in use.
    #[error("{device}: the device is gone; create it again and reopen it")]
    DeviceGone {
        /// The device's name.
        device: String,
    },
    /// A capture file is damaged or cannot be read or written.
    #[cfg(feature = "pcap")]
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A packet is larger than the frame that it must go into.
    #[error("a packet of {need} bytes does not fit into a frame for {have} bytes")]
    FrameTooSmall {
        /// The packet's length in bytes.
        need: usize,
        /// The frame's room in bytes.
        have: usize,
    },
    /// The call failed because [`Fault`] made it fail.
    #[error("injected {0} error")]
    Injected(&'static str),
    /// One transient error followed another for [`run::MAX_TRANSIENT_ERRORS`] calls.
    #[error("{count} transient errors in a row, the last one: {last}")]
    TooManyErrors {
        /// How many.
        count: u32,
        /// The last of them.
        last: Box<Self>,
    },
}

impl Error {
    /// Returns whether the same call may succeed next time.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Injected(_))
    }
}

/// A place where packets come from and go to.
///
/// Backends handle what passes by itself (full queue, link down, interrupted call): they count it in
/// [`Counters`] and go on. An [`Error`] is what they cannot handle.
///
/// # Examples
/// ```
/// use core::time::Duration;
/// use lvs_core::Verdict;
/// use lvs_core::io::{Batch, Memory, PacketIo, Received};
///
/// let mut io = Memory::new();
/// io.push(&[0x45, 0, 0, 20]);
/// let mut batch = Batch::for_io(&io.capabilities());
/// assert_eq!(io.recv(&mut batch, Some(Duration::ZERO))?, Received::Frames(1));
/// io.send(&mut batch, &[Verdict::Transmit { next_hop: "192.0.2.1".parse().unwrap() }])?;
/// assert_eq!(io.pop().expect("one packet was sent").bytes, [0x45, 0, 0, 20]);
/// # Ok::<(), lvs_core::io::Error>(())
/// ```
pub trait PacketIo {
    /// Clears `batch` and fills it with what has come, waiting at most `timeout` for the first frame (`None`:
    /// without limit, though an interrupting signal may end the wait).
    ///
    /// # Errors
    /// What the backend cannot handle itself. The batch is then empty.
    fn recv(&mut self, batch: &mut Batch, timeout: Option<Duration>) -> Result<Received, Error>;

    /// Sends the frames whose verdict is `Transmit` or `Reply`, gives those with `Pass` back to the host where
    /// there is one, and returns how many were sent. `verdicts[i]` speaks of frame `i`; frames without a
    /// verdict are not sent. The frames' bytes may be used up.
    ///
    /// # Errors
    /// What the backend cannot handle itself. Frames in front of the failing one have been sent.
    fn send(&mut self, batch: &mut Batch, verdicts: &[Verdict]) -> Result<usize, Error>;

    /// Returns what the backend can do.
    fn capabilities(&self) -> Capabilities;

    /// Returns what the backend did so far.
    fn counters(&self) -> Counters;
}

impl<T: PacketIo + ?Sized> PacketIo for Box<T> {
    fn recv(&mut self, batch: &mut Batch, timeout: Option<Duration>) -> Result<Received, Error> {
        (**self).recv(batch, timeout)
    }

    fn send(&mut self, batch: &mut Batch, verdicts: &[Verdict]) -> Result<usize, Error> {
        (**self).send(batch, verdicts)
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn counters(&self) -> Counters {
        (**self).counters()
    }
}
