//! What a program prints, read while it runs, so that it never waits for a reader.

use std::io::{self, PipeReader, Read};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long its output may stay open after its end.
const PATIENCE: Duration = Duration::from_secs(5);

/// The output of a program, which something reads.
pub(crate) struct Output<T>(Receiver<T>);

impl<T: Send + 'static> Output<T> {
    /// Reads it in a thread of its own, from before the program starts.
    pub(crate) fn of(
        pipe: PipeReader,
        read: impl FnOnce(PipeReader) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (give, taken) = channel();
        // Nobody waits any longer for what comes late.
        std::thread::Builder::new().spawn(move || give.send(read(pipe)))?;
        Ok(Output(taken))
    }

    /// What came of it, once the program has ended; `None` if another process still has it open.
    pub(crate) fn taken(self) -> Option<T> {
        self.0.recv_timeout(PATIENCE).ok()
    }
}

/// Reads to the end; `None` if that is behind so many bytes.
pub(crate) fn at_most(pipe: PipeReader, most_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    pipe.take(most_bytes.saturating_add(1)).read_to_end(&mut text)?;
    Ok(Some(text).filter(|text| text.len() as u64 <= most_bytes))
}
