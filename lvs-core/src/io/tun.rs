//! A TUN device as packet I/O (Linux): the director sees layer-3 packets that the host routes to it.
//!
//! With offload (the default) the device speaks the [virtio header](super::virtio): large TCP packets stay whole
//! and transport checksums stay partial on both ways. The device is opened by `tun-rs`; packets are read and
//! written here, because that library cuts and merges GSO packets.
//!
//! The host must route the VIPs to the device, and the servers' answers too (NAT):
//!
//! ```text
//! ip route add VIP/32 dev lvs0
//! ip rule add from RIP iif SERVER_SIDE lookup 77; ip route add default dev lvs0 table 77
//! sysctl net.ipv4.ip_forward=1 net.ipv4.conf.lvs0.rp_filter=0 net.ipv4.conf.all.rp_filter=0
//! ```
//!
//! A packet cannot be given back to the host from here: written to the device it would be routed to the device
//! again. The engine answers such packets itself.

use core::net::IpAddr;
use core::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::virtio::{VIRTIO_HEADER, VirtioHeader};
use super::{Batch, Capabilities, Counters, Error, Frame, PacketIo, Received, offload};
use crate::Verdict;
use crate::wire::ChecksumState;
use crate::wire::checksum::finish_checksum;

/// How to open a TUN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// The device's name, up to 15 bytes. An existing device of this name is attached to, else one is created that
    /// disappears when it is closed.
    pub name: String,
    /// Largest packet that the host sends to the device unsegmented, in bytes.
    pub mtu: u16,
    /// An address of the host on the device, with its prefix length; not needed for forwarding.
    pub address: Option<(IpAddr, u8)>,
    /// Whether large packets stay whole and checksums partial.
    pub offload: bool,
    /// Whether several processes or threads may open the device, each with a queue of its own.
    pub multi_queue: bool,
}

impl TunConfig {
    /// The defaults for a device of this name: MTU 1500, no address, offload on, one queue.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), mtu: 1500, address: None, offload: true, multi_queue: false }
    }
}

/// An open TUN device (one queue of it).
pub struct Tun {
    device: SyncDevice,
    name: String,
    mtu: u16,
    offload: bool,
    counters: Counters,
    /// Memory for segments that are cut here.
    scratch: Vec<u8>,
}

impl Tun {
    /// Opens or creates a device, brings it up and sets MTU and address. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// [`Error::Device`] with what the system refused.
    pub fn open(config: &TunConfig) -> Result<Self, Error> {
        let failed =
            |operation| move |source| Error::Device { device: config.name.clone(), operation, source };
        let (offload, queues) = (config.offload, config.multi_queue);
        let mut builder = DeviceBuilder::new().name(config.name.clone()).mtu(config.mtu).with(|builder| {
            builder.offload(offload).multi_queue(queues);
        });
        match config.address {
            Some((IpAddr::V4(address), prefix)) => builder = builder.ipv4(address, prefix, None),
            Some((IpAddr::V6(address), prefix)) => builder = builder.ipv6(address, prefix),
            None => {}
        }
        let device = builder.build_sync().map_err(failed("open the TUN device"))?;
        device.set_nonblocking(true).map_err(failed("make the TUN device non-blocking"))?;
        let name = device.name().map_err(failed("read the name of the TUN device"))?;
        Ok(Self {
            device,
            name,
            mtu: config.mtu,
            offload,
            counters: Counters::default(),
            scratch: Vec::new(),
        })
    }

