//! Writes a first corpus from the golden files: frames as they are, with a head as records, and masked as WebSocket messages.
//! Never removes what a fuzzer has found.

use std::fs;
use std::path::Path;

use tern_protocol::command::CommandHead;
use tern_protocol::stored::{
    AccountRow, ConversationRow, DeviceRow, DirectoryRow, MemberRow, StoredRow, UserRow, encode_row,
};

fn main() -> std::io::Result<()> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = fuzz.join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), bytes)
    };
    let head = CommandHead { actor: 7, device: 8, session: 1 << 32, run: 9, ..CommandHead::default() };
    for entry in fs::read_dir(fuzz.join("../protocol/tests/golden"))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let frame = bytes_of(&fs::read_to_string(&path)?);
        write("frame", &name, &frame)?;
        write("frame", &format!("{name}-archive"), frame.get(6..).unwrap_or_default())?;
        write("record", &name, &[&frame[..], &head.to_bytes()].concat())?;
        write("websocket", &name, &message(&frame))?;
    }
    write("row", "conversation", &encode_row(&ConversationRow { title: b"Engines".to_vec(), ..Default::default() }))?;
    write("row", "member", &encode_row(&MemberRow::default()))?;
    write("row", "user", &encode_row(&UserRow { name: b"ada".to_vec(), ..Default::default() }))?;
    write("row", "device", &encode_row(&DeviceRow { name: b"phone".to_vec(), ..Default::default() }))?;
    write("row", "directory", &encode_row(&DirectoryRow::default()))?;
    write("row", "account", &encode_row(&AccountRow { password: b"$argon2id$".to_vec(), ..Default::default() }))?;
    write("row", "empty", &[UserRow::VERSION])
}

/// A masked binary message in two fragments with a ping between them, cut into reads of three bytes.
fn message(frame: &[u8]) -> Vec<u8> {
    let (first, second) = frame.split_at(frame.len().min(8));
    let mut out = vec![3];
    for (opcode, content) in [(0x02, first), (0x89, b"?"), (0x80, second)] {
        const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
        out.push(opcode);
        match u8::try_from(content.len()) {
            Ok(short @ 0..=125) => out.push(0x80 | short),
            _ => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes());
            }
        }
        out.extend(MASK);
        out.extend(content.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
    out
}

fn bytes_of(dump: &str) -> Vec<u8> {
    let digits = dump.lines().flat_map(|line| line.split_whitespace().skip(1));
    digits.filter_map(|digits| u8::from_str_radix(digits, 16).ok()).collect()
}
