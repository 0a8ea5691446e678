//! What delivering costs in memory: allocations are counted and addresses compared. Never looks at a clock.
#![expect(unsafe_code, reason = "counting allocations means standing in for the allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tern_bench::Room;
use tern_core_shard::io::Table;

/// Unit: bytes of body.
const BODY_SIZE: usize = 200;
/// Messages before the count begins. Unit: messages. Twice what a conversation keeps whole, so that their buffers have their size.
const WARM_UP: u64 = 2 * tern_protocol::limit::DEDUP_WINDOW;
/// The same where every buffer must have its size, that of the remembered requests too: more than a conversation remembers at most.
const WARM_UP_WHOLE: u64 = 3_000;
/// Messages that are counted. Unit: messages.
const COUNTED: u64 = 128;
/// Most allocations that a message may take until it is applied and delivered. Unit: allocations.
/// The event's frame and its sharing, the keys and values of three rows, the lists that hold them, and a tree's node now and then.
const MESSAGE_MAX: u64 = 18;

/// The system's allocator, and how often this thread has asked it for memory.
struct Counting;

thread_local! {
    /// Needs neither memory nor a destructor of its own, so the allocator may use it at any time.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending is not counted.
    COUNT.try_with(|count| count.set(count.get() + 1)).ok();
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from here, so it came from the system's allocator with this layout.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of each of `COUNTED` messages, from the durable command until every session's frame was taken and dropped.
fn allocations(room: &mut Room, audience: usize, warm_up: u64) -> Vec<u64> {
    let deliver = |room: &mut Room| {
        let logged = room.next_message();
        let before = COUNT.get();
        room.fixture.apply(logged);
        let taken = room.fixture.take_frames(|_, _| {});
        let after = COUNT.get();
        assert_eq!(taken, audience, "everybody gets it once");
        after - before
    };
    for _ in 0..warm_up {
        deliver(room);
    }
    (0..COUNTED).map(|_| deliver(room)).collect()
}

#[test]
fn a_delivery_allocates_nothing_for_each_recipient() {
    let (few, many) = (100, 10_000);
    let for_few = allocations(&mut Room::audience(few, 0, BODY_SIZE), few, WARM_UP);
    let for_many = allocations(&mut Room::audience(many, 0, BODY_SIZE), many, WARM_UP);
    println!("allocations per message, {few} recipients: {for_few:?}");
    println!("allocations per message, {many} recipients: {for_many:?}");
    // Trees of request ids split a node now and then, at another message in each room: hence the least, and the sum.
    assert_eq!(for_few.iter().min(), for_many.iter().min(), "the same for ten thousand as for a hundred");
    let difference = for_many.iter().sum::<u64>().abs_diff(for_few.iter().sum());
    assert!(difference < COUNTED, "{difference} more or fewer in {COUNTED} messages");
}

#[test]
fn members_who_are_offline_cost_no_allocation() {
    let online = 100;
    let all_online = allocations(&mut Room::audience(online, 0, BODY_SIZE), online, WARM_UP);
    let few_online = allocations(&mut Room::audience(online, 9, BODY_SIZE), online, WARM_UP);
    assert_eq!(all_online.iter().min(), few_online.iter().min());
}

#[test]
fn a_message_takes_a_bounded_number_of_allocations() {
    let most = allocations(&mut Room::audience(1, 0, BODY_SIZE), 1, WARM_UP_WHOLE).into_iter().max();
    assert!(most <= Some(MESSAGE_MAX), "{most:?}");
}

#[test]
fn every_recipient_is_sent_the_memory_that_the_view_keeps() {
    let audience = 1_000;
    let mut room = Room::audience(audience, 1, BODY_SIZE);
    let logged = room.next_message();
    room.fixture.apply(logged);
    let event = room.fixture.last_rows().iter().find(|row| row.table == Table::Events).expect("a message is stored");
    let event = event.value.clone().expect("with its frame");
    let taken = room.fixture.take_frames(|_, frame| {
        assert_eq!((frame.as_ptr(), frame.len()), (event.as_ptr(), event.len()), "not a copy");
    });
    assert_eq!(taken, audience);
}

#[test]
fn a_command_in_the_log_is_the_memory_that_the_client_s_frame_arrived_in() {
    let mut room = Room::direct(BODY_SIZE);
    let session = room.session.expect("the sender is online");
    let frame = room.next_frame();
    let before = COUNT.get();
    let (_, record) = room.fixture.accept(session, frame.clone());
    let allocated = COUNT.get() - before;
    assert_eq!((record.frame.as_ptr(), record.frame.len()), (frame.as_ptr(), frame.len()), "not a copy");
    println!("allocations from frame to command: {allocated}");
}