    /// Returns the device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens one more queue of a device that was opened with `multi_queue`; the kernel spreads flows over them.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn another_queue(&self) -> Result<Self, Error> {
        let failed = |source| Error::Device { device: self.name.clone(), operation: "open a queue", source };
        let device = self.device.try_clone().map_err(failed)?;
        device.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            device,
            name: self.name.clone(),
            mtu: self.mtu,
            offload: self.offload,
            counters: Counters::default(),
            scratch: Vec::new(),
        })
    }

    const fn header_len(&self) -> usize {
        if self.offload { VIRTIO_HEADER } else { 0 }
    }

    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        if is_gone(errno) {
            Error::DeviceGone { device: self.name.clone() }
        } else {
            Error::Device { device: self.name.clone(), operation, source: errno.into() }
        }
    }

    /// Reads until the batch is full or nothing is left.
    fn read(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let prefix = self.header_len();
        while let Some(frame) = batch.push() {
            let buffer = frame.receive_buffer(prefix);
            let result = rustix::io::retry_on_intr(|| rustix::io::read(&self.device, &mut *buffer));
            let len = match result {
                Ok(len) if len > prefix => len,
                // A header without a packet.
                Ok(_) => {
                    self.counters.skipped += 1;
                    batch.pop();
                    continue;
                }
                Err(errno) => {
                    batch.pop();
                    return match errno {
                        // EAGAIN: nothing left. Packets in the batch come first, an error comes again.
                        Errno::AGAIN => Ok(()),
                        _ if !batch.is_empty() => Ok(()),
                        // The link is down; it may come up again.
                        Errno::IO | Errno::NETDOWN => {
                            self.counters.link_down += 1;
                            Ok(())
                        }
                        // The host is short of memory for this packet; it was lost.
                        Errno::NOBUFS | Errno::NOMEM => {
                            self.counters.skipped += 1;
                            Ok(())
                        }
                        _ => Err(self.error("read from the TUN device", errno)),
                    };
                }
            };
            let mut header = [0; VIRTIO_HEADER];
            header[..prefix].copy_from_slice(&buffer[..prefix]);
            frame.set_received(len - prefix);
            if prefix > 0 {
                frame.meta = VirtioHeader::decode(header).meta(frame.bytes());
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        write(&self.device, bytes, &mut self.counters)
            .map_err(|errno| self.error("write to the TUN device", errno))
    }

    fn send_frame(&mut self, frame: &mut Frame) -> Result<bool, Error> {
        if frame.meta.gso.is_some()
            && !(self.offload && offload::device_can_segment(frame.bytes(), &frame.meta))
        {
            return self.send_segments(frame);
        }
        if self.offload {
            let header = VirtioHeader::from_meta(&frame.meta).encode();
            return self.write(frame.with_header(&header));
        }
        if let ChecksumState::Partial { start, offset } = frame.meta.checksum {
            finish_checksum(frame.bytes_mut(), start, offset);
        }
        self.write(frame.bytes())
    }

    /// Cuts a GSO packet that no device can cut and sends the segments.
    fn send_segments(&mut self, frame: &Frame) -> Result<bool, Error> {
        let header = [0; VIRTIO_HEADER];
        let (prefix, device, counters) = (self.header_len(), &self.device, &mut self.counters);
        let mut with_header = Vec::new();
        let mut outcome = Ok(true);
        let cut = offload::segment(frame.bytes(), &frame.meta, &mut self.scratch, |segment| {
            with_header.clear();
            with_header.extend_from_slice(&header[..prefix]);
            with_header.extend_from_slice(segment);
            match (&outcome, write(device, &with_header, counters)) {
                (Ok(_), Err(errno)) => outcome = Err(errno),
                (Ok(_), Ok(false)) => outcome = Ok(false),
                _ => {}
            }
        });
        match cut {
            Ok(_) => self.counters.segmented += 1,
            Err(_) => {
                self.counters.send_refused += 1;
                return Ok(false);
            }
        }
        outcome.map_err(|errno| self.error("write to the TUN device", errno))
    }
}

/// Writes one packet with its header. `false`: it was not sent, and is counted.
fn write(device: &SyncDevice, bytes: &[u8], counters: &mut Counters) -> Result<bool, Errno> {
    match rustix::io::retry_on_intr(|| rustix::io::write(device, bytes)) {
        Ok(_) => return Ok(true),
        Err(errno) if is_gone(errno) => return Err(errno),
        Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => counters.send_full += 1,
        Err(Errno::IO | Errno::NETDOWN) => counters.link_down += 1,
        // The kernel refuses this packet (EINVAL: no IP version, impossible offload); the next may do.
        Err(_) => counters.send_refused += 1,
    }
    Ok(false)
}

/// Whether the error says that there is no device behind the descriptor any more.
const fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::BADF | Errno::BADFD | Errno::NODEV | Errno::NXIO)
}

impl core::fmt::Debug for Tun {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("offload", &self.offload)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl PacketIo for Tun {
    fn recv(&mut self, batch: &mut Batch, timeout: Option<Duration>) -> Result<Received, Error> {
        batch.clear();
        // Under load packets are already there: no need to ask.
        self.read(batch)?;
        if batch.is_empty() && timeout != Some(Duration::ZERO) {
            let timeout = timeout.map(|timeout| Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            });
            let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                // A signal ends the wait early: the owner may want to stop.
                Ok(0) | Err(Errno::INTR) => return Ok(Received::TimedOut),
                Ok(_) => self.read(batch)?,
                Err(errno) => return Err(self.error("wait for the TUN device", errno)),
            }
        }
        self.counters.received += batch.len() as u64;
        Ok(if batch.is_empty() { Received::TimedOut } else { Received::Frames(batch.len()) })
    }

    fn send(&mut self, batch: &mut Batch, verdicts: &[Verdict]) -> Result<usize, Error> {
        let mut sent = 0;
        for (frame, verdict) in batch.frames_mut().iter_mut().zip(verdicts) {
            if verdict.next_hop().is_some() && self.send_frame(frame)? {
                sent += 1;
                self.counters.sent += 1;
            }
        }
        Ok(sent)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            layer2: false,
            pass: false,
            gso: self.offload,
            partial_checksum: self.offload,
            mtu: self.mtu,
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
