//! What a run is told: which server, how many clients on which transport, how fast, for how long. One struct for all scenarios; each
//! scenario has its own default for what it is about.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::schedule::Pace;
use crate::fleet::Carrier;

/// Which transport clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// UDP: streams, datagrams, migration.
    Quic,
    /// WebSocket over TLS.
    Ws,
    /// Every second client on WebSocket.
    Both,
}

impl Transport {
    /// As the generator names it.
    #[must_use]
    pub const fn carrier(self) -> Carrier {
        match self {
            Self::Quic => Carrier::Quic,
            Self::Ws => Carrier::WebSocket,
            Self::Both => Carrier::Both,
        }
    }

    /// As results name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Ws => "ws",
            Self::Both => "both",
        }
    }
}

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arrivals {
    /// Independent people (a Poisson process).
    Poisson,
    /// One every 1/rate.
    Even,
}

impl Arrivals {
    /// As schedules name it.
    #[must_use]
    pub const fn pace(self) -> Pace {
        match self {
            Self::Poisson => Pace::Poisson,
            Self::Even => Pace::Even,
        }
    }
}

/// Options of every scenario.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub struct Options {
    /// Measure this server. Without it one is started for the run, as with --spawn
    #[arg(long, value_name = "HOST:PORT", global = true, conflicts_with = "spawn")]
    pub server: Option<String>,
    /// Process id of that server, if it runs here: then its CPU and memory are in the result
    #[arg(long, value_name = "PID", global = true, requires = "server")]
    pub server_pid: Option<u32>,
    /// Start `tern` for the run, on free loopback ports, with a fresh data directory that is removed afterwards
    #[arg(long, global = true)]
    pub spawn: bool,
    /// The `tern` to start [default: beside this program; built first when run by cargo]
    #[arg(long, value_name = "FILE", global = true)]
    pub binary: Option<PathBuf>,
    /// Where the started server keeps its data [default: the system's temporary directory; a RAM disk has no honest fdatasync]
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Its shard threads; 0 is one per core
    #[arg(long, value_name = "N", default_value_t = 0, global = true)]
    pub shards: u16,
    /// Its driver: auto, io_uring, epoll
    #[arg(long, value_name = "DRIVER", default_value = "auto", global = true)]
    pub driver: String,
    /// More of its settings, as in the environment: TERN_LIMITS__PING_INTERVAL=5s (may be repeated)
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting, global = true)]
    pub settings: Vec<(String, String)>,
    /// Cores of the started server, as in 0,2-3
    #[arg(long, value_name = "LIST", value_parser = cpu_list, default_value = "", global = true)]
    pub server_cpus: CpuList,
    /// Cores of this program's threads
    #[arg(long, value_name = "LIST", value_parser = cpu_list, default_value = "", global = true, help_heading = "Load")]
    pub client_cpus: CpuList,
    /// Transport of the clients
    #[arg(long, value_enum, default_value_t = Transport::Quic, global = true, help_heading = "Load")]
    pub transport: Transport,
    /// Clients, where the scenario is about connections
    #[arg(long, value_name = "N", global = true, help_heading = "Load")]
    pub connections: Option<usize>,
    /// Members of the group, where the scenario is about one
    #[arg(long, value_name = "N", global = true, help_heading = "Load")]
    pub members: Option<usize>,
    /// Part of them that is not connected, 0 to 0.99
    #[arg(long, value_name = "PART", default_value_t = 0.0, global = true, help_heading = "Load")]
    pub offline: f64,
    /// Operations a second over all clients; 0: as many as the server takes
    #[arg(long, value_name = "PER_SECOND", global = true, help_heading = "Load")]
    pub rate: Option<f64>,
    /// How operations follow each other
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson, global = true, help_heading = "Load")]
    pub arrivals: Arrivals,
    /// New connections a second while a run is prepared
    #[arg(long, value_name = "PER_SECOND", default_value_t = 1500.0, global = true, help_heading = "Load")]
    pub connect_rate: f64,
    /// How long it is measured, as in 10s, 500ms, 2m
    #[arg(long, value_name = "TIME", value_parser = time, global = true, help_heading = "Load")]
    pub duration: Option<Duration>,
    /// How long the load runs before it is measured
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2s", global = true, help_heading = "Load")]
    pub warm_up: Duration,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 200, global = true, help_heading = "Load")]
    pub size: u32,
    /// The same seed is the same schedule
    #[arg(long, value_name = "N", default_value_t = 1, global = true, help_heading = "Load")]
    pub seed: u64,
    /// Threads of the generator
    #[arg(long, value_name = "N", default_value_t = 1, global = true, help_heading = "Load")]
    pub workers: usize,
    /// UDP sockets of each thread: addresses that clients come from
    #[arg(long, value_name = "N", default_value_t = 64, global = true, help_heading = "Load")]
    pub sockets: usize,
    /// Print one JSON object on stdout instead of the table
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Write result.json, .hgrm files, CSV and report.html here [default: perf-results/SCENARIO]
    #[arg(long, value_name = "DIR", global = true, help_heading = "Output")]
    pub out: Option<PathBuf>,
    /// Write no folder
    #[arg(long, global = true, conflicts_with = "out", help_heading = "Output")]
    pub no_report: bool,
    /// Skip the floors of this machine (about 3 s): no ratio to them then
    #[arg(long, global = true, help_heading = "Output")]
    pub no_floor: bool,
}

