//! Frames: a type, a length and a payload. Nothing here knows what a payload means.
//!
//! A frame has no checksum: ssh guards the line, and digests guard what is stored. A stream that was cut or garbled is
//! an error that names the frame.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::Patience;
use super::message::{MOST_PIECE_BYTES, MOST_REQUEST_BYTES};
use crate::base::error::{Error, Result, describe_io};
use crate::base::escape;

/// The first bytes of both streams. Like those of PNG, they show a line that changes line ends or the eighth bit.
pub(super) const MAGIC: [u8; 8] = *b"\x89backy\r\n";

/// Length of the header of a frame.
pub(super) const HEADER_BYTES: usize = 8;

/// A frame may take this much longer for each KiB, so that a side that sends one byte now and then gets nowhere.
const PER_KIB: Duration = Duration::from_secs(1);

/// Payloads up to here are written together with their header.
const SMALL_BYTES: usize = 4096 - HEADER_BYTES;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Who calls, and why.
    Hello = 1,
    /// Which version is spoken.
    Welcome = 2,
    /// Asks for the list of revisions.
    List = 3,
    /// Some revisions.
    Revisions = 4,
    /// The list is complete.
    Listed = 5,
    /// Asks for a piece of a table.
    Table = 6,
    /// A piece of a table.
    Piece = 7,
    /// Asks for blocks.
    Blocks = 8,
    /// Blocks.
    Batch = 9,
    /// Why a request failed, or the connection.
    Error = 10,
    /// The side that asks has finished.
    End = 11,
    /// The sender is alive, and has nothing else to send.
    Alive = 12,
}

impl Kind {
    pub(super) const ALL: [Kind; 12] = [
        Kind::Hello,
        Kind::Welcome,
        Kind::List,
        Kind::Revisions,
        Kind::Listed,
        Kind::Table,
        Kind::Piece,
        Kind::Blocks,
        Kind::Batch,
        Kind::Error,
        Kind::End,
        Kind::Alive,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Hello => "hello",
            Kind::Welcome => "welcome",
            Kind::List => "list",
            Kind::Revisions => "revisions",
            Kind::Listed => "listed",
            Kind::Table => "table",
            Kind::Piece => "piece",
            Kind::Blocks => "blocks",
            Kind::Batch => "batch",
            Kind::Error => "error",
            Kind::End => "end",
            Kind::Alive => "alive",
        }
    }

    /// The longest payload.
    pub(super) fn most_bytes(self) -> usize {
        match self {
            Kind::Hello => 64 << 10,
            Kind::Welcome | Kind::Error => 16 << 10,
            Kind::List => 4,
            Kind::Revisions => 1 << 20,
            Kind::Listed => 12,
            Kind::Table => 44,
            Kind::Piece => MOST_PIECE_BYTES,
            Kind::Blocks => MOST_REQUEST_BYTES,
            Kind::Batch => (2 << 20) + (4 << 10),
            Kind::End => 4 << 20,
            Kind::Alive => 0,
        }
    }
}

/// Reads frames.
pub(super) struct FrameReader<R> {
    reader: R,
    /// What the other side is called in messages.
    name: String,
    patience: Patience,
    /// How many frames have been read.
    count: u64,
    payload: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(reader: R, name: &str, patience: Patience) -> Self {
        FrameReader { reader, name: name.to_owned(), patience, count: 0, payload: Vec::new() }
    }

    /// An error about what the other side sent.
    pub(super) fn wrong(&self, found: impl Display, expected: impl Display) -> Error {
        let count = self.count;
        let message = format!("frame {count} from there: found {found}, expected {expected}");
        broken(&self.name, message)
    }

