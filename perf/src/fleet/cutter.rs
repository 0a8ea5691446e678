//! Cuts the bytes of a stream into frames. A frame that lies within one chunk is read where it is; only one that spans chunks is copied.

use tern_protocol::FrameError;
use tern_protocol::frame;

/// Bytes of the length field.
const LENGTH_SIZE: usize = 4;

/// The beginning of a frame whose end has not come. Never longer than one frame.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    partial: Vec<u8>,
}

impl Cutter {
    /// Takes the next bytes and hands out every frame that is complete with them.
    ///
    /// # Errors
    /// A length that no frame has: the stream cannot be continued.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                match frame::size(bytes)? {
                    Some(size) if size <= bytes.len() => {
                        let (whole, rest) = bytes.split_at(size);
                        take(whole);
                        bytes = rest;
                    }
                    Some(_) | None => {
                        self.partial.extend_from_slice(bytes);
                        return Ok(());
                    }
                }
                continue;
            }
            let wanted = match frame::size(&self.partial)? {
                Some(size) => size,
                None => LENGTH_SIZE,
            };
            let (more, rest) = bytes.split_at(bytes.len().min(wanted - self.partial.len()));
            self.partial.extend_from_slice(more);
            bytes = rest;
            if frame::size(&self.partial)? == Some(self.partial.len()) {
                take(&self.partial);
                // The memory goes too: most streams never carry a frame in pieces again.
                self.partial = Vec::new();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tern_protocol::server::Drain;

    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_bytes_were_cut() {
        let mut stream = Vec::new();
        for reconnect_after in 0..20 {
            frame::encode(&Drain { reconnect_after }, &mut stream);
        }
        for cut in 1..stream.len() {
            let mut cutter = Cutter::default();
            let mut frames = Vec::new();
            for chunk in stream.chunks(cut) {
                cutter.push(chunk, |frame| frames.push(frame.to_vec())).expect("valid");
            }
            assert_eq!((frames.len(), frames.concat()), (20, stream.clone()), "cut {cut}");
            assert!(cutter.partial.is_empty());
        }
    }

    #[test]
    fn an_impossible_length_is_refused() {
        assert!(Cutter::default().push(&u32::MAX.to_le_bytes(), |_| {}).is_err());
        let mut cutter = Cutter::default();
        assert!(cutter.push(&[0xff, 0xff], |_| {}).is_ok());
        assert!(cutter.push(&[0xff, 0xff], |_| {}).is_err());
    }
}
