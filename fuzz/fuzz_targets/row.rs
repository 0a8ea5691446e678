//! Any bytes as a row of the view, and as the end of a row's key. What is read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_protocol::stored::{self, Part};

fuzz_target!(|bytes: &[u8]| {
    macro_rules! rows {
        ($($row:ty),+ $(,)?) => {
            $(if let Ok(row) = stored::decode_row::<$row>(bytes) {
                assert_eq!(stored::decode_row::<$row>(&stored::encode_row(&row)), Ok(row));
            })+
        };
    }
    rows!(
        stored::ConversationRow,
        stored::MemberRow,
        stored::UserRow,
        stored::DeviceRow,
        stored::DirectoryRow,
        stored::AccountRow,
        stored::RulesRow,
    );
    if let Some(part) = Part::parse(bytes) {
        assert_eq!(part.key(b""), bytes);
    }
});
