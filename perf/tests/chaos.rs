//! The bad network through real sockets: everything that is sent comes back through it as the counters say, and a seed replays.
//! Loopback only. Waits for packets, never for time; what is lost is known from the counters, not from a timeout.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tern_perf::chaos::{Chaos, ChaosPlan, Counters, Event, Impairment, Reorder};

/// How long anything may take before the test counts as hung. Unit: time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the counters. Unit: time.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

/// Sends everything back, UDP and TCP, until the process ends; the channel says from which addresses datagrams came.
fn echo() -> (SocketAddr, Receiver<SocketAddr>) {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let (seen, addresses) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((size, from)) = udp.recv_from(&mut buffer) {
            let _ = seen.send(from);
            let _ = udp.send_to(&buffer[..size], from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut &stream, &mut writer);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    (address, addresses)
}

fn client(chaos: &Chaos) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(chaos.quic()).unwrap();
    socket
}

/// Looks at the counters until they say what is asked.
fn until(chaos: &Chaos, what: &str, done: impl Fn(&Counters) -> bool) -> Counters {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let counters = chaos.counters();
        if done(&counters) {
            return counters;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: {counters:?}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Numbered datagrams through a bad network, each sent when the fate of the one before is known; which came back, in order.
fn volley(plan: ChaosPlan, count: u32) -> (Vec<u32>, Counters) {
    let chaos = Chaos::start(plan).unwrap();
    let socket = client(&chaos);
    let mut came = Vec::new();
    let mut expected = 0;
    for number in 0..count {
        socket.send(&number.to_le_bytes()).unwrap();
        // Up: it arrives, perhaps twice, or it does not. Each arrival comes down again, or does not.
        let counters = until(&chaos, "every datagram meets its fate", |counters| {
            counters.udp_up.offered == u64::from(number) + 1
                && counters.udp_down.offered == counters.udp_up.arrived + counters.udp_up.duplicated
        });
        let down = counters.udp_down;
        while expected < down.arrived + down.duplicated {
            let mut buffer = [0; 16];
            assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
            came.push(u32::from_le_bytes(buffer[..4].try_into().unwrap()));
            expected += 1;
        }
    }
    (came, chaos.stop().unwrap())
}

#[test]
fn datagrams_are_lost_and_doubled_as_the_counters_say_and_a_seed_replays() {
    let (server, _addresses) = echo();
    let bad = Impairment { loss: 0.1, duplicate: 0.05, delay: Duration::from_micros(200), ..Impairment::NONE };
    let plan = |seed| ChaosPlan { up: bad, down: bad, ..ChaosPlan::lossy(seed, server, 0.0, Duration::ZERO) };
    let (came, counters) = volley(plan(11), 400);
    let (up, down) = (counters.udp_up, counters.udp_down);
    assert_eq!(up.offered, 400);
    assert_eq!(up.arrived + up.lost, up.offered);
    assert_eq!(down.arrived + down.lost, down.offered);
    assert_eq!(came.len() as u64, down.arrived + down.duplicated);
    assert!(up.lost > 0 && down.lost > 0 && up.duplicated > 0 && down.duplicated > 0, "{counters:?}");
    assert!(came.is_sorted(), "nothing was to be reordered");
    assert_eq!((counters.socket_errors, counters.refused, counters.udp_flows), (0, 0, 1));
    let (again, same) = volley(plan(11), 400);
    assert_eq!((&came, counters), (&again, same), "an equal seed is an equal run, whatever the timing");
    let (other, different) = volley(plan(12), 400);
    assert_ne!((&came, counters.udp_digest), (&other, different.udp_digest));
}

#[test]
fn a_large_send_meets_its_fate_datagram_by_datagram() {
    let (server, _addresses) = echo();
    let chaos = Chaos::start(ChaosPlan::lossy(1, server, 0.0, Duration::ZERO)).unwrap();
    let socket = client(&chaos);
    // One call of the kernel, twenty datagrams: what quinn does with segmentation offload.
    let state = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
    let segments = state.max_gso_segments().min(20);
    let contents = vec![7; 1_200 * segments];
    let transmit = quinn_udp::Transmit {
        destination: chaos.quic(),
        ecn: None,
        contents: &contents,
        segment_size: Some(1_200),
        src_ip: None,
    };
    state.send((&socket).into(), &transmit).unwrap();
    let counters = until(&chaos, "all arrive", |counters| counters.udp_down.arrived == segments as u64);
    assert_eq!(counters.udp_up.offered, segments as u64);
}

#[test]
fn an_address_change_is_seen_by_the_server_and_the_client_notices_nothing() {
    let (server, addresses) = echo();
    let chaos = Chaos::start(ChaosPlan::lossy(1, server, 0.0, Duration::from_millis(1))).unwrap();
    let socket = client(&chaos);
    let mut from = Vec::new();
    for number in 0..3_u32 {
        socket.send(&number.to_le_bytes()).unwrap();
        let mut buffer = [0; 16];
        socket.recv(&mut buffer).unwrap();
        from.push(addresses.recv_timeout(PATIENCE).unwrap());
        chaos.apply(Event::AddressChange).unwrap();
        until(&chaos, "the change", |counters| counters.address_changes == u64::from(number) + 1);
    }
    from.dedup();
    assert_eq!(from.len(), 3);
}

#[test]
fn a_blackout_of_the_schedule_takes_everything() {
    let (server, _addresses) = echo();
    let mut plan = ChaosPlan::lossy(1, server, 0.0, Duration::ZERO);
    plan.schedule = vec![(Duration::ZERO, Event::Blackout(Duration::from_secs(3_600)))];
    let chaos = Chaos::start(plan).unwrap();
    let socket = client(&chaos);
    for _ in 0..10 {
        socket.send(b"anybody?").unwrap();
    }
    let counters = until(&chaos, "all are gone", |counters| counters.udp_up.blacked_out == 10);
    assert_eq!((counters.udp_up.arrived, counters.udp_down.offered), (0, 0));
}

#[test]
fn a_stream_arrives_whole_through_losses_and_ends_when_it_ended() {
    let (server, _addresses) = echo();
    let reorder = Reorder { probability: 0.02, extra: Duration::from_millis(2) };
    let bad = Impairment { loss: 0.05, duplicate: 0.02, reorder, delay: Duration::from_millis(1), ..Impairment::NONE };
    let plan = ChaosPlan { up: bad, down: bad, ..ChaosPlan::lossy(5, server, 0.0, Duration::ZERO) };
    let chaos = Chaos::start(plan).unwrap();
    let clients: Vec<_> = (0..3_u8)
        .map(|number| {
            let address = chaos.tcp();
            std::thread::spawn(move || {
                let sent: Vec<u8> = (0..200_000_u32).map(|at| (at % 251).to_le_bytes()[0] ^ number).collect();
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let copy = sent.clone();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&copy).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut came = Vec::new();
                (&stream).read_to_end(&mut came).unwrap();
                writing.join().unwrap();
                assert!(came == sent, "the stream of client {number} was changed");
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    let counters = until(&chaos, "all flows end", |counters| counters.flows_ended == 3);
    assert!(counters.tcp_up.lost > 0 && counters.tcp_down.lost > 0 && counters.recovery.fast_retransmits > 0);
    assert_eq!((counters.tcp_flows, counters.socket_errors, counters.refused), (3, 0, 0));
}

#[test]
fn an_address_change_cuts_a_tcp_connection_when_it_next_speaks() {
    let (server, _addresses) = echo();
    let chaos = Chaos::start(ChaosPlan::lossy(1, server, 0.0, Duration::from_millis(1))).unwrap();
    let mut stream = TcpStream::connect(chaos.tcp()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut buffer).unwrap();
    chaos.apply(Event::AddressChange).unwrap();
    until(&chaos, "it is severed", |counters| counters.severed == 1);
    stream.write_all(b"hello").unwrap();
    let ended = stream.read(&mut buffer).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_plan_that_cannot_be_says_what_to_mend() {
    let server = SocketAddr::from(([127, 0, 0, 1], 9));
    let refused = Chaos::start(ChaosPlan::lossy(1, server, 2.0, Duration::ZERO)).unwrap_err();
    assert!(refused.to_string().contains("from 0 to 1"), "{refused}");
    let mut plan = ChaosPlan::lossy(1, server, 0.0, Duration::ZERO);
    let none = Impairment { bandwidth: Some(0), ..Impairment::NONE };
    plan.schedule = vec![(Duration::from_secs(1), Event::Change { up: Impairment::NONE, down: none })];
    let refused = Chaos::start(plan).unwrap_err();
    assert!(refused.to_string().contains("bandwidth"), "{refused}");
}
