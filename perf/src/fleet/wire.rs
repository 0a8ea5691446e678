//! A TCP socket under TLS: counts bytes, and knows without asking when the kernel has nothing more to read.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

/// The socket of one connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) tcp: TcpStream,
    /// A read gave less than was asked for: there is nothing before the next event.
    ///
    /// # Source
    /// epoll(7), on edge-triggered stream sockets: "the condition that the read/write I/O space is exhausted can also be detected by
    /// checking the amount of data read from / written to the target file descriptor".
    drained: bool,
    bytes_in: u64,
    bytes_out: u64,
}

impl Wire {
    pub(super) const fn new(tcp: TcpStream) -> Self {
        Self { tcp, drained: false, bytes_in: 0, bytes_out: 0 }
    }

    /// The kernel said that there is something.
    pub(super) const fn on_readable(&mut self) {
        self.drained = false;
    }

    /// Bytes received and sent since the last call.
    pub(super) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.bytes_in), std::mem::take(&mut self.bytes_out))
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.drained {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = self.tcp.read(buffer)?;
        // The end of the stream must be seen again by whoever asks next.
        self.drained = size > 0 && size < buffer.len();
        self.bytes_in += size as u64;
        Ok(size)
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let size = self.tcp.write(buffer)?;
        self.bytes_out += size as u64;
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
