//! Large zeroed arrays of fixed length: the memory of the connection table.
//!
//! A [`Region`] is taken once, at start, and never grows. Pages come zeroed from the system and cost nothing
//! until they are first written, so a table of ten million connections is as small as what it holds. A region
//! of two mebibytes or more begins on a huge page boundary; with the feature `tun` (which brings the system
//! call) the kernel is asked to back it with huge pages. This is the only file of the table with unsafe code;
//! everything above it indexes slices with bounds checks.
#![allow(unsafe_code)]

use core::alloc::Layout;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error};

use super::entry::Entry;
use super::index::Bucket;

/// Size and alignment of a huge page on x86-64 and (with 4 KiB base pages) AArch64.
const HUGE_PAGE: usize = 2 << 20;

/// A type for which all bytes zero is a valid value, and whose values need no drop.
///
/// # Safety
/// Every field must accept the all-zero bit pattern.
pub(super) unsafe trait Zeroed: Copy {}

// SAFETY: a bucket is arrays of integers.
unsafe impl Zeroed for Bucket {}
// SAFETY: addresses are arrays of bytes; `Hot` holds integers and the enums `State` and `Method`, which have
// a variant numbered 0 each.
unsafe impl Zeroed for Entry<Ipv4Addr> {}
// SAFETY: as for IPv4.
unsafe impl Zeroed for Entry<Ipv6Addr> {}
#[cfg(test)]
// SAFETY: an integer.
unsafe impl Zeroed for u64 {}

/// An array of `T`, zeroed at start.
pub(super) struct Region<T> {
    first: NonNull<T>,
    len: usize,
    /// What the allocator returned and must get back; `None` for an empty region.
    block: Option<(NonNull<u8>, Layout)>,
}

impl<T: Zeroed> Region<T> {
    /// Takes memory for `len` values.
    ///
    /// # Panics
    /// Panics when the size does not fit the address space; aborts when the system has no memory.
    pub(super) fn new(len: usize) -> Self {
        let Some(size) = len.checked_mul(size_of::<T>()).filter(|&size| size > 0) else {
            assert!(len == 0, "the connection table does not fit the address space");
            return Self { first: NonNull::dangling(), len: 0, block: None };
        };
        // Over-allocating and aligning by hand keeps the allocator on its path of fresh zero pages; asking it
        // for the alignment would make it write every page at start.
        let align = if size >= HUGE_PAGE { HUGE_PAGE } else { align_of::<T>() };
        let layout = size
            .checked_add(align)
            .and_then(|padded| Layout::from_size_align(padded, 16).ok())
            .expect("the connection table fits the address space");
        // SAFETY: the layout's size is not zero: `size` is positive.
        let block = unsafe { alloc_zeroed(layout) };
        let Some(block) = NonNull::new(block) else { handle_alloc_error(layout) };
        let padding = block.as_ptr().align_offset(align);
        assert!(padding <= align, "a byte pointer can be aligned to any power of two");
        // SAFETY: `padding <= align`, and the block is `size + align` bytes, so the result and the `size`
        // bytes behind it lie inside the block.
        let first = unsafe { block.add(padding) }.cast::<T>();
        advise_huge_pages(first.cast(), size);
        Self { first, len, block: Some((block, layout)) }
    }

    /// Bytes of the values. The padding before and behind them is never written, so it has no pages.
    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Asks the processor to load the value into its cache; does nothing out of range.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        if let Some(value) = self.get(index) {
            prefetch(value);
        }
    }
}

impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `first` is aligned, points to `len` initialized values inside one block (or `len` is 0),
        // and the borrow of `self` keeps writers away.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Region<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the exclusive borrow of `self` makes this the only reference.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        if let Some((block, layout)) = self.block {
            // SAFETY: `block` came from `alloc_zeroed` with this layout and is freed once; `T` needs no drop.
            unsafe { dealloc(block.as_ptr(), layout) }
        }
    }
}

// SAFETY: a region owns its values as a `Vec<T>` does; the pointer is not shared.
unsafe impl<T: Send> Send for Region<T> {}
// SAFETY: shared access gives out `&T` only.
unsafe impl<T: Sync> Sync for Region<T> {}

/// Asks the processor to load all cache lines of a value (64 bytes each).
#[inline]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = core::ptr::from_ref(value).cast::<i8>();
        let mut offset = 0;
        while offset < size_of::<T>() {
            // SAFETY: a prefetch never faults and SSE is part of x86-64; the address is inside `value`.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.add(offset)) };
            offset += 64;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Bit n set: byte n is `byte`.
#[inline]
#[cfg(target_arch = "x86_64")]
pub(super) fn equal_bytes(bytes: [u8; 16], byte: u8) -> u32 {
    // Left to itself the compiler makes thirty instructions of the loop below.
    use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let bits = u128::from_le_bytes(bytes);
    // SAFETY: these compute on values and need SSE2, which is part of x86-64.
    unsafe {
        let held = _mm_set_epi64x((bits >> 64) as i64, bits as i64);
        _mm_movemask_epi8(_mm_cmpeq_epi8(held, _mm_set1_epi8(byte as i8))) as u32
    }
}

/// Bit n set: byte n is `byte`.
#[inline]
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn equal_bytes(bytes: [u8; 16], byte: u8) -> u32 {
    (0..).zip(bytes).fold(0, |bits, (place, held)| bits | u32::from(held == byte) << place)
}

/// Asks for huge pages; a kernel that has none says no, which changes nothing but speed.
#[cfg(all(target_os = "linux", feature = "tun"))]
fn advise_huge_pages(first: NonNull<u8>, size: usize) {
    let whole = size / HUGE_PAGE * HUGE_PAGE;
    if whole > 0 {
        // SAFETY: the range is whole pages inside one live block, and this advice changes no contents.
        let _ =
            unsafe { rustix::mm::madvise(first.as_ptr().cast(), whole, rustix::mm::Advice::LinuxHugepage) };
    }
}

#[cfg(not(all(target_os = "linux", feature = "tun")))]
fn advise_huge_pages(_: NonNull<u8>, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_region_is_zeroed_and_starts_on_a_huge_page() {
        let mut region = Region::<u64>::new(HUGE_PAGE / 8 + 1);
        assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0);
        assert!(region.iter().all(|&word| word == 0));
        let last = region.len() - 1;
        region[last] = 7;
        assert_eq!(region[last], 7);
    }

    #[test]
    fn a_small_region_is_aligned_for_its_type() {
        let region = Region::<Bucket>::new(3);
        assert_eq!(region.as_ptr() as usize % 64, 0);
        assert_eq!(region.len(), 3);
    }

    #[test]
    fn equal_bytes_are_bits_in_order() {
        let bytes = [7, 0, 7, 1, 2, 3, 4, 5, 6, 8, 9, 7, 255, 0, 7, 0x80];
        assert_eq!(equal_bytes(bytes, 7), 0b0100_1000_0000_0101);
        assert_eq!(equal_bytes(bytes, 0x80), 1 << 15);
        assert_eq!(equal_bytes(bytes, 42), 0);
    }

    #[test]
    fn an_empty_region_takes_nothing() {
        let region = Region::<u64>::new(0);
        assert_eq!((region.len(), region.bytes()), (0, 0));
        region.prefetch(0);
    }
}
