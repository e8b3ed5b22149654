//! The packet that travels through the director: bytes at layer 3 with room in front and behind.
//!
//! Backends fill it, the director changes it in place, backends send it. It never allocates.

/// Room in front of the IP header that every backend leaves, in bytes: the longest outer header is IPv6 (40)
/// with UDP (8) and GUE with private data (12).
pub const HEADROOM: usize = 64;

/// Room behind the packet that every backend leaves, in bytes: FULLNAT inserts a TCP option of up to 20 bytes.
pub const TAILROOM: usize = 64;

/// How the transport checksum of a packet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChecksumState {
    /// The field holds what the sender wrote; it goes out as it is (plus incremental updates).
    #[default]
    Complete,
    /// The field holds the folded pseudo-header sum only (`VIRTIO_NET_HDR_F_NEEDS_CSUM`); a device finishes it.
    Partial {
        /// Where summing starts: the transport header, in bytes from the IP header.
        start: u16,
        /// Where the result goes, in bytes from `start` (16 for TCP, 6 for UDP).
        offset: u16,
    },
}

/// A large packet that a device will cut into segments (GSO); it is forwarded whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gso {
    /// `VIRTIO_NET_HDR_GSO_*` type byte, kept as received.
    pub kind: u8,
    /// Payload bytes of each segment.
    pub size: u16,
    /// Length of the headers of each segment, in bytes from the IP header.
    pub header_len: u16,
}

/// What a backend knows of a packet beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// The packet's mark (fwmark); 0 = none. Mark rules of the configuration apply when it is 0.
    pub mark: u32,
    /// Whether the transport checksum is complete.
    pub checksum: ChecksumState,
    /// Present when a device will segment the packet.
    pub gso: Option<Gso>,
}

/// One packet, starting at its IP header, in a borrowed buffer with headroom and tailroom.
///
/// # Examples
/// ```
/// use lvs_core::wire::Packet;
/// let mut buffer = [0u8; 128];
/// let mut packet = Packet::new(&mut buffer, 64, 84).expect("64..84 is inside the buffer");
/// packet.prepend(20).expect("64 bytes of headroom");
/// assert_eq!(packet.len(), 40);
/// ```
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
    /// What the backend knows beside the bytes.
    pub meta: Meta,
}

/// A packet has no room left for what must be added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{need} bytes are needed {place} the packet, {have} are there")]
pub struct NoRoom {
    /// Bytes needed.
    pub need: usize,
    /// Bytes there.
    pub have: usize,
    /// `before` or `behind`.
    pub place: &'static str,
}

impl<'a> Packet<'a> {
    /// Makes a packet of `buffer[start..end]`; `None` when that range is not inside the buffer.
    pub fn new(buffer: &'a mut [u8], start: usize, end: usize) -> Option<Self> {
        (start <= end && end <= buffer.len()).then_some(Self { buffer, start, end, meta: Meta::default() })
    }

    /// The packet's bytes from the IP header on.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The packet's bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where the packet starts in its buffer, in bytes. Backends write link headers in front of it.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the packet ends in its buffer, in bytes.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Free bytes in front.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Free bytes behind.
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - self.end
    }

    /// Grows the packet by `count` bytes in front; their content is whatever was there.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is smaller; nothing is changed then.
    pub fn prepend(&mut self, count: usize) -> Result<(), NoRoom> {
        if count > self.start {
            return Err(NoRoom { need: count, have: self.start, place: "before" });
        }
        self.start -= count;
        Ok(())
    }

    /// Sets the length, cutting or growing at the end; new bytes are whatever was there.
    ///
    /// # Errors
    /// [`NoRoom`] when the tailroom is smaller; nothing is changed then.
    pub fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        let have = self.buffer.len() - self.start;
        if len > have {
            return Err(NoRoom { need: len - self.len(), have: self.tailroom(), place: "behind" });
        }
        self.end = self.start + len;
        Ok(())
    }

    /// Replaces the packet's bytes by `bytes` and clears the metadata but the mark.
    ///
    /// The bytes are laid behind the headroom where they fit so, else as far front as needed.
    ///
    /// # Errors
    /// [`NoRoom`] when the whole buffer is smaller.
    pub fn replace(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        if bytes.len() > self.buffer.len() {
            return Err(NoRoom { need: bytes.len(), have: self.buffer.len(), place: "behind" });
        }
        self.start = self.start.min(self.buffer.len() - bytes.len());
        self.end = self.start + bytes.len();
        self.bytes_mut().copy_from_slice(bytes);
        self.meta = Meta { mark: self.meta.mark, ..Meta::default() };
        Ok(())
    }
}
