//! What a file system holds after some calls, and what a power cut may leave of it. Of data that was not synced any sector of 512 bytes may be
//! there or not, a length may be lost, and so may names that are not synced in their directory.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::trace::Call;

const SECTOR_SIZE: usize = 512;

/// SplitMix64.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % if bound == 0 { 1 } else { bound }
    }
}

/// A file's bytes; what lies behind them up to `length` is zero.
#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    length: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Default)]
struct File {
    durable: Content,
    waiting: Vec<Change>,
    /// As a reader of the running system sees it.
    length: usize,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory,
}

/// A change of names in one directory, whole or not at all.
#[derive(Debug, Clone)]
struct Naming {
    directory: PathBuf,
    change: Renaming,
}

#[derive(Debug, Clone)]
enum Renaming {
    Give(PathBuf, Node),
    Take(PathBuf),
    /// With everything under it.
    Move(PathBuf, PathBuf),
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: Option<usize>,
    at: usize,
    append: bool,
}

/// All files under one directory.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Names that no sync has covered, in order.
    waiting: Vec<Naming>,
    open: BTreeMap<u64, Open>,
}

impl Content {
    fn take(&mut self, change: &Change) {
        match change {
            Change::Write { at, bytes } => {
                let end = at + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                if let Some(place) = self.bytes.get_mut(*at..end) {
                    place.copy_from_slice(bytes);
                }
                self.length = self.length.max(end);
            }
            Change::Length(length) => {
                self.bytes.truncate(*length);
                self.length = *length;
            }
        }
    }
}

impl Disk {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.into(),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            waiting: Vec::new(),
            open: BTreeMap::new(),
        }
    }

    /// Does what a call did.
    ///
    /// # Errors
    /// A call on a file that the trace does not explain.
    pub(crate) fn take(&mut self, call: &Call) -> Result<(), String> {
        match call {
            Call::Open { fd, path, create, truncate, append } => self.open(*fd, path, *create, *truncate, *append),
            Call::Write { fd, at, bytes } => self.write(*fd, at.map(to_place), bytes),
            Call::Seek { fd, to } => {
                if let Some(open) = self.open.get_mut(fd) {
                    open.at = to_place(*to);
                }
            }
            Call::Length { fd, length } => self.change(*fd, Change::Length(to_place(*length))),
            Call::Sync { fd } => self.sync(*fd),
            Call::Rename { from, to } if self.has(from) => {
                self.names.get(from).ok_or_else(|| format!("renamed, and never made: {}", from.display()))?;
                self.name(Renaming::Move(from.clone(), to.clone()));
            }
            Call::Remove { path } if self.has(path) => self.name(Renaming::Take(path.clone())),
            Call::MakeDirectory { path } if self.has(path) => self.name(Renaming::Give(path.clone(), Node::Directory)),
            Call::Close { fd } => {
                self.open.remove(fd);
            }
            Call::Rename { .. } | Call::Remove { .. } | Call::MakeDirectory { .. } | Call::Say(_) => {}
        }
        Ok(())
    }

    fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.root)
    }

    fn open(&mut self, fd: u64, path: &Path, create: bool, truncate: bool, append: bool) {
        if !self.has(path) {
            self.open.remove(&fd);
            return;
        }
        let mut file = match self.names.get(path) {
            Some(Node::File(file)) => Some(*file),
            Some(Node::Directory) | None => None,
        };
        if file.is_none() && create {
            let made = self.files.len();
            file = Some(made);
            self.files.push(File::default());
            self.name(Renaming::Give(path.into(), Node::File(made)));
        }
        self.open.insert(fd, Open { path: path.into(), file, at: 0, append });
        if truncate {
            self.change(fd, Change::Length(0));
        }
    }

    fn write(&mut self, fd: u64, at: Option<usize>, bytes: &[u8]) {
        let Some(open) = self.open.get_mut(&fd) else { return };
        let Some(file) = open.file.and_then(|file| self.files.get(file)) else { return };
        let place = at.unwrap_or(if open.append { file.length } else { open.at });
        if at.is_none() {
            open.at = place + bytes.len();
        }
        self.change(fd, Change::Write { at: place, bytes: bytes.into() });
    }

    fn change(&mut self, fd: u64, change: Change) {
        let file = self.open.get(&fd).and_then(|open| open.file);
        let Some(file) = file.and_then(|file| self.files.get_mut(file)) else { return };
        file.length = match &change {
            Change::Write { at, bytes } => file.length.max(at + bytes.len()),
            Change::Length(length) => *length,
        };
        file.waiting.push(change);
    }

    fn sync(&mut self, fd: u64) {
        let Some(open) = self.open.get(&fd) else { return };
        if let Some(file) = open.file.and_then(|file| self.files.get_mut(file)) {
            file.waiting.drain(..).for_each(|change| file.durable.take(&change));
            return;
        }
        let directory = open.path.clone();
        let (settled, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|naming| naming.directory == directory);
        self.waiting = waiting;
        let settled: Vec<Naming> = settled;
        settled.iter().for_each(|naming| put(&mut self.durable_names, naming));
    }

    fn name(&mut self, change: Renaming) {
        let (Renaming::Give(path, _) | Renaming::Take(path) | Renaming::Move(_, path)) = &change;
        let directory = path.parent().unwrap_or(&self.root).to_path_buf();
        let naming = Naming { directory, change };
        put(&mut self.names, &naming);
        self.waiting.push(naming);
    }

    /// Writes out what a power cut at this moment leaves. Returns whether anything was lost.
    pub(crate) fn cut_power(&self, to: &Path, rng: &mut Rng) -> io::Result<bool> {
        let mut lost = false;
        let mut names = self.durable_names.clone();
        // A file system with a journal keeps the order of its names; another one keeps any of them.
        let in_order = rng.below(4) != 0;
        let kept = rng.below(self.waiting.len() as u64 + 1);
        for (index, naming) in self.waiting.iter().enumerate() {
            if if in_order { (index as u64) < kept } else { rng.below(2) == 0 } {
                put(&mut names, naming);
            } else {
                lost = true;
            }
        }
        std::fs::create_dir_all(to)?;
        // A parent comes before what is in it.
        for (path, node) in &names {
            let Ok(place) = path.strip_prefix(&self.root).map(|inner| to.join(inner)) else { continue };
            if place.parent().is_some_and(|parent| !parent.is_dir()) {
                continue;
            }
            match node {
                Node::Directory => std::fs::create_dir_all(place)?,
                Node::File(file) => {
                    let Some(file) = self.files.get(*file) else { continue };
                    let (content, whole) = file.after_cut(rng);
                    lost |= !whole;
                    let image = std::fs::File::create(place)?;
                    image.write_all_at(&content.bytes, 0)?;
                    image.set_len(content.length as u64)?;
                }
            }
        }
        Ok(lost)
    }
}

