//! What the server sends, as bytes and big-endian numbers, with limits of time.

use std::io::{self, Read};
use std::time::Instant;

use super::{Fault, Patience};
use crate::base::error::describe_io;

/// The stream from the server. Reading from it has to fail with `WouldBlock` or `TimedOut` once no byte has come for
/// [`Patience::silence`].
pub(super) struct Incoming {
    reader: Box<dyn Read + Send>,
    patience: Patience,
    /// When the message began.
    since: Instant,
}

impl Incoming {
    pub(super) fn new(reader: Box<dyn Read + Send>, patience: Patience) -> Self {
        Incoming { reader, patience, since: Instant::now() }
    }

    /// A message begins, which has to be whole after [`Patience::answer`]: a server that sends one byte now and then
    /// gets nowhere.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Fills the buffer; `what` is the part of a message that comes.
    pub(super) fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), Fault> {
        let length = buffer.len();
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => {
                    return Err(format!(
                        "the server closed the connection after {filled} of {length} bytes of {what}; see its log"
                    ));
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(&error, what)),
            }
            if self.since.elapsed() > self.patience.answer {
                return Err(format!(
                    "only {filled} of {length} bytes of {what} came in {} s; check the server and the network",
                    self.patience.answer.as_secs_f64()
                ));
            }
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error, what: &str) -> Fault {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!(
                "no byte came for {} s, expected {what}; check the server and the network, and whether another client \
                 uses the server",
                self.patience.silence.as_secs_f64()
            ),
            _ => format!("cannot receive {what}: {}; see the server's log", describe_io(error)),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16, Fault> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A payload whose length was checked.
    pub(super) fn bytes(&mut self, length: u32, what: &str) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }
}

/// Splits a number off the beginning of a payload.
pub(super) fn split<const N: usize>(payload: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = payload.split_first_chunk()?;
    *payload = rest;
    Some(*first)
}
