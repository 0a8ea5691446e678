//! From one thread to another and back: through a slot both look at, through a slot and an eventfd, and over UDP on loopback.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use super::Effort;
use super::spread::{Batches, Spread};

/// Round trips timed together.
const BATCH: u32 = 50;
/// Looks at a slot before the CPU is offered to others: they may be what is waited for, where there are fewer CPUs than threads.
const LOOKS_MAX: u32 = 5_000;
/// After this a datagram on loopback is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// After this no further batch is begun. On a busy machine every hop may wait for a time slice of somebody else.
const TIME_MAX: Duration = Duration::from_secs(1);
/// The number that tells the other thread to end. No round has it: rounds are below [`ROUNDS_MAX`].
const END: u32 = u32::MAX;
/// Most round trips of one measurement.
const ROUNDS_MAX: u32 = 1_000_000;

/// A slot each way; a cache line each, so that a look at one does not take the other's.
#[derive(Default)]
struct Slots {
    there: Slot,
    back: Slot,
}

#[derive(Default)]
#[repr(align(128))]
struct Slot(AtomicU32);

impl Slot {
    fn put(&self, number: u32) {
        self.0.store(number, Ordering::Release);
    }

    /// Looks until the slot holds another number than `last`.
    fn take(&self, last: u32) -> u32 {
        let mut looks = 0;
        loop {
            let number = self.0.load(Ordering::Acquire);
            if number != last {
                return number;
            }
            looks += 1;
            if looks % LOOKS_MAX == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// Half of a round trip through two slots that are looked at all the time.
pub(super) fn spin(effort: Effort) -> io::Result<Spread> {
    let slots = Arc::new(Slots::default());
    let theirs = Arc::clone(&slots);
    let echo = thread("floor-spin", move || {
        let mut last = 0;
        loop {
            last = theirs.there.take(last);
            theirs.back.put(last);
            if last == END {
                return Ok(());
            }
        }
    })?;
    let spread = trips(effort.count(2_000), |number| {
        slots.there.put(number);
        while slots.back.take(number - 1) != number {}
        Ok(())
    });
    slots.there.put(END);
    join(echo)?;
    spread
}

/// Half of a round trip through two slots whose readers sleep on an eventfd.
pub(super) fn eventfd(effort: Effort) -> io::Result<Spread> {
    let slots = Arc::new(Slots::default());
    let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map(Arc::new);
    let (there, back) = (bell()?, bell()?);
    let (theirs, their_there, their_back) = (Arc::clone(&slots), Arc::clone(&there), Arc::clone(&back));
    let echo = thread("floor-eventfd", move || {
        loop {
            sleep(&their_there)?;
            let number = theirs.there.0.load(Ordering::Acquire);
            theirs.back.put(number);
            ring(&their_back)?;
            if number == END {
                return Ok(());
            }
        }
    })?;
    let spread = trips(effort.count(500), |number| {
        slots.there.put(number);
        ring(&there)?;
        sleep(&back)?;
        match slots.back.0.load(Ordering::Acquire) == number {
            true => Ok(()),
            false => Err(io::Error::other("a hop between two threads brought the wrong number")),
        }
    });
    slots.there.put(END);
    ring(&there)?;
    join(echo)?;
    spread
}

/// Round trips over UDP on loopback, with sockets that block and a rest before each.
pub(super) fn udp(count: u32, rest: Duration) -> io::Result<Spread> {
    let (here, there) = (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
    here.connect(there.local_addr()?)?;
    there.connect(here.local_addr()?)?;
    here.set_read_timeout(Some(LOST_AFTER))?;
    there.set_read_timeout(Some(LOST_AFTER))?;
    let echo = thread("floor-udp", move || {
        let mut number = [0; 4];
        loop {
            there.recv(&mut number)?;
            there.send(&number)?;
            if u32::from_le_bytes(number) == END {
                return Ok(());
            }
        }
    })?;
    let trip = |number: u32| {
        let mut answer = [0; 4];
        here.send(&number.to_le_bytes())?;
        here.recv(&mut answer)?;
        match answer == number.to_le_bytes() {
            true => Ok(()),
            false => Err(io::Error::other("a datagram on loopback brought the wrong number")),
        }
    };
    let mut times = Batches::new()?;
    let end = Instant::now() + TIME_MAX;
    let mut numbers = (1..=count).take_while(|_| Instant::now() < end);
    let measured = numbers.try_for_each(|number| {
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        times.time(1, || trip(number))
    });
    here.send(&END.to_le_bytes())?;
    join(echo)?;
    measured.map(|()| times.spread())
}

/// `batches` of round trips; the spread is of half a trip.
fn trips(batches: u32, mut trip: impl FnMut(u32) -> io::Result<()>) -> io::Result<Spread> {
    let mut times = Batches::new()?;
    let batches = batches.min(ROUNDS_MAX / BATCH);
    let end = Instant::now() + TIME_MAX;
    for batch in (0..batches).take_while(|_| Instant::now() < end) {
        // Two hops a trip.
        times.time(BATCH * 2, || (1..=BATCH).try_for_each(|trip_of| trip(batch * BATCH + trip_of)))?;
    }
    Ok(times.spread())
}

fn thread(
    name: &str,
    body: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the other thread of a floor measurement panicked")))
}

fn ring(bell: &OwnedFd) -> io::Result<()> {
    rustix::io::write(bell, &1_u64.to_ne_bytes())?;
    Ok(())
}

fn sleep(bell: &OwnedFd) -> io::Result<()> {
    let mut count = [0; 8];
    loop {
        match rustix::io::read(bell, &mut count).map_err(io::Error::from) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
