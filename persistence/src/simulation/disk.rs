//! What a disk may do: lose what was not synced, sector by sector and in any order, lengths and names alike; fail a sync and forget what
//! it was for; refuse, read short, be full. Every choice comes from its seed. Knows nothing of what stands in the files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::Counts;
use super::rng::Rng;

/// What a disk writes whole or not at all. Unit: bytes.
const SECTOR_SIZE: usize = 512;
/// Files at least this long are segments: what they held before they were written again is kept for [`Faults::old_bytes`]. Unit: bytes.
const SCRAP_SIZE_MIN: usize = 64 * 1024;

/// How often a call goes wrong. Unit: times in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) sync: u32,
    pub(super) write: u32,
    pub(super) read: u32,
    pub(super) short_read: u32,
    pub(super) open: u32,
    pub(super) list: u32,
    pub(super) no_space: u32,
}

/// What the file system is like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kind {
    /// It takes direct writes.
    pub(super) direct: bool,
    /// Space that was allocated and never written has the bytes of a file that was there before, not zeros.
    pub(super) old_bytes: bool,
}

/// What ends in the middle of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The machine: what was not synced may be lost.
    Power,
    /// The process alone: the system keeps what it has cached.
    Process,
}

/// How much of what was not synced is on the disk after a power cut; drawn anew for each file and each directory.
#[derive(Debug, Clone, Copy)]
enum Keep {
    Nothing,
    /// What was written first, up to some point.
    Beginning(usize),
    Any,
    All,
}

impl Keep {
    fn draw(rng: &mut Rng, count: usize) -> Self {
        match rng.below(4) {
            0 => Self::Nothing,
            1 => Self::Beginning(rng.index(count + 1)),
            2 => Self::Any,
            _ => Self::All,
        }
    }

    fn keeps(self, rng: &mut Rng, index: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Beginning(count) => index < count,
            Self::Any => rng.chance(500),
            Self::All => true,
        }
    }
}

/// Something that was done to a file and not synced.
#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    durable: Vec<u8>,
    pub(super) cached: Vec<u8>,
    waiting: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Directory(usize),
}

/// A change of names that is made durable as one, or not.
#[derive(Debug)]
struct NameChange {
    gone: Option<String>,
    there: Option<(String, Entry)>,
}

#[derive(Debug, Default)]
struct Names {
    durable: BTreeMap<String, Entry>,
    cached: BTreeMap<String, Entry>,
    waiting: Vec<NameChange>,
}

/// The disk and what the system has cached of it.
#[derive(Debug)]
pub(super) struct State {
    rng: Rng,
    pub(super) faults: Faults,
    pub(super) kind: Kind,
    pub(super) inodes: Vec<Inode>,
    directories: Vec<Names>,
    /// What ended: every call fails.
    dead: Option<Death>,
    /// What ends, and after how many calls.
    due: Option<(Death, u64)>,
    /// What a segment held before it was used again.
    scrap: Vec<u8>,
    pub(super) counts: Counts,
}

fn gone() -> io::Error {
    io::Error::other("the simulated process is dead")
}

fn error(errno: Errno) -> io::Error {
    errno.into()
}

