//! RFC 6455 framing, server role: client frames are masked, binary messages only, no extensions. Sans-IO: bytes in, messages out.
//! Unmasks in place and hands out slices; refuses a message by its declared length, before any of it is kept.

use bytes::{Buf, Bytes, BytesMut};
use tern_protocol::limit::FRAME_SIZE_MAX;

/// Largest message, all its fragments together. Unit: bytes. One message is one protocol frame.
pub(crate) const MESSAGE_SIZE_MAX: usize = FRAME_SIZE_MAX;
/// Largest content of a control frame. Unit: bytes.
///
/// # Source
/// RFC 6455 section 5.5: "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."
const CONTROL_SIZE_MAX: usize = 125;
/// Longest header of a frame from a client: two bytes, eight of length, four of mask. Unit: bytes.
const HEADER_SIZE_MAX: usize = 14;

/// What a client has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A whole binary message.
    Message(Bytes),
    /// To be answered by a pong with the same content.
    Ping(Bytes),
    /// An answer to a ping, or a sign of life.
    Pong,
    /// The client closes; `None`: it does not say why.
    Close(Option<u16>),
}

/// How a client has broken the protocol, as the code that the connection is closed with.
///
/// # Source
/// RFC 6455 section 7.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// 1002: a frame that this protocol does not have.
    Protocol,
    /// 1003: text, where only binary is understood.
    Text,
    /// 1007: a close reason that is not UTF-8.
    Utf8,
    /// 1009: a message over the limit.
    TooLarge,
}

impl Violation {
    /// The close code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Text => 1003,
            Self::Utf8 => 1007,
            Self::TooLarge => 1009,
        }
    }
}

/// Reads one client's frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Fragments of a message whose end has not come; `None`: no message has begun.
    fragments: Option<BytesMut>,
}

/// A header, decoded and checked.
#[derive(Debug, Clone, Copy)]
struct Header {
    opcode: Opcode,
    is_final: bool,
    mask: [u8; 4],
    header_size: usize,
    content_size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Decoder {
    /// The next thing that the client has sent, taken out of `input`; `None`: not all of it is there.
    ///
    /// # Errors
    /// [`Violation`]: nothing more can be read from this client.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Violation> {
        loop {
            let Some(header) = self.header(input)? else { return Ok(None) };
            if input.len() < header.header_size + header.content_size {
                return Ok(None);
            }
            input.advance(header.header_size);
            let mut content = input.split_to(header.content_size);
            unmask(&mut content, header.mask);
            if let Some(event) = self.take(header, content)? {
                return Ok(Some(event));
            }
        }
    }

    /// Whether a message or a frame has begun and not ended.
    #[must_use]
    pub fn is_partial(&self, input: &[u8]) -> bool {
        self.fragments.is_some() || !input.is_empty()
    }

