//! QUIC on a whole shard: its turns from the packet that comes in, or from the log, until packets are given to the kernel. The kernel's part
//! is not counted, the clients' neither.

use super::path::{Path, Round};
use crate::meter::Nobody;
use crate::quic_crowd::QuicCrowd;

/// Unit: bytes of body.
const BODY_SIZE: usize = 200;
/// Unit: clients.
const CLIENTS: usize = 100;
/// Clients that come at once. Unit: clients.
const STORM: usize = 8;
/// See [`STORM`].
const STORM_COUNT: u64 = STORM as u64;

const QUIC: Path = Path {
    name: "",
    iteration: "a recipient",
    count: CLIENTS as u64,
    warm_up: 4,
    rounds: 8,
    has_crypto: true,
    set_up: send,
};
const COMING: Path = Path { iteration: "a connection", count: STORM_COUNT, warm_up: 1, rounds: 4, ..QUIC };

pub(super) const PATHS: [Path; 5] = [
    // From the durable message until a packet for each is given to the kernel.
    Path { name: "quic/fan_out/send/100", ..QUIC },
    // The acknowledgements of it, one from each.
    Path { name: "quic/fan_out/ack/100", set_up: ack, ..QUIC },
    // A ping of a client that keeps its connection alive, and the answer.
    Path { name: "quic/keep_alive", iteration: "a ping", set_up: keep_alive, ..QUIC },
    // From the first packet until the handshake is confirmed.
    Path { name: "quic/handshake", set_up: handshake, ..COMING },
    // From the hello until the welcome is acknowledged, with the check of the token and the membership of one group.
    Path { name: "quic/hello", set_up: hello, ..COMING },
];

fn send() -> Round {
    let mut crowd = QuicCrowd::present(CLIENTS, BODY_SIZE);
    Box::new(move |meter| crowd.fan_out(meter, &mut Nobody))
}

fn ack() -> Round {
    let mut crowd = QuicCrowd::present(CLIENTS, BODY_SIZE);
    Box::new(move |meter| crowd.fan_out(&mut Nobody, meter))
}

fn keep_alive() -> Round {
    let mut crowd = QuicCrowd::present(CLIENTS, BODY_SIZE);
    Box::new(move |meter| crowd.keep_alive(meter))
}

/// Rounds go on with more clients of the same server; when all of the group are in, they begin anew.
fn storm() -> QuicCrowd {
    QuicCrowd::absent(CLIENTS, BODY_SIZE)
}

fn handshake() -> Round {
    let mut crowd = storm();
    Box::new(move |meter| {
        if crowd.absentees() < STORM {
            crowd = storm();
        }
        crowd.handshake(STORM, meter);
        crowd.hello(&mut Nobody);
    })
}

fn hello() -> Round {
    let mut crowd = storm();
    Box::new(move |meter| {
        if crowd.absentees() < STORM {
            crowd = storm();
        }
        crowd.handshake(STORM, &mut Nobody);
        crowd.hello(meter);
    })
}
