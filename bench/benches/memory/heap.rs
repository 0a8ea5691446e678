//! The system's allocator, and what is allocated from it: by Rust, as it was asked for; and by C, which does not pass through here, as the
//! difference to what the system's allocator says it has given out.
#![expect(unsafe_code, reason = "counting allocations means standing in for the allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Passes on and counts.
pub(crate) struct Counting;

/// Bytes that were asked for and not given back.
static ASKED: AtomicUsize = AtomicUsize::new(0);
/// The same as the system's allocator counts them.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// What precedes each of its blocks. Unit: bytes. Source: glibc's `malloc.c`, "Minimum overhead per allocated chunk".
const HEADER_SIZE: usize = size_of::<usize>();

/// What is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heap {
    /// By Rust. Unit: bytes, as asked for.
    pub(crate) rust: usize,
    /// By C: the contexts of the crypto library. Unit: bytes, with the allocator's own.
    pub(crate) c: usize,
}

impl Heap {
    /// As of this moment. Only while no other thread allocates.
    pub(crate) fn now() -> Self {
        // SAFETY: the call takes nothing and returns a struct of integers.
        let all = unsafe { libc::mallinfo2() };
        Self { rust: ASKED.load(Relaxed), c: (all.uordblks + all.hblkhd).saturating_sub(TAKEN.load(Relaxed)) }
    }
}

fn taken(block: *mut u8) -> usize {
    // SAFETY: `block` is from the system's allocator and live.
    unsafe { libc::malloc_usable_size(block.cast()) + HEADER_SIZE }
}

fn add(block: *mut u8, layout: Layout) -> *mut u8 {
    if !block.is_null() {
        ASKED.fetch_add(layout.size(), Relaxed);
        TAKEN.fetch_add(taken(block), Relaxed);
    }
    block
}

fn remove(block: *mut u8, layout: Layout) {
    ASKED.fetch_sub(layout.size(), Relaxed);
    TAKEN.fetch_sub(taken(block), Relaxed);
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here.
        add(unsafe { System.alloc(layout) }, layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        add(unsafe { System.alloc_zeroed(layout) }, layout)
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let before = taken(block);
        // SAFETY: `block` came from here, so it came from the system's allocator with this layout.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            ASKED.fetch_add(size, Relaxed);
            ASKED.fetch_sub(layout.size(), Relaxed);
            TAKEN.fetch_add(taken(moved), Relaxed);
            TAKEN.fetch_sub(before, Relaxed);
        }
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        remove(block, layout);
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
