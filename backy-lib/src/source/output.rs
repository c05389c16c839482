//! What a program prints, read while it runs, so that it never waits for a reader.

use std::io::{self, PipeReader, Read};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long its output may stay open after its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The output of a program, as far as a limit.
pub(crate) struct Output {
    taken: Receiver<io::Result<Vec<u8>>>,
    most_bytes: u64,
}

/// Why there is no output.
pub(crate) enum Unread {
    /// Another process has it open, although the program has ended.
    StillOpen,
    /// It is longer than the limit.
    TooLong,
    /// It cannot be read.
    Failed(io::Error),
}

impl Output {
    /// Reads it in a thread of its own, from before the program starts.
    pub(crate) fn of(pipe: PipeReader, most_bytes: u64) -> io::Result<Self> {
        let (give, taken) = channel();
        std::thread::Builder::new().spawn(move || {
            let mut text = Vec::new();
            let read = pipe.take(most_bytes.saturating_add(1)).read_to_end(&mut text);
            // Nobody waits any longer for what comes late.
            let _ = give.send(read.map(|_| text));
        })?;
        Ok(Output { taken, most_bytes })
    }

    /// All of it, once the program has ended.
    pub(crate) fn all(self) -> Result<Vec<u8>, Unread> {
        let text = self.taken.recv_timeout(PATIENCE).map_err(|_| Unread::StillOpen)?;
        let text = text.map_err(Unread::Failed)?;
        if text.len() as u64 > self.most_bytes { Err(Unread::TooLong) } else { Ok(text) }
    }
}
