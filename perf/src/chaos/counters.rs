//! What the proxy did, in numbers. Nothing here acts.

/// What became of the packets of one direction. `offered = arrived + lost + blacked_out + queue_dropped` when nothing is on its way;
/// the second copy of a duplicated packet is not counted again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets that were put in.
    pub offered: u64,
    /// Packets that came or will come out at the other end.
    pub arrived: u64,
    /// Packets lost by the dice.
    pub lost: u64,
    /// Packets lost in a blackout.
    pub blacked_out: u64,
    /// Packets for which there was no room at the bottleneck.
    pub queue_dropped: u64,
    /// Packets that arrived twice.
    pub duplicated: u64,
    /// Packets that were made late on purpose.
    pub reordered: u64,
    /// Bytes that were delayed and came or will come out. Unit: bytes, headers included.
    pub delayed_bytes: u64,
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            offered: self.offered + other.offered,
            arrived: self.arrived + other.arrived,
            lost: self.lost + other.lost,
            blacked_out: self.blacked_out + other.blacked_out,
            queue_dropped: self.queue_dropped + other.queue_dropped,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            delayed_bytes: self.delayed_bytes + other.delayed_bytes,
        }
    }
}

/// What the TCP senders had to do about losses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments sent again because later ones had arrived.
    pub fast_retransmits: u64,
    /// Tail loss probes.
    pub probes: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// SYNs sent again.
    pub syn_retransmits: u64,
}

/// All of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams from clients.
    pub udp_up: Traffic,
    /// Datagrams from the server.
    pub udp_down: Traffic,
    /// Segments, acknowledgements included, from clients.
    pub tcp_up: Traffic,
    /// Segments, acknowledgements included, from the server.
    pub tcp_down: Traffic,
    /// TCP senders of both directions.
    pub recovery: Recovery,
    /// Client addresses seen on UDP.
    pub udp_flows: u64,
    /// TCP connections accepted.
    pub tcp_flows: u64,
    /// Flows that ended for good.
    pub flows_ended: u64,
    /// Flows and datagrams refused because a bound was reached: such a run measures the proxy.
    pub refused: u64,
    /// Datagrams that the kernel dropped because the proxy did not read in time. Known when it has been stopped.
    pub kernel_dropped: u64,
    /// Address changes of UDP flows.
    pub address_changes: u64,
    /// TCP connections that an address change cut.
    pub severed: u64,
    /// Reads, writes and connects that failed for a reason other than "not at the moment".
    pub socket_errors: u64,
    /// Every fate that UDP flows met, in one number: equal packets in equal order under equal seeds give equal digests.
    pub udp_digest: u64,
    /// The same of TCP. What is one segment depends on how the bytes were read, so real sockets repeat it only byte by byte.
    pub tcp_digest: u64,
}
