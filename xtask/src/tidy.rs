//! What no compiler checks: that files say what they are for, stay one idea long, and that documents tell the truth about the tree.
//! Runs as a command and as a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{root, say};

/// Longest source file. Unit: lines. Past 500 one asks which second idea moved in; past this one must.
const FILE_LINES_MAX: usize = 600;
/// Crates that know no clock, thread, file, socket or environment.
const PURE: [&str; 2] = ["protocol/src", "core-shard/src"];
/// What a pure crate never names.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "HashMap::new",
    "tokio",
    "static mut",
];
/// What runs on shard threads beside the pure crates.
const SHARD_THREADS: [&str; 8] = [
    "edge/src/quic",
    "edge/src/shard_thread",
    "edge/src/websocket",
    "edge/src/runtime",
    "edge/src/ring.rs",
    "edge/src/slots.rs",
    "edge/src/embedded.rs",
    "persistence/src/store.rs",
];
/// What never happens on a shard thread: locks, files, the database. (`edge/src/quic/socket.rs` binds before the threads start.)
const BLOCKING: [&str; 8] =
    ["Mutex", "RwLock", "Condvar", "std::fs", "fjall", "thread::park", "blocking_recv", "blocking_send"];
/// What each pure crate may depend on.
const PURE_DEPENDENCIES: [(&str, &[&str]); 2] = [("protocol", &["rkyv"]), ("core-shard", &["tern-protocol", "bytes"])];

/// Checks everything.
///
/// # Errors
/// Every finding, a line each.
pub(crate) fn run() -> Result<(), String> {
    let findings = findings();
    if findings.is_empty() {
        say("--- tidy: ok");
        return Ok(());
    }
    Err(format!("tidy found:\n{}", findings.join("\n")))
}

fn findings() -> Vec<String> {
    let root = root();
    let files = tracked(&root);
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        all.extend(source_findings(&root, file));
    }
    all.extend(document_findings(&root, &files));
    all.extend(dependency_findings(&root));
    all
}

/// What git knows, so that build products do not count; everything below the root where there is no git.
fn tracked(root: &Path) -> Vec<PathBuf> {
    let listed =
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
    match listed {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect()
        }
        Ok(_) | Err(_) => walk(root, Path::new("")),
    }
}

fn walk(root: &Path, below: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join(below)) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let path = below.join(entry.file_name());
        if entry.path().is_dir() {
            if entry.file_name() != "target" && entry.file_name() != ".git" {
                files.extend(walk(root, &path));
            }
        } else {
            files.push(path);
        }
    }
    files
}

fn source_findings(root: &Path, file: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join(file)).unwrap_or_default();
    let name = file.display();
    let mut findings = Vec::new();
    if !text.starts_with("//!") && !text.starts_with("#!") {
        findings.push(format!("{name}: does not begin with //! and what it is for"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(format!("{name}: {lines} lines: which second idea moved in?"));
    }
    // Put together here, so that this very line is not found.
    for leftover in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")] {
        if text.contains(leftover) {
            findings.push(format!("{name}: has a {leftover}"));
        }
    }
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    if SHARD_THREADS.iter().any(|shard| file.starts_with(shard)) {
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for blocking in BLOCKING.iter().filter(|blocking| code.contains(**blocking)) {
            findings.push(format!("{name}: runs on a shard thread and names {blocking}"));
        }
    }
    if PURE.iter().any(|pure| file.starts_with(pure)) {
        for impure in IMPURE.iter().filter(|impure| code.contains(**impure)) {
            findings.push(format!("{name}: a pure crate names {impure}"));
        }
    }
    findings
}

/// Documents name paths and facts: each must be true.
fn document_findings(root: &Path, files: &[PathBuf]) -> Vec<String> {
    let mut findings = Vec::new();
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let architecture = read("ARCHITECTURE.md");
    for name in architecture.split('`').skip(1).step_by(2) {
        let looks_like_path = name.contains('/') && !name.contains(' ') && !name.contains('*');
        if looks_like_path && !root.join(name).exists() {
            findings.push(format!("ARCHITECTURE.md names {name}, which does not exist"));
        }
    }
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find(|line| line.starts_with("members")).unwrap_or_default();
    for member in members.split('"').skip(1).step_by(2) {
        if !architecture.contains(&format!("`{member}/`")) {
            findings.push(format!("ARCHITECTURE.md has no entry for {member}/"));
        }
    }
    let lines = architecture.lines().count();
    if lines > 300 {
        findings.push(format!("ARCHITECTURE.md has {lines} lines: at most 300"));
    }
    let readme = read("README.md");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap_or_default();
    if !readme.contains(version.trim_matches('"')) {
        findings.push(format!("README.md does not name the Rust version {version}"));
    }
    let defaults = read("edge/default.toml");
    for port in ["7443", "7480"] {
        if !readme.contains(port) || !defaults.contains(port) {
            findings.push(format!("README.md and edge/default.toml do not both name port {port}"));
        }
    }
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "md")) {
        let text = read(&file.to_string_lossy());
        let base = file.parent().unwrap_or(Path::new(""));
        for link in links(&text) {
            if !root.join(base).join(&link).exists() {
                findings.push(format!("{}: links to {link}, which does not exist", file.display()));
            }
        }
    }
    findings
}

/// Relative links of a Markdown text, without their fragments.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with('#') && !target.is_empty())
        .map(|target| target.split('#').next().unwrap_or_default().to_owned())
        .collect()
}

fn dependency_findings(root: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, allowed) in PURE_DEPENDENCIES {
        let manifest = fs::read_to_string(root.join(name).join("Cargo.toml")).unwrap_or_default();
        let section = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or_default();
        for line in section.lines().skip(1).filter(|line| line.contains('=') && !line.trim_start().starts_with('#')) {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&dependency) {
                findings.push(format!("{name} depends on {dependency}: it may only depend on {allowed:?}"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        assert_eq!(findings(), Vec::<String>::new());
    }

    #[test]
    fn relative_links_are_found() {
        assert_eq!(links("see [a](docs/a.md#b), [c](https://x.y), [d](#e)"), ["docs/a.md"]);
    }
}