/// Cores by number.
pub type CpuList = std::sync::Arc<[usize]>;

impl Options {
    /// Whether the server is started here.
    #[must_use]
    pub const fn spawns(&self) -> bool {
        self.server.is_none()
    }

    /// Shards of the server; of one that runs elsewhere it is what the user says.
    ///
    /// # Errors
    /// When the system does not say how many cores there are.
    pub fn shard_count(&self) -> std::io::Result<usize> {
        if self.shards > 0 { Ok(self.shards.into()) } else { Ok(std::thread::available_parallelism()?.get()) }
    }

    /// The command that runs a scenario with these options again, wherever the programs are.
    #[must_use]
    pub fn command(&self, scenario: &str) -> String {
        let mut words = vec!["tern-perf".to_owned(), scenario.to_owned()];
        match &self.server {
            Some(server) => words.push(format!("--server {server}")),
            None => words.push("--spawn".to_owned()),
        }
        words.push(format!("--transport {}", self.transport.name()));
        words.extend(self.connections.map(|count| format!("--connections {count}")));
        words.extend(self.members.map(|count| format!("--members {count}")));
        words.extend((self.offline > 0.0).then(|| format!("--offline {}", self.offline)));
        words.extend(self.rate.map(|rate| format!("--rate {rate}")));
        words.extend(self.duration.map(|length| format!("--duration {}ms", length.as_millis())));
        words.push(format!("--size {} --seed {}", self.size, self.seed));
        let lists = [("--server-cpus", &self.server_cpus), ("--client-cpus", &self.client_cpus)];
        words.extend(lists.into_iter().filter(|(_, cpus)| !cpus.is_empty()).map(|(name, cpus)| {
            let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
            format!("{name} {}", cpus.join(","))
        }));
        words.extend((self.shards > 0).then(|| format!("--shards {}", self.shards)));
        words.extend((self.driver != "auto").then(|| format!("--driver {}", self.driver)));
        words.extend((self.workers > 1).then(|| format!("--workers {}", self.workers)));
        words.extend(self.settings.iter().map(|(key, value)| format!("--set {key}={value}")));
        words.join(" ")
    }

    /// The address and the name of a server that runs already.
    ///
    /// # Errors
    /// When the text is not `host:port` or the name has no address.
    pub fn remote(&self) -> Result<Option<(SocketAddr, String)>, String> {
        let Some(text) = &self.server else { return Ok(None) };
        let (host, _) = text.rsplit_once(':').ok_or_else(|| format!("--server {text}: it takes HOST:PORT"))?;
        let mut found = text.to_socket_addrs().map_err(|error| format!("--server {text}: {error}"))?;
        let address = found.next().ok_or_else(|| format!("--server {text}: this name has no address"))?;
        Ok(Some((address, host.trim_matches(['[', ']']).to_owned())))
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.starts_with("TERN_") => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("it takes TERN_SECTION__KEY=VALUE; `tern --print-config` lists the keys".to_owned()),
    }
}

/// `10s`, `500ms`, `2m`, `1h`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "it takes a number and ms, s, m or h, as in 500ms or 10s".to_owned();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

/// `0,2-3`.
fn cpu_list(text: &str) -> Result<CpuList, String> {
    let wrong = || "it takes core numbers, as in 0,2-3".to_owned();
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if last < first || last > 4096 {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["5", "s", "5 days", "-1s", "ms5"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cores_are_numbers_and_spans() {
        assert_eq!(&*cpu_list("0,2-4").expect("a list"), [0, 2, 3, 4]);
        assert!(cpu_list("").expect("none").is_empty());
        for wrong in ["a", "3-1", "0-99999", "1-"] {
            assert!(cpu_list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_setting_is_one_of_the_servers() {
        assert!(setting("TERN_PIN=true").is_ok());
        assert!(setting("PATH=/").is_err());
        assert!(setting("TERN_PIN").is_err());
    }

    #[test]
    fn a_command_names_what_was_chosen_and_no_more() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let parse = |words: &str| <Line as clap::Parser>::parse_from(words.split(' ')).options;
        let options = parse("x --members 50 --rate 2.5 --duration 3s --server-cpus 0,1 --set TERN_PIN=true");
        let command = "tern-perf group --spawn --transport quic --members 50 --rate 2.5 --duration 3000ms --size 200 --seed 1 \
                       --server-cpus 0,1 --set TERN_PIN=true";
        assert_eq!(options.command("group"), command);
        let words = command.strip_prefix("tern-perf group ").expect("it begins so");
        assert_eq!(parse(&format!("x {words}")).command("group"), command);
    }
}
