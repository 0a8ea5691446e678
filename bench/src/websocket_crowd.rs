//! A server and WebSocket clients, logged in and members of one group. Measures the server's turns, and nothing of the clients, which are a TLS
//! session on a socket each and count the frames they get.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use tern_edge::node::HandedSocket;
use tern_protocol::frame;

use crate::group::Group;
use crate::meter::{Meter, Nobody};
use crate::site::Site;

/// Times that a side is looked at before it counts as silent for ever. Unit: looks.
const LOOKS_MAX: usize = 10_000;

/// Both sides.
pub struct WebSocketCrowd {
    group: Group,
    tls: Arc<rustls::ClientConfig>,
    listener: TcpListener,
    clients: Vec<Client>,
    /// Clients that have said hello.
    said: usize,
}

struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
    inbound: BytesMut,
    frames: u64,
}

impl WebSocketCrowd {
    /// A group of so many members, of whom nobody is connected. `body_size`: of each message, in bytes.
    ///
    /// # Panics
    /// When there is no port to listen on.
    #[must_use]
    pub fn absent(members: usize, body_size: usize) -> Self {
        let group = Group::new(members, body_size);
        let tls = Arc::new(group.site.client_tls(b"http/1.1"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self { group, tls, listener, clients: Vec::new(), said: 0 }
    }

    /// The same, with so many connected, logged in, and quiet for some seconds.
    #[must_use]
    pub fn partly(members: usize, connected: usize, body_size: usize) -> Self {
        let mut this = Self::absent(members, body_size);
        this.connect(connected);
        this.hello(&mut Nobody);
        this.settle();
        this
    }

    /// Members who have no client yet.
    #[must_use]
    pub fn absentees(&self) -> usize {
        self.group.members.len() - self.clients.len()
    }

    /// Connects as many more, and gives the server's ends to the shard as the control plane does after the upgrade.
    ///
    /// # Panics
    /// When the machine has no socket left.
    pub fn connect(&mut self, count: usize) {
        for _ in 0..count {
            let address = self.listener.local_addr().expect("it listens");
            let mut client = TcpStream::connect(address).expect("it listens");
            let (mut server, _) = self.listener.accept().expect("somebody has connected");
            client.set_nonblocking(true).expect("a socket");
            server.set_nonblocking(true).expect("a socket");
            client.set_nodelay(true).expect("a socket");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut near = ClientConnection::new(Arc::clone(&self.tls), name).expect("a valid configuration");
            let mut far = ServerConnection::new(Arc::clone(self.group.site.tcp_tls())).expect("a valid configuration");
            let looks = (0..LOOKS_MAX).find(|_| {
                near.complete_io(&mut client).map_or_else(ignore_block, drop);
                far.complete_io(&mut server).map_or_else(ignore_block, drop);
                !near.is_handshaking() && !far.is_handshaking() && !far.wants_write()
            });
            assert!(looks.is_some(), "the handshake ends");
            self.group.site.hand_over(HandedSocket { tcp: server, tls: far, read_buf: Bytes::new() });
            self.group.site.turns();
            self.clients.push(Client { tcp: client, tls: near, inbound: BytesMut::new(), frames: 0 });
        }
    }

    /// Says hello for the clients that have not. Measures the server's part, until its welcome is on its way.
    ///
    /// # Panics
    /// When one of them is not welcome.
    pub fn hello(&mut self, meter: &mut dyn Meter) {
        let clients = self.said..self.clients.len();
        self.said = clients.end;
        let goal = self.frames() + clients.len() as u64;
        for client in clients {
            let hello = self.group.hello(client);
            self.clients[client].say(&hello);
        }
        self.turns_until(goal, meter);
    }

    /// One message to everybody. Measures from the durable command until every record is given to its socket.
    ///
    /// # Panics
    /// When somebody does not get it, once.
    pub fn fan_out(&mut self, meter: &mut dyn Meter) {
        self.group.site.pass(Duration::from_secs(1));
        let goal = self.frames() + self.clients.len() as u64;
        self.group.post();
        self.turns_until(goal, meter);
        assert_eq!(self.frames(), goal, "everybody gets it once");
    }

    /// Lets some seconds pass.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            self.group.site.turns();
            self.receive();
            self.group.site.pass(Duration::from_millis(500));
        }
        self.group.site.turns();
    }

    /// What is left when the clients have been dropped and the server was not told: their sockets stay open.
    #[must_use]
    pub fn leave(self) -> (Site, Vec<TcpStream>) {
        (self.group.site, self.clients.into_iter().map(|client| client.tcp).collect())
    }

    fn turns_until(&mut self, goal: u64, meter: &mut dyn Meter) {
        let looks = (0..LOOKS_MAX).find(|_| {
            meter.measure(&mut || self.group.site.turns());
            self.receive();
            self.frames() >= goal
        });
        assert!(looks.is_some(), "never done: {:?}", self.group.site.counters());
    }

    fn frames(&self) -> u64 {
        self.clients.iter().map(|client| client.frames).sum()
    }

    fn receive(&mut self) {
        for client in &mut self.clients {
            client.receive();
        }
    }
}

impl Client {
    /// Sends one binary message, masked with zeros: unmasking costs the same.
    fn say(&mut self, frame: &[u8]) {
        let size = u16::try_from(frame.len()).expect("a bench says little");
        let mut message = vec![0x82, 0x80 | 126];
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(frame);
        self.tls.writer().write_all(&message).expect("its buffer is empty");
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp).expect("the loopback takes it");
        }
    }

    fn receive(&mut self) {
        loop {
            match self.tls.read_tls(&mut self.tcp) {
                Ok(0) => panic!("the server has closed"),
                Ok(_) => drop(self.tls.process_new_packets().expect("valid TLS")),
                Err(error) => {
                    ignore_block(error);
                    break;
                }
            }
        }
        let mut buffer = [0; 4096];
        while let Ok(size) = self.tls.reader().read(&mut buffer) {
            self.inbound.extend_from_slice(&buffer[..size]);
        }
        while let Some(message) = take_message(&mut self.inbound) {
            let is_whole = frame::size(&message).is_ok_and(|size| size == Some(message.len()));
            assert!(is_whole && frame::open(&message).is_ok(), "a message is a frame");
            self.frames += 1;
        }
    }
}

/// The next binary message of a server, which does not mask and does not fragment.
fn take_message(inbound: &mut BytesMut) -> Option<Bytes> {
    let [first, second, rest @ ..] = &**inbound else { return None };
    assert_eq!(*first, 0x82, "a whole binary message");
    let (header, size) = match second {
        126 => (4, usize::from(u16::from_be_bytes(*rest.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).expect("a size")),
        short => (2, usize::from(*short)),
    };
    if inbound.len() < header + size {
        return None;
    }
    inbound.advance(header);
    Some(inbound.split_to(size).freeze())
}

fn ignore_block(error: io::Error) {
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
}

impl fmt::Debug for WebSocketCrowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketCrowd").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}