    /// Decodes a header and refuses what may not be, as soon as the bytes that say so are there.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, Violation> {
        let Some([first, rest @ ..]) = input.get(..HEADER_SIZE_MAX.min(input.len())) else { return Ok(None) };
        let is_final = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(Violation::Protocol);
        }
        let opcode = match (first & 0x0f, self.fragments.is_some()) {
            (0x0, true) => Opcode::Continuation,
            (0x1, false) => return Err(Violation::Text),
            (0x2, false) => Opcode::Binary,
            (0x8, _) => Opcode::Close,
            (0x9, _) => Opcode::Ping,
            (0xa, _) => Opcode::Pong,
            _ => return Err(Violation::Protocol),
        };
        let [second, rest @ ..] = rest else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Protocol);
        }
        let is_control = matches!(opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
        let short = usize::from(second & 0x7f);
        if is_control && (!is_final || short > CONTROL_SIZE_MAX) {
            return Err(Violation::Protocol);
        }
        let Some((content_size, length_size)) = content_size(short, rest)? else { return Ok(None) };
        let kept = if is_control { 0 } else { self.fragments.as_ref().map_or(0, BytesMut::len) };
        if content_size > (MESSAGE_SIZE_MAX - kept) as u64 {
            return Err(Violation::TooLarge);
        }
        let Some(mask) = rest.get(length_size..).and_then(<[u8]>::first_chunk::<4>) else { return Ok(None) };
        let content_size = usize::try_from(content_size).map_err(|_| Violation::TooLarge)?;
        Ok(Some(Header { opcode, is_final, mask: *mask, header_size: 2 + length_size + 4, content_size }))
    }

    fn take(&mut self, header: Header, content: BytesMut) -> Result<Option<Event>, Violation> {
        match header.opcode {
            Opcode::Binary if header.is_final => Ok(Some(Event::Message(content.freeze()))),
            Opcode::Binary => {
                self.fragments = Some(content);
                Ok(None)
            }
            Opcode::Continuation => {
                let Some(mut message) = self.fragments.take() else { return Err(Violation::Protocol) };
                message.extend_from_slice(&content);
                if header.is_final {
                    return Ok(Some(Event::Message(message.freeze())));
                }
                self.fragments = Some(message);
                Ok(None)
            }
            Opcode::Close => close(&content).map(|code| Some(Event::Close(code))),
            Opcode::Ping => Ok(Some(Event::Ping(content.freeze()))),
            Opcode::Pong => Ok(Some(Event::Pong)),
        }
    }
}

/// The size of the content, and of the field that says it beyond the second byte; `None`: not all of the field is there.
///
/// # Source
/// RFC 6455 section 5.2: "the minimal number of bytes MUST be used to encode the length", and of 64 bits "the most significant bit MUST
/// be 0".
fn content_size(short: usize, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let (size, least, field_size) = match short {
        126 => match rest.first_chunk::<2>() {
            Some(field) => (u64::from(u16::from_be_bytes(*field)), 126, 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(field) => (u64::from_be_bytes(*field), 0x1_0000, 8),
            None => return Ok(None),
        },
        _ => (short as u64, 0, 0),
    };
    if size < least || size >> 63 != 0 {
        return Err(Violation::Protocol);
    }
    Ok(Some((size, field_size)))
}

/// The code of a close frame.
///
/// # Source
/// RFC 6455 section 7.4: 1004, 1005, 1006 and 1015 "MUST NOT be set as a status code in a Close control frame"; 3000-3999 are for
/// libraries, 4000-4999 for applications, the others not used.
fn close(content: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = content.split_first_chunk::<2>() else {
        return if content.is_empty() { Ok(None) } else { Err(Violation::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation::Utf8);
    }
    Ok(Some(code))
}

/// Takes the client's mask off, eight bytes at a time.
fn unmask(content: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = content.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// A header that the server writes: unmasked, always the whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing {
    /// A binary message.
    Message,
    /// A ping.
    Ping,
    /// A pong.
    Pong,
    /// A close.
    Close,
}

/// Appends one frame to `out`.
pub fn encode(kind: Outgoing, content: &[u8], out: &mut Vec<u8>) {
    let opcode = match kind {
        Outgoing::Message => 0x2,
        Outgoing::Close => 0x8,
        Outgoing::Ping => 0x9,
        Outgoing::Pong => 0xa,
    };
    out.push(0x80 | opcode);
    match (u8::try_from(content.len()), u16::try_from(content.len())) {
        (Ok(short @ 0..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        (_, Err(_)) => {
            out.push(127);
            out.extend_from_slice(&(content.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(content);
}

/// Appends a close frame. The reason is cut to what fits.
pub fn encode_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut content = code.to_be_bytes().to_vec();
    let mut end = reason.len().min(CONTROL_SIZE_MAX - content.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    content.extend_from_slice(reason.get(..end).unwrap_or_default().as_bytes());
    encode(Outgoing::Close, &content, out);
}

#[cfg(test)]
mod tests;