impl File {
    /// What is on the disk, and whether that is everything.
    fn after_cut(&self, rng: &mut Rng) -> (Content, bool) {
        let mut content = self.durable.clone();
        let mut whole = true;
        // Per file nothing, a half, nearly all, or all of it.
        let keep_in_16 = [0, 8, 15, 16].get(to_place(rng.below(4))).copied().unwrap_or(16);
        for change in &self.waiting {
            match change {
                Change::Write { at, bytes } => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let next = ((at + from) / SECTOR_SIZE + 1) * SECTOR_SIZE - at;
                        let sector = bytes.get(from..next.min(bytes.len())).unwrap_or_default();
                        if rng.below(16) < keep_in_16 {
                            content.take(&Change::Write { at: at + from, bytes: sector.into() });
                        } else {
                            whole = false;
                        }
                        from = next;
                    }
                }
                Change::Length(_) if rng.below(16) < keep_in_16 => content.take(change),
                Change::Length(_) => whole = false,
            }
        }
        (content, whole)
    }
}

fn put(names: &mut BTreeMap<PathBuf, Node>, naming: &Naming) {
    match &naming.change {
        Renaming::Give(path, node) => {
            names.insert(path.clone(), *node);
        }
        Renaming::Take(path) => {
            names.remove(path);
        }
        Renaming::Move(from, to) => {
            let moved = names.extract_if(.., |path, _| path.starts_with(from)).collect::<Vec<_>>();
            for (path, node) in moved {
                let inner = path.strip_prefix(from).unwrap_or(&path);
                names.insert(if inner.as_os_str().is_empty() { to.clone() } else { to.join(inner) }, node);
            }
        }
    }
}

fn to_place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
