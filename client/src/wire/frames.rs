//! Cuts a stream of bytes into whole frames. Never buffers more than one frame and what came behind it in the same read.

use bytes::{Bytes, BytesMut};
use tern_protocol::FrameError;
use tern_protocol::frame;

/// Collects bytes of one stream and hands out whole frames, header included.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    /// An empty reader, for the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what was read. Take all frames out with [`Self::take`] before the next read: that bounds the buffer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` until more bytes come.
    ///
    /// # Errors
    /// A length that no frame has. The stream cannot be continued.
    pub fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        match frame::size(&self.buffer)? {
            Some(size) if size <= self.buffer.len() => Ok(Some(self.buffer.split_to(size).freeze())),
            Some(_) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::server::Drain;

    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_bytes_were_cut() {
        let mut stream = Vec::new();
        for after in 0..20 {
            frame::encode(&Drain { reconnect_after: after }, &mut stream);
        }
        for cut in 1..stream.len() {
            let mut reader = FrameReader::new();
            let mut frames = Vec::new();
            for chunk in stream.chunks(cut) {
                reader.push(chunk);
                while let Some(frame) = reader.take().expect("valid") {
                    frames.extend_from_slice(&frame);
                }
            }
            assert_eq!(frames, stream, "cut {cut}");
        }
    }

    #[test]
    fn an_impossible_length_is_refused_before_anything_is_buffered() {
        let mut reader = FrameReader::new();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(reader.take().is_err());
    }
}
