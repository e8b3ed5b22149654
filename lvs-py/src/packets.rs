//! Packets between Python's buffers and the director's: one copy in, one copy out.

use lvs_core::wire::{HEADROOM, Packet, TAILROOM};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What a `bytes`, `bytearray`, `memoryview` or another object with bytes in it holds.
///
/// To make one and to drop one may run Python code: neither happens while a director is locked.
pub(crate) enum Source<'p> {
    Bytes(&'p [u8]),
    Buffer(PyBuffer<u8>),
}

impl<'p> Source<'p> {
    /// # Errors
    /// `TypeError` or `BufferError` when the object holds no bytes.
    pub(crate) fn of(object: &'p Bound<'_, PyAny>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Bytes(bytes.as_bytes())),
            Err(_) => PyBuffer::get(object).map(Self::Buffer),
        }
    }
}

/// Bytes laid one after another, each packet with the room around it that the director needs.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    buffer: Vec<u8>,
    /// Length of each packet in bytes, without its room.
    lengths: Vec<usize>,
}

impl Arena {
    /// Forgets the packets and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.lengths.clear();
    }

    /// Adds a copy of a packet.
    ///
    /// # Errors
    /// `BufferError` when the bytes cannot be read; nothing is added then.
    pub(crate) fn push(&mut self, py: Python<'_>, source: &Source<'_>) -> PyResult<()> {
        match source {
            Source::Bytes(bytes) => self.room(bytes.len()).copy_from_slice(bytes),
            Source::Buffer(buffer) => {
                let before = self.buffer.len();
                let copied = buffer.copy_to_slice(py, self.room(buffer.item_count()));
                if copied.is_err() {
                    self.buffer.truncate(before);
                    self.lengths.pop();
                }
                copied?;
            }
        }
        Ok(())
    }

    /// The packets, to go through the director.
    pub(crate) fn packets(&mut self) -> Vec<Packet<'_>> {
        let mut rest = self.buffer.as_mut_slice();
        let cut = |&len: &usize| {
            let (buffer, behind) = core::mem::take(&mut rest).split_at_mut(HEADROOM + len + TAILROOM);
            rest = behind;
            Packet::new(buffer, HEADROOM, HEADROOM + len)
                .expect("the arena has room for every packet it holds")
        };
        self.lengths.iter().map(cut).collect()
    }

    /// The first packet, to go through the director.
    pub(crate) fn first(&mut self) -> Option<Packet<'_>> {
        let len = *self.lengths.first()?;
        Packet::new(&mut self.buffer, HEADROOM, HEADROOM + len)
    }

    fn room(&mut self, len: usize) -> &mut [u8] {
        let start = self.buffer.len() + HEADROOM;
        self.buffer.resize(start + len + TAILROOM, 0);
        self.lengths.push(len);
        &mut self.buffer[start..start + len]
    }
}