impl State {
    pub(super) fn new(seed: u64, kind: Kind) -> Self {
        Self {
            rng: Rng::stream(seed, "disk"),
            faults: Faults::default(),
            kind,
            inodes: Vec::new(),
            directories: vec![Names::default()],
            dead: None,
            due: None,
            scrap: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(super) const fn dead(&self) -> Option<Death> {
        self.dead
    }

    /// The end comes in the middle of the `calls`-th call from here.
    pub(super) const fn end_in(&mut self, death: Death, calls: u64) {
        self.due = Some((death, calls));
    }

    /// A new process: nothing is open, the power is on.
    pub(super) fn start(&mut self) {
        self.dead = None;
        self.due = None;
        let mut reachable = vec![false; self.inodes.len()];
        for names in &self.directories {
            let waiting = names.waiting.iter().filter_map(|change| change.there.as_ref().map(|(_, entry)| entry));
            for entry in names.durable.values().chain(names.cached.values()).chain(waiting) {
                if let Entry::File(file) = entry {
                    reachable[*file] = true;
                }
            }
        }
        for (inode, _) in self.inodes.iter_mut().zip(reachable).filter(|(_, reachable)| !reachable) {
            *inode = Inode::default();
        }
    }

    /// Every call begins here. Returns what ends in it.
    fn begin(&mut self) -> io::Result<Option<Death>> {
        if self.dead.is_some() {
            return Err(gone());
        }
        let Some((death, left)) = self.due.as_mut() else { return Ok(None) };
        *left = left.saturating_sub(1);
        Ok((*left == 0).then_some(*death))
    }

    /// And ends here, when it has done what can be lost.
    fn end(&mut self, death: Option<Death>, call: &str) -> io::Result<()> {
        let Some(death) = death else { return Ok(()) };
        match death {
            Death::Power => self.counts.one(format!("cut_in_{call}")),
            Death::Process => self.counts.one(format!("kill_in_{call}")),
        }
        self.die(death);
        Err(gone())
    }

    /// Nothing works any more. When it is the power that went, what was not synced is kept or lost.
    pub(super) fn die(&mut self, death: Death) {
        self.dead = Some(death);
        if death == Death::Process {
            return;
        }
        for file in 0..self.inodes.len() {
            self.lose_some(file);
            let inode = &mut self.inodes[file];
            inode.cached.clone_from(&inode.durable);
        }
        for names in &mut self.directories {
            let waiting = std::mem::take(&mut names.waiting);
            let keep = Keep::draw(&mut self.rng, waiting.len());
            for (index, change) in waiting.into_iter().enumerate() {
                if keep.keeps(&mut self.rng, index) {
                    change.apply(&mut names.durable);
                } else {
                    self.counts.one("names_lost");
                }
            }
            names.cached.clone_from(&names.durable);
        }
    }

    /// Some of what waits for a sync is on the disk; nothing of it waits any longer.
    fn lose_some(&mut self, file: usize) {
        let waiting = std::mem::take(&mut self.inodes[file].waiting);
        let sectors = waiting.iter().map(Change::sectors).sum();
        let keep = Keep::draw(&mut self.rng, sectors);
        let (mut index, mut kept, mut lost) = (0, 0, 0);
        for change in waiting {
            match change {
                Change::Length(size) => {
                    if keep.keeps(&mut self.rng, index) {
                        self.set_durable_size(file, size);
                    } else {
                        self.counts.one("lengths_lost");
                    }
                    index += 1;
                }
                Change::Write { at, bytes } => {
                    for (number, sector) in bytes.chunks(SECTOR_SIZE).enumerate() {
                        let keeps = keep.keeps(&mut self.rng, index);
                        index += 1;
                        if !keeps {
                            lost += 1;
                            continue;
                        }
                        kept += 1;
                        put(&mut self.inodes[file].durable, at + number * SECTOR_SIZE, sector);
                    }
                }
            }
        }
        self.counts.add("torn_files", u64::from(kept > 0 && lost > 0));
        self.counts.add("sectors_lost", lost);
    }

    fn set_durable_size(&mut self, file: usize, size: usize) {
        let before = self.inodes[file].durable.len();
        self.inodes[file].durable.resize(size, 0);
        if self.kind.old_bytes && before < size {
            let scrap = self.scrap.get(before..size.min(self.scrap.len())).unwrap_or_default();
            put(&mut self.inodes[file].durable, before, scrap);
            self.counts.add("old_bytes_in_new_space", u64::from(scrap.iter().any(|&byte| byte != 0)));
        }
    }

    /// Everything that waits is on the disk.
    fn settle(&mut self, file: usize) {
        for change in std::mem::take(&mut self.inodes[file].waiting) {
            match change {
                Change::Length(size) => self.set_durable_size(file, size),
                Change::Write { at, bytes } => put(&mut self.inodes[file].durable, at, &bytes),
            }
        }
    }

    fn fails(&mut self, per_mille: u32, what: &str) -> bool {
        let fails = self.rng.chance(per_mille);
        self.counts.add(what, u64::from(fails));
        fails
    }

    fn find(&self, path: &Path) -> io::Result<Entry> {
        let mut at = Entry::Directory(0);
        for name in path.components().filter(|component| *component != Component::RootDir) {
            let Entry::Directory(directory) = at else { return Err(error(Errno::NOTDIR)) };
            let name = name.as_os_str().to_string_lossy();
            at = *self.directories[directory].cached.get(&*name).ok_or_else(|| error(Errno::NOENT))?;
        }
        Ok(at)
    }

    fn directory(&self, path: &Path) -> io::Result<usize> {
        match self.find(path)? {
            Entry::Directory(directory) => Ok(directory),
            Entry::File(_) => Err(error(Errno::NOTDIR)),
        }
    }

    fn change_names(&mut self, directory: usize, change: NameChange) {
        let names = &mut self.directories[directory];
        change.apply(&mut names.cached);
        names.waiting.push(change);
    }

    fn split(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = path.file_name().ok_or_else(|| error(Errno::INVAL))?.to_string_lossy().into_owned();
        Ok((self.directory(path.parent().ok_or_else(|| error(Errno::INVAL))?)?, name))
    }

    pub(super) fn open(&mut self, path: &Path, new: bool) -> io::Result<usize> {
        let death = self.begin()?;
        if self.fails(self.faults.open, "opens_failed") {
            return Err(error(Errno::IO));
        }
        let file = match (self.find(path), new) {
            (Ok(Entry::File(file)), true) => {
                self.set_size_in_cache(file, 0);
                file
            }
            (Ok(Entry::File(file)), false) => file,
            (Ok(Entry::Directory(_)), _) => return Err(error(Errno::ISDIR)),
            (Err(missing), false) => return Err(missing),
            (Err(_), true) => {
                let (directory, name) = self.split(path)?;
                let file = self.inodes.len();
                self.inodes.push(Inode::default());
                self.change_names(directory, NameChange { gone: None, there: Some((name, Entry::File(file))) });
                file
            }
        };
        self.end(death, if new { "create" } else { "open" })?;
        Ok(file)
    }

    pub(super) fn list(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let death = self.begin()?;
        if self.fails(self.faults.list, "lists_failed") {
            return Err(error(Errno::IO));
        }
        self.end(death, "list")?;
        let directory = self.directory(path)?;
        Ok(self.directories[directory].cached.keys().map(|name| path.join(name)).collect())
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        if self.dead.is_some() { Err(gone()) } else { Ok(self.find(path).is_ok()) }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let death = self.begin()?;
        let entry = self.find(from)?;
        let ((directory, gone), (into, there)) = (self.split(from)?, self.split(to)?);
        assert_eq!(directory, into, "the store renames within a directory");
        self.change_names(directory, NameChange { gone: Some(gone), there: Some((there, entry)) });
        self.end(death, "rename")
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let death = self.begin()?;
        self.find(path)?;
        let (directory, gone) = self.split(path)?;
        self.change_names(directory, NameChange { gone: Some(gone), there: None });
        self.end(death, "remove")
    }

    pub(super) fn remove_all(&mut self, path: &Path) -> io::Result<()> {
        let death = self.begin()?;
        if self.find(path).is_ok() {
            let (directory, gone) = self.split(path)?;
            self.change_names(directory, NameChange { gone: Some(gone), there: None });
        }
        self.end(death, "remove_all")
    }

    pub(super) fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        let death = self.begin()?;
        let mut made = PathBuf::from("/");
        for name in path.components().filter(|component| *component != Component::RootDir) {
            let above = self.directory(&made)?;
            made.push(name);
            if self.find(&made).is_err() {
                let directory = self.directories.len();
                self.directories.push(Names::default());
                let name = name.as_os_str().to_string_lossy().into_owned();
                self.change_names(above, NameChange { gone: None, there: Some((name, Entry::Directory(directory))) });
            }
        }
        self.end(death, "make_directory")
    }

    pub(super) fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        let death = self.begin()?;
        let directory = self.directory(path)?;
        self.end(death, "sync_directory")?;
        // Unlike a file's pages, names that a sync did not reach still wait: they are in the file system's own journal.
        if self.fails(self.faults.sync, "directory_syncs_failed") {
            return Err(error(Errno::IO));
        }
        let names = &mut self.directories[directory];
        for change in std::mem::take(&mut names.waiting) {
            change.apply(&mut names.durable);
        }
        Ok(())
    }

