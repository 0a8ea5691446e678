//! Cuts a byte stream into frames. A frame that lies within one chunk is a slice of it; only one that spans chunks is copied. Looks at
//! the length alone, before anything of the content is kept; what a frame says is the core's business.

use bytes::{Buf, Bytes};
use tern_protocol::CloseCode;
use tern_protocol::frame::{self, FrameError};
use tern_protocol::limit::FRAME_SIZE_MAX;

/// Bytes of one stream that are not frames yet.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// What is left of the chunk that was pushed last.
    chunk: Bytes,
    /// The beginning of a frame whose end is not in `chunk`. Never longer than one frame.
    partial: Vec<u8>,
}

impl Assembler {
    /// Adds the next bytes. Only after [`Self::next`] has returned `None`.
    pub(super) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "take what is there before pushing more");
        self.chunk = chunk;
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// A length that no frame has; nothing of that frame is kept.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.partial.is_empty() {
            match frame::size(&self.chunk)? {
                Some(size) if size <= self.chunk.len() => return Ok(Some(self.chunk.split_to(size))),
                Some(_) | None => self.keep(self.chunk.len()),
            }
            return Ok(None);
        }
        if self.partial.len() < LENGTH_SIZE {
            self.keep(LENGTH_SIZE - self.partial.len());
        }
        let Some(size) = frame::size(&self.partial)? else { return Ok(None) };
        self.keep(size - self.partial.len());
        if self.partial.len() < size {
            return Ok(None);
        }
        Ok(Some(Bytes::from(std::mem::take(&mut self.partial))))
    }

    /// Whether a frame has begun and not ended.
    pub(super) const fn is_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    fn keep(&mut self, count: usize) {
        let count = count.min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk[..count]);
        self.chunk.advance(count);
    }
}

/// What a broken frame closes its connection with.
pub(crate) const fn code_of(error: FrameError) -> CloseCode {
    match error {
        FrameError::Length(length) if length > FRAME_SIZE_MAX as u64 - 4 => CloseCode::FrameTooLarge,
        FrameError::Version(_) => CloseCode::UnsupportedVersion,
        FrameError::Length(_) | FrameError::Kind(_) | FrameError::Archive => CloseCode::Malformed,
    }
}

/// Bytes of the length field.
const LENGTH_SIZE: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(size: usize) -> Vec<u8> {
        let mut frame = u32::try_from(size - LENGTH_SIZE).unwrap().to_le_bytes().to_vec();
        frame.extend((LENGTH_SIZE..size).map(|n| u8::try_from(n % 251).unwrap()));
        frame
    }

    fn drain(assembler: &mut Assembler, into: &mut Vec<Bytes>) -> Result<(), FrameError> {
        while let Some(frame) = assembler.next()? {
            into.push(frame);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            sizes in prop::collection::vec(6usize..400, 1..20),
            cuts in prop::collection::vec(1usize..300, 1..60),
        ) {
            let frames: Vec<Vec<u8>> = sizes.iter().map(|size| frame(*size)).collect();
            let mut stream = Bytes::from(frames.concat());
            let mut assembler = Assembler::default();
            let mut seen = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !stream.is_empty() {
                let cut = (*cuts.next().unwrap()).min(stream.len());
                assembler.push(stream.split_to(cut));
                drain(&mut assembler, &mut seen).unwrap();
            }
            prop_assert!(!assembler.is_partial());
            prop_assert_eq!(seen, frames);
        }
    }

    #[test]
    fn a_frame_within_one_chunk_is_not_copied() {
        let chunk = Bytes::from([frame(40), frame(60)].concat());
        let start = chunk.as_ptr();
        let mut assembler = Assembler::default();
        assembler.push(chunk);
        let mut seen = Vec::new();
        drain(&mut assembler, &mut seen).unwrap();
        assert_eq!(seen[0].as_ptr(), start);
        assert_eq!(seen[1].as_ptr(), start.wrapping_add(40));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_kept() {
        for cut in 1..=LENGTH_SIZE {
            let mut bytes = Bytes::from((u32::try_from(FRAME_SIZE_MAX).unwrap()).to_le_bytes().to_vec());
            let mut assembler = Assembler::default();
            assembler.push(bytes.split_to(cut));
            let mut result = assembler.next();
            if !bytes.is_empty() {
                assert_eq!(result, Ok(None));
                assembler.push(bytes);
                result = assembler.next();
            }
            assert!(matches!(result, Err(FrameError::Length(_))));
            assert!(assembler.partial.capacity() < 64);
        }
    }
}
