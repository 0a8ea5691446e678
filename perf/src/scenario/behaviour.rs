//! What people do: how many there are, how often each writes, reads, types and loses the network, and in which conversations. The same
//! description drives the load of `groups` and the forecast of `capacity`, so that one can be checked against the other.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tern_protocol::ConversationId;

use super::options::Options;
use super::room::{Room, open_directs};
use super::schedule::{Pace, Steady, distinct, zipf_sizes};
use super::stage::{Failure, Stage, soon};
use crate::fleet::{Action, Fleet, PeerId, Request};

/// One user in a typical hour, and the groups they are in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Users that are connected.
    pub users: usize,
    /// Users for one group: 10 makes a tenth as many groups as users.
    pub users_per_group: usize,
    /// Members of the largest group; the k-th has this divided by k.
    pub largest_group: usize,
    /// Messages a second, of all users together.
    pub messages_per_second: f64,
    /// Part of them that goes to groups; the rest to direct conversations.
    pub group_share: f64,
    /// Read cursors moved, for one message written.
    pub reads_per_message: f64,
    /// Typing notices, for one message written.
    pub typing_per_message: f64,
    /// Connections lost and resumed a second, of all users together.
    pub reconnects_per_second: f64,
    /// Bytes of a message's body.
    pub size: u32,
}

/// Members of the smallest group.
const SMALLEST_GROUP: usize = 4;

impl Behaviour {
    /// A busy hour of this many users.
    #[must_use]
    pub fn busy(users: usize, options: &Options) -> Self {
        Self {
            users,
            users_per_group: 10,
            largest_group: (users / 4).max(SMALLEST_GROUP),
            messages_per_second: options.rate.unwrap_or(users as f64 * 0.15).max(0.1),
            group_share: 0.5,
            reads_per_message: 0.5,
            typing_per_message: 0.5,
            reconnects_per_second: users as f64 * 0.002,
            size: options.size,
        }
    }

    /// Sizes of the groups.
    #[must_use]
    pub fn group_sizes(&self) -> Vec<usize> {
        let groups = (self.users / self.users_per_group.max(1)).max(1);
        let sizes = zipf_sizes(groups, self.largest_group, SMALLEST_GROUP);
        sizes.into_iter().map(|size| size.min(self.users)).collect()
    }

    /// Members of all groups together.
    #[must_use]
    pub fn memberships(&self) -> usize {
        self.group_sizes().iter().sum()
    }

    /// Deliveries to others for one message, on average: a group is written to as often as any other.
    #[must_use]
    pub fn deliveries_per_message(&self) -> f64 {
        let sizes = self.group_sizes();
        let mean = sizes.iter().map(|size| *size as f64 - 1.0).sum::<f64>() / sizes.len() as f64;
        self.group_share * mean + (1.0 - self.group_share)
    }

    /// Notices (typing, receipts) that one typing or one read is shown to, on average: groups beyond `shown_max` show none.
    #[must_use]
    pub fn notices_per_note(&self, shown_max: usize) -> f64 {
        let sizes = self.group_sizes();
        let shown = |size: &usize| if *size <= shown_max { *size as f64 - 1.0 } else { 0.0 };
        let mean = sizes.iter().map(shown).sum::<f64>() / sizes.len() as f64;
        self.group_share * mean + (1.0 - self.group_share)
    }
}

/// The conversations of a population.
pub(super) struct Town {
    behaviour: Behaviour,
    groups: Vec<Room>,
    directs: Vec<ConversationId>,
}

impl Town {
    /// Makes the groups and the direct conversations; everybody is connected afterwards.
    ///
    /// # Errors
    /// When the server refuses something or does not answer.
    pub(super) fn build(stage: &Stage<'_>, fleet: &Fleet, behaviour: Behaviour, seed: u64) -> Result<Self, Failure> {
        let users = u32::try_from(behaviour.users)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut groups = Vec::new();
        // Every founder is connected before anybody else: a group is filled while its members are away.
        let sizes = behaviour.group_sizes();
        let founders = u32::try_from(sizes.len())?.min(users);
        stage.connect(fleet, 0..founders)?;
        for (number, size) in (0u32..).zip(&sizes) {
            let founder = number % founders;
            let mut members = vec![founder];
            members.extend(distinct(&mut random, size + 1, users).into_iter().filter(|peer| *peer != founder));
            members.truncate(*size);
            groups.push(Room::make(stage, fleet, members, u64::from(number) + 1)?);
        }
        stage.connect(fleet, founders..users)?;
        let pairs: Vec<(u32, u32)> = (0..users / 2).map(|pair| (pair * 2, pair * 2 + 1)).collect();
        let directs = open_directs(stage, fleet, &pairs)?;
        Ok(Self { behaviour, groups, directs })
    }

