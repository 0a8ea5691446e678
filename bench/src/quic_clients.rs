//! Many QUIC clients without threads: quinn-proto connections over a few UDP sockets, moved by hand. They say what they are told to and count
//! the frames they get. Never measured: they are what the server talks to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, StreamEvent,
    StreamId, TransportConfig, VarInt,
};
use tern_protocol::frame;
use tern_protocol::limit::DELIVERY_LANE_COUNT;

use crate::site::Site;

/// Clients that share a socket. Unit: connections. Few enough that what all of them are sent in a turn fits its receive buffer.
const PER_SOCKET: usize = 32;
/// Largest datagram of a server that does not probe for more. Unit: bytes.
const DATAGRAM_SIZE_MAX: usize = 2048;

/// Clients of one server.
pub struct QuicClients {
    server: SocketAddr,
    config: ClientConfig,
    sockets: Vec<Socket>,
    clients: Vec<Client>,
    packet: Vec<u8>,
    seed: u8,
}

struct Socket {
    udp: UdpSocket,
    endpoint: Endpoint,
    /// Which client a connection of the endpoint is.
    owners: BTreeMap<usize, usize>,
}

struct Client {
    socket: usize,
    handle: ConnectionHandle,
    connection: Connection,
    control: Option<StreamId>,
    inbound: BTreeMap<StreamId, BytesMut>,
    is_connected: bool,
    is_lost: bool,
    frames: u64,
}

