//! What waits for one client, by lane. The only queue between the core and the transport; its size is what slow-reader policy is about.
//! Decides nothing: the session does.

use std::collections::VecDeque;

use bytes::Bytes;
use tern_protocol::ConversationId;
use tern_protocol::UserId;
use tern_protocol::limit::DELIVERY_LANE_COUNT;
use tern_protocol::placement::mix_bytes;

use crate::io::{Lane, Lanes};

/// Typing and presence frames that may wait at once; the oldest goes first. Unit: frames.
const EPHEMERAL_MAX: usize = 64;

/// Frames for one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    control: VecDeque<Bytes>,
    delivery: [VecDeque<Bytes>; DELIVERY_LANE_COUNT],
    ephemeral: VecDeque<(Subject, Bytes)>,
    size: usize,
}

/// What an ephemeral frame is about: a newer one replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Typing(ConversationId, UserId),
    Presence(UserId),
}

impl Outbox {
    /// Bytes that wait, typing and presence included.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The lanes on which something waits.
    pub(crate) fn lanes(&self) -> Lanes {
        let mut lanes = Lanes::default();
        if !self.control.is_empty() {
            lanes.add(Lane::Control);
        }
        if !self.ephemeral.is_empty() {
            lanes.add(Lane::Datagram);
        }
        for (index, frames) in (0u8..).zip(&self.delivery) {
            if !frames.is_empty() {
                lanes.add(Lane::Delivery(index));
            }
        }
        lanes
    }

    pub(crate) fn push(&mut self, lane: Lane, frame: Bytes) {
        self.size += frame.len();
        match lane {
            Lane::Delivery(index) => self.delivery[usize::from(index) % DELIVERY_LANE_COUNT].push_back(frame),
            Lane::Control | Lane::Datagram => self.control.push_back(frame),
        }
    }

    /// Queues a frame that may be lost. Returns whether one was.
    pub(crate) fn push_ephemeral(&mut self, subject: Subject, frame: Bytes) -> bool {
        self.size += frame.len();
        if let Some((_, old)) = self.ephemeral.iter_mut().find(|(other, _)| *other == subject) {
            self.size -= old.len();
            *old = frame;
            return false;
        }
        let full = self.ephemeral.len() >= EPHEMERAL_MAX;
        if full && let Some((_, oldest)) = self.ephemeral.pop_front() {
            self.size -= oldest.len();
        }
        self.ephemeral.push_back((subject, frame));
        full
    }

    /// Inlined because the transport asks five lanes for each frame: a frame that comes back through memory, written in
    /// words and read in vectors, stalls longer than everything else here takes.
    #[inline]
    pub(crate) fn pop(&mut self, lane: Lane) -> Option<Bytes> {
        let frame = match lane {
            Lane::Control => self.control.pop_front(),
            Lane::Delivery(index) => self.delivery[usize::from(index) % DELIVERY_LANE_COUNT].pop_front(),
            Lane::Datagram => self.ephemeral.pop_front().map(|(_, frame)| frame),
        }?;
        self.size -= frame.len();
        Some(frame)
    }
}

/// The lane on which a conversation's events go, always the same one.
pub(crate) fn lane_of(conversation: ConversationId) -> Lane {
    let lane = mix_bytes(&conversation.raw().to_le_bytes()) % DELIVERY_LANE_COUNT as u64;
    Lane::Delivery(u8::try_from(lane).unwrap_or(0))
}
