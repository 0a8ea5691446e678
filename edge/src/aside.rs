//! Which entities the shards have set aside because they cannot be read: each said once in the log, and shown by name in readiness.
//! A shard leaves a note and goes on: it takes no lock, and waits for nobody.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use tern_core_shard::io::{AsideCause, AsideChange};
use tern_protocol::stored::Entity;

/// Notes that nobody has read yet. Unit: notes. Beyond it the names shown may be old; the counters are not.
const NOTES_MAX: usize = 16 * 1024;

/// What a shard noted.
pub(crate) type Note = (Entity, AsideChange);

/// The names, as far as the notes have been read.
#[derive(Debug)]
pub(crate) struct AsideBoard {
    board: Mutex<Board>,
}

#[derive(Debug)]
struct Board {
    notes: Receiver<Note>,
    names: BTreeSet<String>,
}

impl AsideBoard {
    /// A board, and where shards leave their notes.
    pub(crate) fn new() -> (SyncSender<Note>, Self) {
        let (sender, notes) = sync_channel(NOTES_MAX);
        (sender, Self { board: Mutex::new(Board { notes, names: BTreeSet::new() }) })
    }

    /// What is set aside, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let Board { notes, names } = &mut *board;
        for (entity, change) in notes.try_iter() {
            match change {
                AsideChange::Away(_) => names.insert(name_of(&entity)),
                AsideChange::Back => names.remove(&name_of(&entity)),
            };
        }
        names.iter().cloned().collect()
    }
}

/// Tells the operator's log.
pub(crate) fn say(entity: &Entity, change: AsideChange) {
    let name = name_of(entity);
    match change {
        AsideChange::Away(cause) => {
            let why = match cause {
                AsideCause::Damaged => "what is stored of it makes no sense",
                AsideCause::Failing => "the store fails to read it",
                AsideCause::Event => "a command needs an old event that cannot be read; questions are still answered",
            };
            tracing::error!(
                entity = name,
                "set aside: {why}. Its commands are kept, everything else goes on; check the disk, or restore a backup"
            );
        }
        AsideChange::Back => tracing::info!(entity = name, "can be read again; what was kept for it is applied"),
    }
}

fn name_of(entity: &Entity) -> String {
    match entity {
        Entity::Conversation(id) => format!("{id:?}"),
        Entity::User(id) => format!("{id:?}"),
        Entity::Account(name) => format!("account {name}"),
        Entity::Partition(id) => format!("{id:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_shows_what_is_away_and_not_back() {
        let (notes, board) = AsideBoard::new();
        let note = |name: &str, change| notes.try_send((Entity::Account(name.into()), change)).unwrap();
        note("ada", AsideChange::Away(AsideCause::Damaged));
        note("bob", AsideChange::Away(AsideCause::Failing));
        assert_eq!(board.names(), ["account ada", "account bob"]);
        note("ada", AsideChange::Back);
        assert_eq!(board.names(), ["account bob"]);
    }
}
