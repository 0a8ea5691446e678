//! Reads what `strace -ff -y -xx` wrote: one file per thread, merged by time. Knows the calls that change files, and no more of their arguments
//! than that needs.

use std::path::{Path, PathBuf};

/// The calls that are recorded.
pub(crate) const CALLS: &str = "openat,write,writev,pwrite64,lseek,ftruncate,fallocate,fsync,fdatasync,rename,renameat,\
                                renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,close";

/// A call that succeeded.
#[derive(Debug)]
pub(crate) enum Call {
    /// A descriptor for this path: whether the file is made if there is none, emptied, written at its end.
    Open {
        fd: u64,
        path: PathBuf,
        create: bool,
        truncate: bool,
        append: bool,
    },
    /// At the descriptor's own place, or at one of the caller's choice. Unit: bytes.
    Write {
        fd: u64,
        at: Option<u64>,
        bytes: Vec<u8>,
    },
    /// The descriptor's own place. Unit: bytes.
    Seek {
        fd: u64,
        to: u64,
    },
    /// Unit: bytes.
    Length {
        fd: u64,
        length: u64,
    },
    /// Of a file or a directory.
    Sync {
        fd: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    Close {
        fd: u64,
    },
    /// On standard output.
    Say(String),
}

/// Reads the files `trace.*` of a directory.
///
/// # Errors
/// A line that says more than is understood here.
pub(crate) fn read(directory: &Path) -> Result<Vec<Call>, String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trace.")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for line in text.lines() {
            if let Some((time, rest)) = line.split_once(' ') {
                lines.push((time.to_owned(), rest.to_owned()));
            }
        }
    }
    lines.sort();
    let mut calls = Vec::new();
    for (_, line) in &lines {
        calls.extend(
            call(line).ok_or_else(|| format!("a line that is not understood: {}", line.get(..200).unwrap_or(line)))?,
        );
    }
    Ok(calls)
}

/// `Some(None)`: nothing that changes a file.
fn call(line: &str) -> Option<Option<Call>> {
    if line.starts_with("+++") || line.starts_with("---") {
        return Some(None);
    }
    let (name, rest) = line.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(" = "))?;
    let arguments = split(arguments);
    let argument = |index: usize| arguments.get(index).map(String::as_str);
    let result = result.split([' ', '<']).next()?;
    let Ok(result) = result.parse::<u64>() else { return Some(None) };
    let fd = || argument(0)?.split('<').next()?.parse::<u64>().ok();
    let path = |directory: Option<usize>, name: usize| {
        let name = PathBuf::from(String::from_utf8(text(argument(name)?)?).ok()?);
        let base = directory.and_then(|index| String::from_utf8(text(argument(index)?.split_once('<')?.1)?).ok());
        Some(base.map_or_else(|| name.clone(), |base| Path::new(&base).join(&name)))
    };
    Some(Some(match name {
        "openat" => {
            let flags = argument(2)?;
            let has = |flag| flags.split('|').any(|word| word == flag);
            let (create, truncate, append) = (has("O_CREAT"), has("O_TRUNC"), has("O_APPEND"));
            Call::Open { fd: result, path: path(Some(0), 1)?, create, truncate, append }
        }
        "write" | "pwrite64" => {
            let mut bytes = text(argument(1)?)?;
            bytes.truncate(usize::try_from(result).ok()?);
            match (name, fd()?) {
                ("write", 1 | 2) => Call::Say(String::from_utf8_lossy(&bytes).into_owned()),
                ("write", fd) => Call::Write { fd, at: None, bytes },
                (_, fd) => Call::Write { fd, at: Some(argument(3)?.parse().ok()?), bytes },
            }
        }
        "writev" => {
            let parts = argument(1)?.split("iov_base=").skip(1).map(text);
            let bytes = parts.collect::<Option<Vec<_>>>()?.concat();
            Call::Write { fd: fd()?, at: None, bytes: bytes.get(..usize::try_from(result).ok()?)?.to_vec() }
        }
        "lseek" => Call::Seek { fd: fd()?, to: result },
        "ftruncate" => Call::Length { fd: fd()?, length: argument(1)?.parse().ok()? },
        "fsync" | "fdatasync" => Call::Sync { fd: fd()? },
        "rename" => Call::Rename { from: path(None, 0)?, to: path(None, 1)? },
        "renameat" | "renameat2" => Call::Rename { from: path(Some(0), 1)?, to: path(Some(2), 3)? },
        "unlink" | "rmdir" => Call::Remove { path: path(None, 0)? },
        "unlinkat" => Call::Remove { path: path(Some(0), 1)? },
        "mkdir" => Call::MakeDirectory { path: path(None, 0)? },
        "mkdirat" => Call::MakeDirectory { path: path(Some(0), 1)? },
        "close" => Call::Close { fd: fd()? },
        _ => return None,
    }))
}

/// Arguments, at the commas outside of strings and brackets.
fn split(arguments: &str) -> Vec<String> {
    let (mut all, mut current) = (Vec::new(), String::new());
    let (mut quoted, mut depth) = (false, 0);
    for letter in arguments.chars() {
        match letter {
            '"' => quoted = !quoted,
            '[' | '{' if !quoted => depth += 1,
            ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                all.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(letter);
    }
    all.push(current.trim().to_owned());
    all
}

/// The bytes of `"\x41\x42"`, or of a descriptor's path `\x41\x42>`.
fn text(quoted: &str) -> Option<Vec<u8>> {
    let inner = quoted.trim().trim_start_matches('"').split(['"', '>']).next()?;
    let mut bytes = Vec::with_capacity(inner.len() / 4);
    for code in inner.split("\\x").skip(1) {
        bytes.push(u8::from_str_radix(code, 16).ok()?);
    }
    Some(bytes)
}
