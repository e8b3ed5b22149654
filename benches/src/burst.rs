//! Thirty-two packet buffers that are filled anew before every measured step, as a receive ring would be.
//!
//! The buffers stay in the first-level cache, so what is measured is the director's work and its memory, not
//! the transfer of packets. Filling costs time too: each bench that uses a burst measures it alone as `fill`.

use lvs_core::wire::{HEADROOM, Packet, TAILROOM};

use crate::packet::Template;

/// Packets in a burst.
pub const BURST: usize = 32;

/// Bytes of a buffer: headroom, up to 128 bytes of packet, tailroom.
pub const BUFFER: usize = HEADROOM + 128 + TAILROOM;

/// The buffers.
#[derive(Debug, Clone)]
pub struct Burst {
    buffers: [[u8; BUFFER]; BURST],
}

impl Burst {
    /// Makes empty buffers.
    pub fn new() -> Self {
        Self { buffers: [[0; BUFFER]; BURST] }
    }

    /// Fills every buffer with the packet of the next client in `order`.
    ///
    /// # Panics
    /// Panics when the template's packet is longer than 128 bytes.
    #[inline]
    pub fn fill(&mut self, template: &Template, order: &mut Order) -> [Packet<'_>; BURST] {
        let end = HEADROOM + template.len();
        self.buffers.each_mut().map(|buffer| {
            template.write(order.next_client(), &mut buffer[HEADROOM..HEADROOM + 128]);
            Packet::new(buffer, HEADROOM, end).expect("the packet is inside its buffer")
        })
    }
}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

/// Client numbers below `count` in an order that no cache can foresee.
#[derive(Debug, Clone)]
pub struct Order {
    state: u64,
    count: u32,
}

impl Order {
    /// Makes an order; it is always the same one.
    pub const fn new(count: u32) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, count }
    }

    /// Returns the next client's number.
    #[inline]
    pub fn next_client(&mut self) -> u32 {
        // xorshift64 (Marsaglia 2003); the upper half times `count` lies in 0..count.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (((self.state >> 32) * u64::from(self.count)) >> 32) as u32
    }
}
