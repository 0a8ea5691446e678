//! The command line. Never reads a file or the terminal.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tern_client::Transport;

/// Chat on a Tern server. Without a command: the terminal client.
#[derive(Debug, Parser)]
#[command(
    name = "tern-chat",
    version,
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 100,
    subcommand_value_name = "COMMAND"
)]
#[command(
    after_help = "TERNCHAT_USER, TERNCHAT_SERVER and TERNCHAT_STATE_DIR in the environment do as the flags.\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 not logged in, 4 refused, 5 no connection, 6 untrusted server."
)]
pub(crate) struct Cli {
    /// What every command needs.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What every command needs.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Account name
    #[arg(long, global = true, value_name = "NAME", env = "TERNCHAT_USER", hide_env = true)]
    pub(crate) user: Option<String>,
    /// host, host:port or an IPv6 address in brackets and :port
    #[arg(
        long,
        global = true,
        value_name = "SERVER",
        env = "TERNCHAT_SERVER",
        hide_env = true,
        default_value = "localhost:7443"
    )]
    pub(crate) server: String,
    /// Read the password from this file; otherwise from $TERNCHAT_PASSWORD, otherwise it is asked for
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// What may carry the connection
    #[arg(long, global = true, value_name = "HOW", value_enum, default_value = "auto")]
    pub(crate) transport: TransportArg,
    /// Trust only the certificates of this PEM file
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "trust_first_use")]
    pub(crate) ca: Option<PathBuf>,
    /// Trust the server's key when it is first seen (always so on this machine)
    #[arg(long, global = true)]
    pub(crate) trust_first_use: bool,
    /// Where sessions and known servers are kept [default: ~/.local/state/tern]
    #[arg(long, global = true, value_name = "DIR", env = "TERNCHAT_STATE_DIR", hide_env = true)]
    pub(crate) state_dir: Option<PathBuf>,
}

/// See [`Transport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    Auto,
    Quic,
    Ws,
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Auto => Self::Auto,
            TransportArg::Quic => Self::Quic,
            TransportArg::Ws => Self::WebSocket,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an account and log in
    Register {
        /// The name that others see
        #[arg(long, value_name = "NAME")]
        display: Option<String>,
    },
    /// Log this device in
    Login,
    /// Log this device out
    Logout,
    /// List the devices that are logged in
    Devices {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Send a message and wait until it is stored
    Send {
        /// Account name, or conversation id
        #[arg(long, value_name = "NAME|ID")]
        to: String,
        /// Print the ack as JSON
        #[arg(long)]
        json: bool,
        /// The text; standard input if there is none
        #[arg(value_name = "TEXT")]
        text: Vec<String>,
    },
    /// Print what happens, for ever
    Listen {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
        /// Begin with everything since joining, not with the present moment
        #[arg(long)]
        since_start: bool,
        /// Only this conversation
        #[arg(long, value_name = "ID")]
        conversation: Option<u128>,
    },
    /// List the conversations, newest activity first
    Conversations {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Print the last events of a conversation
    History {
        /// Account name, or conversation id
        #[arg(value_name = "NAME|ID")]
        of: String,
        /// How many
        #[arg(long, default_value_t = 50, value_name = "COUNT")]
        limit: u32,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_its_help_fits_a_screen() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        assert!(help.lines().count() <= 32, "{help}");
    }

    #[test]
    fn a_text_after_two_dashes_may_begin_with_a_dash() {
        let cli = Cli::try_parse_from(["tern-chat", "send", "--to", "bob", "--", "-1", "is", "negative"]);
        let Ok(Cli { command: Some(Command::Send { text, .. }), .. }) = cli else { panic!("{cli:?}") };
        assert_eq!(text, ["-1", "is", "negative"]);
    }
}
