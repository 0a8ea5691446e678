//! The command line: which configuration to use, and whether to run it, print it or check it. Never starts anything.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::config::{Config, ConfigError, Flag, Layers};

/// Tern, a chat backend. Without flags: one machine, embedded store, development certificate.
#[derive(Debug, Parser)]
#[command(
    name = "tern",
    version,
    after_help = "\
Every key can be set: in the file, as TERN_SECTION__KEY, or with --set. `tern --print-config` lists them.
Exit codes: 0 stopped as asked; 1 cannot start or run, and said why; 2 wrong flags; 130, 143 second SIGINT, SIGTERM."
)]
pub struct Args {
    /// What to do; `serve` is what it does anyway
    #[arg(value_enum, hide_possible_values = true)]
    pub command: Option<Command>,
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE", env = "TERN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Prints the effective configuration with its sources
    #[arg(long)]
    pub print_config: bool,
    /// Says whether it would start: configuration, certificate, data directory
    #[arg(long)]
    pub check_config: bool,
    #[arg(long, value_name = "ADDRESS", help = "QUIC and HTTPS address [default: [::]:7443]")]
    listen: Option<String>,
    /// Health and metrics address [default: 127.0.0.1:7480]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Where everything is kept [default: tern-data]
    #[arg(short, long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Shard threads, 0 for one per core [default: 0]
    #[arg(long, value_name = "COUNT")]
    shards: Option<String>,
    /// auto, io_uring or epoll [default: auto]
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    /// PEM certificate chain
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<String>,
    /// PEM private key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<String>,
    /// auto, json or text [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log level, or target=level,... [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Any other key, such as limits.frames_per_second=500
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What the binary does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Command {
    /// Runs the server.
    Serve,
}

impl Args {
    /// Lays all sources over each other.
    ///
    /// # Errors
    /// When one of them is wrong.
    pub fn layers(&self, environment: impl IntoIterator<Item = (String, String)>) -> Result<Layers, ConfigError> {
        let mut layers = Layers::defaults();
        if let Some(path) = &self.config {
            layers.add_file(path)?;
        }
        layers.add_environment(environment)?;
        layers.add_flags(self.flags())?;
        Ok(layers)
    }

    /// The configuration that is in effect.
    ///
    /// # Errors
    /// When one of its sources is wrong.
    pub fn load(&self) -> Result<(Layers, Config), ConfigError> {
        // A variable that is not Unicode is none of ours: keys and values of ours are.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        let layers = self.layers(environment)?;
        let config = Config::build(&layers)?;
        Ok((layers, config))
    }

    fn flags(&self) -> Vec<Flag> {
        let named = [
            ("--listen", "listen", &self.listen),
            ("--admin-listen", "admin.listen", &self.admin_listen),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--shards", "shards", &self.shards),
            ("--driver", "driver", &self.driver),
            ("--certificate", "tls.certificate", &self.certificate),
            ("--key", "tls.key", &self.key),
            ("--log-format", "log.format", &self.log_format),
            ("--log", "log.filter", &self.log),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, key, value)| Some(Flag { name, key: key.to_owned(), value: value.clone()? }));
        let set = self.set.iter().map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Flag { name: "--set", key: key.trim().to_owned(), value: value.trim().to_owned() }
        });
        named.chain(set).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn help_fits_one_screen() {
        let help = Args::command().render_help().to_string();
        assert!(help.lines().count() <= 40, "{help}");
        assert!(help.lines().all(|line| line.len() <= 120), "{help}");
    }

    #[test]
    fn flags_win_and_any_key_can_be_set() {
        let args = Args::parse_from([
            "tern",
            "serve",
            "--shards",
            "2",
            "--set",
            "limits.flood_max = 7",
            "--listen",
            "127.0.0.1:0",
        ]);
        let layers = args.layers([("TERN_SHARDS".to_owned(), "9".to_owned())]).unwrap();
        let config = Config::build(&layers).unwrap();
        assert_eq!((config.process.shards, config.process.limits.flood_max), (2, 7));
        assert_eq!(config.process.listen.port(), 0);
        let wrong = Args::parse_from(["tern", "--set", "limits.flod_max=7"]).layers([]).unwrap_err().to_string();
        expect_test::expect!["unknown key `limits.flod_max` in --set; did you mean `limits.flood_max`?"]
            .assert_eq(&wrong);
    }

    /// The defaults that `--help` repeats are those of default.toml.
    #[test]
    fn help_says_the_defaults() {
        let help = Args::command().render_help().to_string();
        let printed = Layers::defaults().to_toml();
        for (text, line) in [
            ("[default: [::]:7443]", "listen = \"[::]:7443\""),
            ("[default: 127.0.0.1:7480]", "listen = \"127.0.0.1:7480\""),
            ("[default: tern-data]", "data_dir = \"tern-data\""),
            ("[default: 0]", "shards = 0"),
            ("[default: info]", "filter = \"info\""),
        ] {
            assert!(help.contains(text) && printed.lines().any(|printed| printed == line), "{text}");
        }
    }
}
