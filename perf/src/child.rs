//! A server of one's own: starts the binary on free loopback ports with its own data directory, waits until it is ready, stops it.
//! Never leaves it running: dropping it kills it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a server may take to be ready. Unit: time. A cold page cache and a debug build on a busy machine included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at a server that is not ready yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How to start a server.
#[derive(Debug, Clone)]
pub struct ServerPlan {
    /// The `tern` binary.
    pub binary: PathBuf,
    /// Holds the data directory and the log.
    pub directory: PathBuf,
    /// Public address; both ports are chosen here so that a restarted server is found again.
    pub listen: SocketAddr,
    /// Admin address.
    pub admin: SocketAddr,
    /// Shard threads.
    pub shards: u16,
    /// `auto`, `io_uring` or `epoll`.
    pub driver: String,
    /// More settings, as `TERN_*` variables.
    pub settings: Vec<(String, String)>,
    /// Cores that all its threads stay on; empty: any.
    pub cpus: Vec<usize>,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The binary or the log file could not be used.
    Io(io::Error),
    /// It ended by itself; what it wrote.
    Exited(ExitStatus, String),
    /// It was not ready in time; what it wrote.
    NotReady(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Exited(status, log) => write!(f, "the server ended ({status}):\n{log}"),
            Self::NotReady(log) => write!(f, "the server was not ready after {READY_TIMEOUT:?}:\n{log}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running server.
#[derive(Debug)]
pub struct Server {
    plan: ServerPlan,
    child: Child,
}

impl ServerPlan {
    /// A server on free loopback ports, with quick password hashes and any number of log-ins: the load is not about them.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(binary: &Path, directory: &Path) -> io::Result<Self> {
        let settings = [
            ("TERN_AUTH__HASH_MEMORY", "64KiB"),
            ("TERN_AUTH__HASH_PASSES", "1"),
            ("TERN_AUTH__ACCOUNT_ATTEMPTS_BURST", "10000"),
            ("TERN_AUTH__PREFIX_ATTEMPTS_BURST", "1000000"),
            ("TERN_PIN", "false"),
        ];
        Ok(Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            listen: free_address()?,
            admin: free_address()?,
            shards: 2,
            driver: "auto".to_owned(),
            settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            cpus: Vec::new(),
        })
    }

    /// With one more setting.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Where everything that lasts is.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The file that has everything it wrote, over all starts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// The command that starts it.
    ///
    /// # Errors
    /// When the log file cannot be opened.
    pub fn command(&self) -> io::Result<Command> {
        std::fs::create_dir_all(&self.directory)?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .current_dir(&self.directory)
            .env("TERN_LISTEN", self.listen.to_string())
            .env("TERN_ADMIN__LISTEN", self.admin.to_string())
            .env("TERN_DATA_DIR", self.data_dir())
            .env("TERN_SHARDS", self.shards.to_string())
            .env("TERN_DRIVER", &self.driver)
            .envs(self.settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(&self) -> Result<Server, StartError> {
        let child = self.command().and_then(|command| spawn_on(&self.cpus, command)).map_err(StartError::Io)?;
        let mut server = Server { plan: self.clone(), child };
        let deadline = Instant::now() + READY_TIMEOUT;
        while !server.is_ready() {
            if let Some(status) = server.child.try_wait().map_err(StartError::Io)? {
                return Err(StartError::Exited(status, self.log()));
            }
            if Instant::now() > deadline {
                return Err(StartError::NotReady(self.log()));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(server)
    }

    /// Everything it wrote, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Server {
    /// How it was started.
    #[must_use]
    pub const fn plan(&self) -> &ServerPlan {
        &self.plan
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.admin_get("/health/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Asks its admin listener.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn admin_get(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.plan.admin, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.plan.admin)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// One of its metrics, summed over labels; `None` when it has no such metric.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let answer = self.admin_get("/metrics").ok()?;
        let lines = answer
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')));
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Memory that it has in RAM. Unit: bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn rss(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(kib * 1024)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// `SIGTERM`, without waiting.
    ///
    /// # Errors
    /// When it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the process id is not one"))?;
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(mut self, most: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + most;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not end in time"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // It may end between the two calls; either way it is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts a process that stays on some cores: it inherits them from this thread, which has its own back afterwards.
fn spawn_on(cpus: &[usize], mut command: Command) -> io::Result<Child> {
    if cpus.is_empty() {
        return command.spawn();
    }
    let before = sched_getaffinity(None)?;
    pin_thread(cpus)?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    child
}

/// Keeps the calling thread on some cores; with none named, changes nothing.
///
/// # Errors
/// When this machine has no such core.
pub fn pin_thread(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        if *cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no core {cpu}")));
        }
        set.set(*cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// A loopback port that is free on UDP and on TCP.
///
/// # Errors
/// When none is found.
pub fn free_address() -> io::Result<SocketAddr> {
    for _ in 0..64 {
        let udp = UdpSocket::bind(("127.0.0.1", 0))?;
        let address = udp.local_addr()?;
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no port is free on both UDP and TCP"))
}