impl QuicClients {
    /// No client yet. `seed`: of what they draw at random.
    ///
    /// # Panics
    /// When TLS cannot be set up: never.
    #[must_use]
    pub fn new(site: &Site, seed: u8) -> Self {
        let crypto = QuicClientConfig::try_from(site.client_tls(b"tern/1")).expect("TLS 1.3 with AES-128-GCM");
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(u32::try_from(DELIVERY_LANE_COUNT).expect("a few")))
            .max_idle_timeout(None)
            .mtu_discovery_config(None);
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        Self { server: site.address(), config, sockets: Vec::new(), clients: Vec::new(), packet: Vec::new(), seed }
    }

    /// Begins to connect. Returns the client's number.
    ///
    /// # Panics
    /// When there is no socket to be had.
    pub fn connect(&mut self, now: Instant) -> usize {
        let client = self.clients.len();
        if client.is_multiple_of(PER_SOCKET) {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            udp.set_nonblocking(true).expect("a socket");
            let mut config = EndpointConfig::default();
            let mut seed = [self.seed; 32];
            seed[..8].copy_from_slice(&(client as u64).to_le_bytes());
            config.rng_seed(Some(seed));
            let endpoint = Endpoint::new(Arc::new(config), None, true, None);
            self.sockets.push(Socket { udp, endpoint, owners: BTreeMap::new() });
        }
        let index = self.sockets.len() - 1;
        let socket = &mut self.sockets[index];
        let (handle, connection) =
            socket.endpoint.connect(now, self.config.clone(), self.server, "localhost").expect("a valid configuration");
        socket.owners.insert(handle.0, client);
        self.clients.push(Client {
            socket: index,
            handle,
            connection,
            control: None,
            inbound: BTreeMap::new(),
            is_connected: false,
            is_lost: false,
            frames: 0,
        });
        client
    }

    /// Opens the control stream if there is none, and writes to it.
    ///
    /// # Panics
    /// When the stream does not take it: a bench says little.
    pub fn say(&mut self, client: usize, bytes: &[u8]) {
        let Client { connection, control, .. } = &mut self.clients[client];
        let stream = control.unwrap_or_else(|| connection.streams().open(Dir::Bi).expect("the first stream"));
        *control = Some(stream);
        let written = connection.send_stream(stream).write(bytes).expect("the stream is open");
        assert_eq!(written, bytes.len(), "the window has room");
    }

    /// Asks for a sign of life, as a client does that keeps its connection alive.
    pub fn ping(&mut self, client: usize) {
        self.clients[client].connection.ping();
    }

    /// Takes in what has come, fires what is due, and sends what is to be said.
    pub fn pump(&mut self, now: Instant) {
        self.receive(now);
        for client in 0..self.clients.len() {
            self.drive(client, now);
        }
    }

    /// Takes in what has come and sends nothing. Returns how many datagrams there were.
    ///
    /// # Panics
    /// When the socket fails.
    pub fn receive(&mut self, now: Instant) -> usize {
        let mut count = 0;
        let mut buffer = [0; DATAGRAM_SIZE_MAX];
        for Socket { udp, endpoint, owners } in &mut self.sockets {
            while let Ok(size) = udp.recv(&mut buffer) {
                count += 1;
                self.packet.clear();
                let data = BytesMut::from(&buffer[..size]);
                match endpoint.handle(now, self.server, None, None, data, &mut self.packet) {
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        if let Some(client) = owners.get(&handle.0) {
                            self.clients[*client].connection.handle_event(event);
                        }
                    }
                    Some(DatagramEvent::NewConnection(_) | DatagramEvent::Response(_)) | None => {}
                }
            }
        }
        count
    }

    /// Loses what has come. Returns how many datagrams there were.
    pub fn lose(&mut self) -> usize {
        let mut buffer = [0; DATAGRAM_SIZE_MAX];
        self.sockets.iter().map(|socket| std::iter::from_fn(|| socket.udp.recv(&mut buffer).ok()).count()).sum()
    }

    fn drive(&mut self, index: usize, now: Instant) {
        let client = &mut self.clients[index];
        let Socket { udp, endpoint, .. } = &mut self.sockets[client.socket];
        if client.connection.poll_timeout().is_some_and(|at| at <= now) {
            client.connection.handle_timeout(now);
        }
        client.take_events();
        loop {
            self.packet.clear();
            let Some(transmit) = client.connection.poll_transmit(now, 1, &mut self.packet) else { break };
            udp.send_to(&self.packet[..transmit.size], transmit.destination).expect("the loopback takes it");
        }
        while let Some(event) = client.connection.poll_endpoint_events() {
            if let Some(event) = endpoint.handle_event(client.handle, event) {
                client.connection.handle_event(event);
            }
        }
    }

    /// How many clients there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Clients whose handshake is done and that are not lost.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.clients.iter().filter(|client| client.is_connected && !client.is_lost).count()
    }

    /// Frames that all clients were sent.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.clients.iter().map(|client| client.frames).sum()
    }

    /// Frames that one client was sent.
    #[must_use]
    pub fn frames_of(&self, client: usize) -> u64 {
        self.clients[client].frames
    }

    /// When the first client wants to be driven again.
    pub fn next_timeout(&mut self) -> Option<Instant> {
        self.clients.iter_mut().filter_map(|client| client.connection.poll_timeout()).min()
    }
}

impl Client {
    fn take_events(&mut self) {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { .. } => self.is_lost = true,
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(stream) = self.connection.streams().accept(Dir::Uni) {
                        self.read(stream);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                Event::DatagramReceived => {
                    while self.connection.datagrams().recv().is_some() {
                        self.frames += 1;
                    }
                }
                Event::HandshakeDataReady | Event::DatagramsUnblocked | Event::Stream(_) => {}
            }
        }
    }

    fn read(&mut self, id: StreamId) {
        let inbound = self.inbound.entry(id).or_default();
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            inbound.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
        self.frames += take_frames(inbound);
    }
}

/// Takes whole frames off the front. Returns how many there were.
fn take_frames(inbound: &mut BytesMut) -> u64 {
    let mut count = 0;
    while let Some(size) = frame::size(inbound).expect("the server sends frames")
        && size <= inbound.len()
    {
        let frame: Bytes = inbound.split_to(size).freeze();
        assert!(frame::open(&frame).is_ok(), "a whole frame");
        count += 1;
    }
    count
}

/// More than a client waits before it acknowledges: its own delay, the longest that a server can ask for, and a timer's grain.
pub(crate) const ACK_DELAY_MAX: Duration = Duration::from_millis(60);

impl fmt::Debug for QuicClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicClients").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}
