//! Cuts the end of the view's own journal at its first batch that is not whole, before fjall reads it. A power cut loses any sectors of what
//! was not synced; where they lie inside one value the batch still parses, and fjall then refuses to open (`ChecksumMismatch`). What is cut
//! was never synced: those rows are in the log. Changes nothing but the length of the newest journal file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::OpenError;

/// Content of fjall's file `version` for the journal format read here.
///
/// # Source
/// fjall 3.1.13, `src/file.rs` and `src/journal/entry.rs`.
const FORMAT: [u8; 4] = *b"FJL\x03";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// An item's numbers behind its tag: value type, compression, keyspace, lengths of key, value and stored value. Unit: bytes.
const ITEM_HEAD_SIZE: usize = 1 + 1 + 8 + 2 + 4 + 4;
/// Read at once. Unit: bytes.
const BUFFER_SIZE: usize = 256 * 1024;

/// What is left of the journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The newest journal file, and the sequence number of its last batch, if it has one.
    pub(crate) last: Option<(PathBuf, u64)>,
}

/// Where the whole batches of a file end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Unit: bytes.
    pub(crate) end: u64,
    /// Sequence number of the last one.
    pub(crate) last: Option<u64>,
}

/// Cuts the newest journal file. Older ones were synced whole before it was made, and fjall checks them.
pub(crate) fn cut(directory: &Path) -> Result<Kept, OpenError> {
    let Some(path) = newest(directory)? else { return Ok(Kept::default()) };
    let scan = scan(&path).map_err(OpenError::io(&path, "read the view's journal"))?;
    let file = OpenOptions::new().write(true).open(&path).map_err(OpenError::io(&path, "open the view's journal"))?;
    let size = file.metadata().map_err(OpenError::io(&path, "read its size"))?.len();
    if scan.end < size {
        let cut = file.set_len(scan.end).and_then(|()| file.sync_all());
        cut.map_err(OpenError::io(&path, "cut the unfinished end of the view's journal"))?;
    }
    Ok(Kept { last: scan.last.map(|last| (path, last)) })
}

/// The journal file that is appended to: the one with the highest number. `None` when there is none in this format.
pub(crate) fn newest(directory: &Path) -> Result<Option<PathBuf>, OpenError> {
    match std::fs::read(directory.join("version")) {
        Ok(version) if version == FORMAT => {}
        // Without a database, or in a format of which fjall knows more.
        Ok(_) | Err(_) => return Ok(None),
    }
    let mut newest = None;
    for entry in std::fs::read_dir(directory).map_err(OpenError::io(directory, "list it"))? {
        let path = entry.map_err(OpenError::io(directory, "list it"))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// Reads batches until one is not whole.
pub(crate) fn scan(path: &Path) -> io::Result<Scan> {
    let file = File::open(path)?;
    let left = file.metadata()?.len();
    let mut bytes = Bytes { reader: BufReader::with_capacity(BUFFER_SIZE, file), left, taken: Vec::new() };
    let mut scan = Scan { end: 0, last: None };
    while let Some(last) = bytes.batch()? {
        scan.last = Some(last);
        scan.end = left - bytes.left;
    }
    Ok(scan)
}

/// What is left of a file.
struct Bytes {
    reader: BufReader<File>,
    /// Unit: bytes.
    left: u64,
    taken: Vec<u8>,
}

impl Bytes {
    /// The sequence number of the next batch, if that is whole and its checksum right.
    fn batch(&mut self) -> io::Result<Option<u64>> {
        let Some(&[START, count @ .., s0, s1, s2, s3, s4, s5, s6, s7]) = self.take_array::<13>()?.as_ref() else {
            return Ok(None);
        };
        let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let mut hash = Xxh3::new();
        for _ in 0..u32::from_le_bytes(count) {
            if !self.entry(&mut hash)? {
                return Ok(None);
            }
        }
        let expected = [&[END][..], &hash.digest().to_le_bytes(), &FORMAT].concat();
        Ok(self.take_array::<13>()?.filter(|end| end[..] == expected[..]).map(|_| sequence))
    }

    /// Takes an item or a clearing into the checksum. Returns whether it was one.
    fn entry(&mut self, hash: &mut Xxh3) -> io::Result<bool> {
        let Some(tag) = self.take_array::<1>()? else { return Ok(false) };
        hash.update(&tag);
        let size = match tag {
            [ITEM] => {
                let Some(head) = self.take_array::<ITEM_HEAD_SIZE>()? else { return Ok(false) };
                hash.update(&head);
                let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = head;
                u64::from(u16::from_le_bytes([k0, k1])) + u64::from(u32::from_le_bytes([v0, v1, v2, v3]))
            }
            [CLEAR] => 8,
            [_] => return Ok(false),
        };
        let whole = self.take(size)?;
        hash.update(&self.taken);
        Ok(whole)
    }

    fn take_array<const SIZE: usize>(&mut self) -> io::Result<Option<[u8; SIZE]>> {
        let whole = self.take(SIZE as u64)?;
        Ok(<[u8; SIZE]>::try_from(&self.taken[..]).ok().filter(|_| whole))
    }

    /// Takes as many bytes, if the file has them: a length that is not true asks for no memory.
    fn take(&mut self, size: u64) -> io::Result<bool> {
        self.taken.clear();
        if size > self.left {
            return Ok(false);
        }
        self.left -= size;
        let read = self.reader.by_ref().take(size).read_to_end(&mut self.taken)?;
        Ok(read as u64 == size)
    }
}
