//! Configuration: `default.toml` (compiled in), then a file, then `TERN_*`, then flags; parsed once into valid types.
//! Never holds a secret: keys and certificates are files that the configuration names.

mod key;
mod layer;
mod setting;
mod text;

pub use layer::{ConfigError, Flag, Layers, Source};
pub use setting::{
    AdminConfig, AuthConfig, ClusterConfig, Config, DriverChoice, HttpConfig, LogConfig, LogFormat, ProcessConfig,
    TlsConfig,
};