    /// Reads the bytes that each stream begins with.
    pub(super) fn magic(&mut self) -> Result<()> {
        let mut found = [0; MAGIC.len()];
        let mut filled = 0;
        let until = self.until(0);
        while let Some(rest) = found.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = self.read_some(rest, until)?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        if found == MAGIC {
            return Ok(());
        }
        if MAGIC.starts_with(found.get(..filled).unwrap_or_default()) {
            return Err(broken(&self.name, "the connection ended before backy there answered"));
        }
        // Most likely somebody's shell prints something when it starts.
        let mut text = found.get(..filled).unwrap_or_default().to_vec();
        let mut more = [0; 100];
        if filled == MAGIC.len() {
            let read = self.read_some(&mut more, until).unwrap_or(0);
            text.extend_from_slice(more.get(..read).unwrap_or_default());
        }
        let text = String::from_utf8_lossy(&text).escape_debug().to_string();
        let message = format!(
            "found '{text}' where backy begins to speak; does the login there print something, or is there another \
             program?"
        );
        Err(broken(&self.name, message))
    }

    /// The next frame that is not merely a sign of life, however long it takes as long as there are some; `None` where
    /// the stream ends between two frames.
    pub(super) fn next(&mut self) -> Result<Option<(Kind, &[u8])>> {
        self.next_within(Duration::MAX)
    }

    /// The same where a frame has to come, and soon enough.
    pub(super) fn expect(&mut self, what: &str) -> Result<(Kind, &[u8])> {
        let count = self.count;
        let name = self.name.clone();
        let ended = || {
            let message =
                format!("the connection ended after {count} frames from there, before {what}");
            broken(&name, message)
        };
        self.next_within(self.patience.answer)?.ok_or_else(ended)
    }

    fn next_within(&mut self, patience: Duration) -> Result<Option<(Kind, &[u8])>> {
        let since = Instant::now();
        loop {
            match self.next_of_any()? {
                None => return Ok(None),
                Some(Kind::Alive) if since.elapsed() > patience => {
                    let waited = patience.as_secs();
                    let message = format!("no answer for {waited} s, only signs of life; gave up");
                    return Err(broken(&self.name, message));
                }
                Some(Kind::Alive) => {}
                Some(kind) => return Ok(Some((kind, &self.payload))),
            }
        }
    }

    /// The payload of the frame that was read last.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    fn next_of_any(&mut self) -> Result<Option<Kind>> {
        let mut header = [0; HEADER_BYTES];
        if !self.fill(&mut header, true)? {
            return Ok(None);
        }
        self.count += 1;
        let [a, b, c, d, kind, zeros @ ..] = header;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let known = Kind::ALL.into_iter().find(|known| *known as u8 == kind);
        let Some(known) = known.filter(|_| zeros == [0; 3]) else {
            let found = format!("the header {:02x?}", header);
            return Err(self.wrong(found, "a type from 1 to 12 and three zero bytes"));
        };
        let most = known.most_bytes();
        if length > most {
            let found = format!("{length} bytes of type '{}'", known.name());
            return Err(self.wrong(found, format!("at most {most}")));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(length, 0);
        let filled = self.fill(&mut payload, false);
        self.payload = payload;
        filled.map(|_| Some(known))
    }

    /// Fills the buffer. False if the stream has ended before it, and that `may_end`.
    fn fill(&mut self, buffer: &mut [u8], may_end: bool) -> Result<bool> {
        // What comes first may be long in coming, as far as the reader itself allows; from there on it has to proceed.
        let mut until = (!may_end).then(|| self.until(buffer.len()));
        let length = buffer.len();
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = match until {
                None => self.read_once(rest)?,
                Some(until) => self.read_some(rest, until)?,
            };
            if read == 0 && filled == 0 && may_end {
                return Ok(false);
            }
            if read == 0 {
                let message = format!(
                    "the connection ended within frame {} from there: {filled} of {length} bytes came",
                    self.count + u64::from(may_end)
                );
                return Err(broken(&self.name, message));
            }
            filled += read;
            until = until.or_else(|| Some(self.until(length)));
        }
        Ok(true)
    }

    fn until(&self, bytes: usize) -> Instant {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        let allowed = self.patience.silence.saturating_add(PER_KIB.saturating_mul(kib));
        let now = Instant::now();
        now.checked_add(allowed).unwrap_or(now)
    }

    fn read_some(&mut self, buffer: &mut [u8], until: Instant) -> Result<usize> {
        let read = self.read_once(buffer)?;
        if read > 0 && Instant::now() > until {
            let message = format!("frame {} from there comes too slowly; gave up", self.count + 1);
            return Err(broken(&self.name, message));
        }
        Ok(read)
    }

    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => return Ok(read),
                Err(error) => return Err(failed(&self.name, "receive", self.patience, &error)),
            }
        }
    }
}