    pub(super) fn read(&mut self, file: usize, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let death = self.begin()?;
        self.end(death, "read")?;
        if self.fails(self.faults.read, "reads_failed") {
            return Err(error(Errno::IO));
        }
        let short = into.len() > 1 && self.fails(self.faults.short_read, "short_reads");
        let content = &self.inodes[file].cached;
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let mut count = into.len().min(content.len() - at);
        if short && count > 1 {
            count = 1 + self.rng.index(count - 1);
        }
        into[..count].copy_from_slice(&self.inodes[file].cached[at..at + count]);
        Ok(count)
    }

    pub(super) fn write(&mut self, file: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let death = self.begin()?;
        let at = usize::try_from(offset).expect("small files");
        if at + bytes.len() > self.inodes[file].cached.len() {
            if self.fails(self.faults.no_space, "no_space") {
                return Err(error(Errno::NOSPC));
            }
            self.set_size_in_cache(file, at + bytes.len());
        }
        let fails = self.fails(self.faults.write, "writes_failed");
        // Whoever is killed in the middle of a write has written the beginning.
        let partly = fails || death == Some(Death::Process) && self.rng.chance(500);
        let bytes = if partly { &bytes[..self.rng.index(bytes.len() / SECTOR_SIZE + 1) * SECTOR_SIZE] } else { bytes };
        let inode = &mut self.inodes[file];
        let blank = inode.cached.first().is_none_or(|&first| first == 0);
        if at == 0 && inode.cached.len() >= SCRAP_SIZE_MIN && !blank && !inode.cached.starts_with(bytes) {
            self.scrap.clone_from(&inode.cached);
            self.counts.one("segments_reused");
        }
        inode.cached[at..at + bytes.len()].copy_from_slice(bytes);
        inode.waiting.push(Change::Write { at, bytes: bytes.to_vec() });
        self.end(death, "write")?;
        if fails { Err(error(Errno::IO)) } else { Ok(()) }
    }

