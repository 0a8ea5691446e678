//! What every driver must do, whichever runtime it is of: end a sleep for each of its reasons, and for no reason forget one.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::ring::Bell;
use crate::slots::Key;

const NOTHING: UdpInterest = UdpInterest { read: false, write: false };
const READ: UdpInterest = UdpInterest { read: true, write: false };
/// Only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a test is given.
struct Place {
    driver: Driver,
    udp: UdpSocket,
    bell: Bell,
}

/// Runs a test with each driver of this build; the first is epoll too where io_uring is forbidden.
fn with_each(test: impl AsyncFn(Place)) {
    const ALL: &[DriverKind] = &[
        DriverKind::Auto,
        DriverKind::Epoll,
        #[cfg(feature = "glommio")]
        DriverKind::Glommio,
    ];
    for kind in ALL {
        let (mut runtime, _) = Runtime::new(*kind).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let bell = Bell::new().unwrap();
        runtime.block_on(async {
            let driver = Driver::new(&udp, &bell, Instant::now()).unwrap();
            test(Place { driver, udp, bell }).await;
        });
    }
}

#[test]
fn a_deadline_ends_a_sleep_and_so_does_an_earlier_one_after_it() {
    with_each(async |Place { mut driver, bell, .. }| {
        bell.ring_always();
        let far = Instant::now() + PATIENCE;
        assert!(driver.wait(NOTHING, Some(far)).await.bell);
        bell.clear();
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_millis(5);
            let woken = driver.wait(NOTHING, Some(until)).await;
            assert!(Instant::now() >= until && !woken.bell && !woken.udp.read);
        }
    });
}

#[test]
fn a_bell_rung_by_another_thread_ends_a_sleep_each_time() {
    with_each(async |Place { mut driver, bell, .. }| {
        let (ask, asked) = std::sync::mpsc::channel();
        let bell = Arc::new(bell);
        let other = Arc::clone(&bell);
        let ringer = std::thread::spawn(move || asked.iter().for_each(|()| other.ring_always()));
        for _ in 0..100 {
            ask.send(()).unwrap();
            assert!(driver.wait(NOTHING, Some(Instant::now() + PATIENCE)).await.bell);
            bell.clear();
        }
        drop(ask);
        ringer.join().unwrap();
    });
}

#[test]
fn a_datagram_ends_a_sleep_only_for_who_is_interested() {
    with_each(async |Place { mut driver, udp, bell }| {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            peer.send_to(b"x", udp.local_addr().unwrap()).unwrap();
            let woken = driver.wait(NOTHING, Some(Instant::now() + Duration::from_micros(10))).await;
            assert!(!woken.udp.read);
            assert!(driver.wait(READ, Some(Instant::now() + PATIENCE)).await.udp.read);
            assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 1);
        }
        // Nothing is left of what was there.
        bell.ring_always();
        let woken = driver.wait(READ, Some(Instant::now() + PATIENCE)).await;
        assert!(woken.bell && !woken.udp.read);
    });
}

/// Sleeps until a socket is ready, and returns for what.
async fn ready(driver: &mut Driver) -> Vec<(Key, Readiness)> {
    let mut found = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while found.is_empty() && Instant::now() < deadline {
        driver.wait(NOTHING, Some(deadline)).await;
        driver.take_tcp(&mut found);
    }
    found
}

/// A socket on the shard and its peer.
fn connected(driver: &Driver) -> (Tcp, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (driver.adopt(listener.accept().unwrap().0).unwrap(), peer)
}

/// Writes until there is no room. Returns how much.
fn fill(mut tcp: &Tcp) -> usize {
    let mut written = 0;
    loop {
        match tcp.write(&[0; 1 << 16]) {
            Ok(size) => written += size,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return written;
            }
        }
    }
}

#[test]
fn a_tcp_socket_is_reported_once_per_watch_for_reading_and_for_writing() {
    with_each(async |Place { mut driver, .. }| {
        let (tcp, mut peer) = connected(&driver);
        let key = Key::from_raw(7);
        driver.watch(&tcp, Readiness::Read, key);
        driver.watch(&tcp, Readiness::Read, key);
        peer.write_all(b"hello").unwrap();
        assert_eq!(ready(&mut driver).await, [(key, Readiness::Read)]);
        assert_eq!((&tcp).read(&mut [0; 16]).unwrap(), 5);
        assert_eq!((&tcp).read(&mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let written = fill(&tcp);
        driver.watch(&tcp, Readiness::Write, key);
        peer.read_exact(&mut vec![0; written]).unwrap();
        assert_eq!(ready(&mut driver).await, [(key, Readiness::Write)]);
        assert!(fill(&tcp) > 0);
    });
}

/// Goal: a shard that always has more to do, which is what a rung bell says, still hears of its sockets.
#[test]
fn a_shard_that_never_sleeps_hears_of_its_tcp_sockets() {
    with_each(async |Place { mut driver, bell, .. }| {
        let (tcp, mut peer) = connected(&driver);
        let key = Key::from_raw(7);
        let mut found = Vec::new();
        for turn in 0..100 {
            // Only when the driver knows the bell: at first it asks the kernel for everything at once.
            if turn == 10 {
                driver.watch(&tcp, Readiness::Read, key);
                peer.write_all(b"hello").unwrap();
            }
            bell.ring_always();
            assert!(driver.wait(NOTHING, Some(Instant::now() + PATIENCE)).await.bell);
            bell.clear();
            driver.take_tcp(&mut found);
        }
        assert_eq!(found, [(key, Readiness::Read)]);
    });
}

#[test]
fn whoever_ends_a_connection_ends_the_wait_for_it() {
    with_each(async |Place { mut driver, .. }| {
        let key = Key::from_raw(7);
        let (tcp, peer) = connected(&driver);
        driver.watch(&tcp, Readiness::Read, key);
        drop(peer);
        assert_eq!(ready(&mut driver).await, [(key, Readiness::Read)]);

        for readiness in [Readiness::Read, Readiness::Write] {
            let (tcp, _peer) = connected(&driver);
            fill(&tcp);
            driver.watch(&tcp, readiness, key);
            drop(tcp);
            assert_eq!(ready(&mut driver).await, [(key, readiness)]);
        }
    });
}
