//! Who may do what from outside: passwords, access and refresh tokens, limits on attempts, and the HTTP API for them.
//! Accounts and devices themselves are the shards' business; nothing here keeps them.

mod api;
mod bucket;
mod key;
mod name;
mod password;
mod refresh;
mod token;

pub use api::{Auth, AuthParts, Owners, Peer, ReplyFuture, routes};
pub use bucket::{Buckets, Prefix, Rate};
pub(crate) use key::random;
pub use key::{KeyError, Keys};
pub use password::{Hasher, HasherBusy};
pub use refresh::RefreshToken;
pub use token::{AccessTokens, TokenRules};
