//! WebSocket on a whole shard: its turns from the log, or from the bytes that come in, until records are given to the kernel, whose part is not
//! counted. The TLS handshake and the upgrade are the control plane's.

use super::path::{Path, Round};
use crate::websocket_crowd::WebSocketCrowd;

/// Unit: bytes of body.
const BODY_SIZE: usize = 200;
/// Unit: clients.
const CLIENTS: usize = 100;
/// Clients that come at once. Unit: clients.
const STORM: usize = 8;
/// See [`STORM`].
const STORM_COUNT: u64 = STORM as u64;

const WEBSOCKET: Path = Path {
    name: "websocket/fan_out/100",
    iteration: "a recipient",
    count: CLIENTS as u64,
    warm_up: 4,
    rounds: 8,
    has_crypto: true,
    set_up: fan_out,
};

pub(super) const PATHS: [Path; 2] = [
    // From the durable message until a record for each is given to the kernel.
    WEBSOCKET,
    // From the hello until the welcome is given to the kernel, with the check of the token and the membership of one group.
    Path {
        name: "websocket/hello",
        iteration: "a session",
        count: STORM_COUNT,
        warm_up: 1,
        rounds: 4,
        set_up: hello,
        ..WEBSOCKET
    },
];

fn fan_out() -> Round {
    let mut crowd = WebSocketCrowd::partly(CLIENTS, CLIENTS, BODY_SIZE);
    Box::new(move |meter| crowd.fan_out(meter))
}

fn hello() -> Round {
    let mut crowd = WebSocketCrowd::absent(CLIENTS, BODY_SIZE);
    Box::new(move |meter| {
        if crowd.absentees() < STORM {
            crowd = WebSocketCrowd::absent(CLIENTS, BODY_SIZE);
        }
        crowd.connect(STORM);
        crowd.hello(meter);
    })
}