    /// Lets everybody live for a while: messages, reads, typing and lost connections, each as its own schedule.
    pub(super) fn live(&self, fleet: &Fleet, length: Duration, seed: u64) {
        let Behaviour { messages_per_second, reads_per_message, typing_per_message, .. } = self.behaviour;
        let size = self.behaviour.size;
        let say = move |conversation| Action::Send { conversation, size };
        self.talk(fleet, length, messages_per_second, seed ^ 0x10, say);
        let read = |conversation| Action::Request(Request::Read { conversation });
        self.talk(fleet, length, messages_per_second * reads_per_message, seed ^ 0x20, read);
        let typing = |conversation| Action::Request(Request::Typing { conversation, active: true });
        self.talk(fleet, length, messages_per_second * typing_per_message, seed ^ 0x30, typing);
        self.lose(fleet, length, seed ^ 0x40);
    }

    /// Something that a random member of a random conversation does.
    fn talk(
        &self,
        fleet: &Fleet,
        length: Duration,
        rate: f64,
        seed: u64,
        action: impl Fn(ConversationId) -> Action + Clone + Send + 'static,
    ) {
        let start = soon();
        fleet.run(|worker, workers| {
            // Each worker draws from the whole and keeps what its own peers do: together they are the whole, whatever their number.
            let (groups, directs) = (self.groups.clone(), self.directs.clone());
            let (share, action) = (self.behaviour.group_share, action.clone());
            let (worker, workers) = (u32::try_from(worker).unwrap_or(0), u32::try_from(workers).unwrap_or(1));
            let seed = seed ^ u64::from(worker) << 8;
            let rate = rate / f64::from(workers);
            Box::new(Steady::new(start, length, rate, Pace::Poisson, seed, move |_, random| {
                loop {
                    let (peer, conversation) = if random.random::<f64>() < share {
                        let room = &groups[random.random_range(0..groups.len())];
                        (room.members[random.random_range(0..room.members.len())], room.conversation)
                    } else {
                        let pair = random.random_range(0..directs.len());
                        let side = random.random_range(0..2u32);
                        (u32::try_from(pair).unwrap_or(0) * 2 + side, directs[pair])
                    };
                    if peer % workers == worker {
                        break (PeerId(peer), action(conversation));
                    }
                }
            }))
        });
    }

    /// Random users lose their connection and come back at once.
    fn lose(&self, fleet: &Fleet, length: Duration, seed: u64) {
        let start = soon();
        let users = u32::try_from(self.behaviour.users).unwrap_or(u32::MAX);
        let rate = self.behaviour.reconnects_per_second;
        fleet.run(|worker, workers| {
            let (worker, workers) = (u32::try_from(worker).unwrap_or(0), u32::try_from(workers).unwrap_or(1));
            let rate = rate / f64::from(workers);
            let seed = seed ^ u64::from(worker) << 8;
            let mine = (users / workers).max(1);
            Box::new(Steady::new(start, length, rate, Pace::Poisson, seed, move |_, random| {
                let peer = random.random_range(0..mine) * workers + worker;
                (PeerId(peer), Action::Reconnect)
            }))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour() -> Behaviour {
        Behaviour {
            users: 1000,
            users_per_group: 100,
            largest_group: 200,
            messages_per_second: 100.0,
            group_share: 0.5,
            reads_per_message: 0.5,
            typing_per_message: 0.5,
            reconnects_per_second: 2.0,
            size: 200,
        }
    }

    #[test]
    fn deliveries_follow_from_the_sizes_of_the_groups() {
        let behaviour = behaviour();
        assert_eq!(behaviour.group_sizes(), [200, 100, 66, 50, 40, 33, 28, 25, 22, 20]);
        assert_eq!(behaviour.memberships(), 584);
        // (584 - 10) / 10 others in a group, half of the messages; one other in the other half.
        assert!((behaviour.deliveries_per_message() - 29.2).abs() < 1e-9);
    }

    #[test]
    fn large_groups_show_no_typing() {
        // The seven groups of 50 and fewer: 218 members.
        assert!((behaviour().notices_per_note(64) - (0.5 * 21.1 + 0.5)).abs() < 1e-9);
    }
}
