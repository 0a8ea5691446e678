//! What a shard thread needs of the log and the view: six calls that never wait. Performed by `tern_persistence` in the server and
//! by a table in memory in this crate's tests.

use tern_core_shard::io::{AppendFailure, Input, Record, Row, ViewQuery};
use tern_protocol::{PartitionId, Position};

/// Wakes a shard from another thread: to be called after each batch of answers has been put where [`Store::poll`] finds it.
pub type Bell = std::sync::Arc<dyn Fn() + Send + Sync>;

/// One shard's access to the log and the view. No call blocks.
pub trait Store: Send + 'static {
    /// Appends a command to a partition's log. Confirmed later by `Input::Logged` at the partition's owner.
    ///
    /// # Errors
    /// The command and the reason, when the log certainly does not take it.
    fn append(&mut self, partition: PartitionId, record: Record) -> Result<(), (Record, AppendFailure)>;

    /// Asks the view. Answered later by `Input::Viewed` with the same ticket.
    ///
    /// # Errors
    /// The question, when too many wait.
    fn query(&mut self, ticket: u64, query: ViewQuery) -> Result<(), ViewQuery>;

    /// Writes rows behind the log. Confirmed later by `Input::Stored`.
    fn store(&mut self, partition: PartitionId, position: Position, rows: Vec<Row>);

    /// Hands over what was appended and stored since the last call. Once per turn.
    fn flush(&mut self);

    /// Whether [`Store::poll`] keeps durable commands back: too many wait already for answers of the view.
    fn pause_commands(&mut self, paused: bool);

    /// The next thing that the log or the view has for this shard.
    fn poll(&mut self) -> Option<Input>;
}