/// Writes frames.
pub(super) struct FrameWriter<W> {
    writer: W,
    name: String,
    patience: Patience,
    frame: Vec<u8>,
    /// Whether the other side does not read any more.
    is_closed: bool,
}

impl<W: Write> FrameWriter<W> {
    pub(super) fn new(writer: W, name: &str, patience: Patience) -> Self {
        let (name, frame) = (name.to_owned(), Vec::new());
        FrameWriter { writer, name, patience, frame, is_closed: false }
    }

    /// Writes the bytes that each stream begins with.
    pub(super) fn magic(&mut self) -> Result<()> {
        let written = self.writer.write_all(&MAGIC).and_then(|()| self.writer.flush());
        self.checked(written)
    }

    fn checked(&mut self, written: io::Result<()>) -> Result<()> {
        written.map_err(|error| {
            self.is_closed |= error.kind() == io::ErrorKind::BrokenPipe;
            failed(&self.name, "send", self.patience, &error)
        })
    }

    /// Whether the other side was found not to read any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// What became of something that was sent and is answered. That nobody reads it any more is no error here: the
    /// answer is read next, and says what the other side had to say before it ended.
    pub(super) fn or_answered(&self, sent: Result<()>) -> Result<()> {
        if self.is_closed { Ok(()) } else { sent }
    }

    /// Writes a frame and flushes it.
    pub(super) fn write(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        let length =
            u32::try_from(payload.len()).ok().filter(|_| payload.len() <= kind.most_bytes());
        let Some(length) = length else {
            let message = format!(
                "cannot send {} bytes as '{}'; expected at most {}",
                payload.len(),
                kind.name(),
                kind.most_bytes()
            );
            return Err(broken(&self.name, message));
        };
        self.frame.clear();
        self.frame.extend_from_slice(&length.to_be_bytes());
        self.frame.extend_from_slice(&[kind as u8, 0, 0, 0]);
        // A small frame is written at once; a large one is not worth a copy.
        let (small, large) =
            payload.split_at(if payload.len() > SMALL_BYTES { 0 } else { payload.len() });
        self.frame.extend_from_slice(small);
        let written = self.writer.write_all(&self.frame);
        let written = written.and_then(|()| self.writer.write_all(large));
        let written = written.and_then(|()| self.writer.flush());
        self.checked(written)
    }
}

/// An error of the connection or of what came over it. Nothing more can be done with it.
pub(super) fn broken(name: &str, message: impl Into<String>) -> Error {
    // It may have words of the other side.
    let message = escape::line(&message.into()).into_owned();
    Error::Origin { name: name.to_owned(), message }
}

fn failed(name: &str, what: &str, patience: Patience, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let seconds = patience.silence.as_secs_f64();
            let nothing =
                if what == "send" { "the other side takes nothing" } else { "no byte came" };
            broken(name, format!("{nothing} for {seconds} s; gave up"))
        }
        io::ErrorKind::BrokenPipe => broken(name, "the other side has ended the connection"),
        io::ErrorKind::Other if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) => {
            Error::Interrupted
        }
        _ => broken(name, format!("cannot {what}: {}", describe_io(error))),
    }
}

/// Why a read ended that was asked to stop.
#[derive(Debug)]
pub(super) struct Stopped;

impl Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}