    pub(super) fn allocate(&mut self, file: usize, to: u64) -> io::Result<()> {
        let death = self.begin()?;
        if self.fails(self.faults.no_space, "no_space") {
            return Err(error(Errno::NOSPC));
        }
        let size = usize::try_from(to).expect("small files").max(self.inodes[file].cached.len());
        self.set_size_in_cache(file, size);
        self.end(death, "allocate")
    }

    pub(super) fn set_size(&mut self, file: usize, size: u64) -> io::Result<()> {
        let death = self.begin()?;
        self.set_size_in_cache(file, usize::try_from(size).expect("small files"));
        self.end(death, "set_size")
    }

    fn set_size_in_cache(&mut self, file: usize, size: usize) {
        let inode = &mut self.inodes[file];
        if inode.cached.len() != size {
            inode.cached.resize(size, 0);
            inode.waiting.push(Change::Length(size));
        }
    }

    /// `commits`: of a file that was there before, not of one that is being made.
    pub(super) fn sync(&mut self, file: usize, commits: bool, what: &str) -> io::Result<()> {
        let death = self.begin()?;
        self.end(death, what)?;
        if self.fails(self.faults.sync, "syncs_failed") {
            // As Linux: the pages are clean from here on, on the disk or not. Reads still see them, the next sync succeeds.
            self.lose_some(file);
            return Err(error(Errno::IO));
        }
        let length = |change: &Change| matches!(change, Change::Length(_));
        let metadata = self.inodes[file].waiting.iter().any(length);
        self.counts.add("metadata_syncs", u64::from(commits && metadata));
        self.settle(file);
        Ok(())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((name, entry)) = &self.there {
            names.insert(name.clone(), *entry);
        }
    }
}

impl Change {
    fn sectors(&self) -> usize {
        match self {
            Self::Write { bytes, .. } => bytes.len().div_ceil(SECTOR_SIZE),
            Self::Length(_) => 1,
        }
    }
}

/// Writes as far as there is a file: what lies behind a length that was lost is lost with it.
fn put(content: &mut [u8], at: usize, bytes: &[u8]) {
    let end = content.len().min(at + bytes.len());
    if at < end {
        content[at..end].copy_from_slice(&bytes[..end - at]);
    }
}
