//! The source that reads from an export.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::NbdAddress;
use super::handshake::{BITMAP_PREFIX, agree};
use super::incoming::Incoming;
use super::status::{Known, Question};
use super::transmission::{Connection, Failure};
use super::{MOST_NAME_BYTES, Patience, STATUS_BYTES, stream};
use crate::base::error::{Error, Result};
use crate::base::escape;
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;
use crate::source::Source;
use crate::source::identity::add_content;

/// How an export is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NbdOptions {
    /// The name of a dirty bitmap of QEMU that the server has to export, for [`NbdSource::next_dirty`].
    pub bitmap: Option<String>,
    /// How long the client waits.
    pub patience: Patience,
}

/// An export of an NBD server. Several threads read it on one connection, which is ended when this is dropped.
pub struct NbdSource {
    address: NbdAddress,
    connection: Connection,
    identity: OnceLock<SourceIdentity>,
    /// What the server has said last about each question.
    data: Mutex<Option<Known>>,
    dirty: Mutex<Option<Known>>,
}

impl NbdSource {
    /// Connects to the server and opens the export.
    ///
    /// # Errors
    /// [`Error::Source`] if there is no server, no such export or no such bitmap, if the export is empty, or if the
    /// server needs TLS, does not keep to the protocol or takes too long.
    pub fn open(address: &NbdAddress, options: &NbdOptions) -> Result<Self> {
        let opened = stream::open(address.place(), options.patience);
        let (reader, writer) = opened.map_err(|fault| error(address, &fault))?;
        Self::over(reader, writer, address, options)
    }

    /// As [`NbdSource::open`] over a socket that is connected.
    ///
    /// # Errors
    /// As for [`NbdSource::open`].
    pub(crate) fn over_unix(
        connected: UnixStream,
        address: &NbdAddress,
        options: &NbdOptions,
    ) -> Result<Self> {
        let streams = stream::of_unix(connected, options.patience);
        let (reader, writer) = streams.map_err(|fault| error(address, &fault))?;
        Self::over(reader, writer, address, options)
    }

    /// As [`NbdSource::open`] over a connection that exists. `reader` has to fail with `WouldBlock` or `TimedOut` once
    /// no byte has come for [`Patience::silence`], and `writer` if none was taken.
    ///
    /// # Errors
    /// As for [`NbdSource::open`].
    pub fn over(
        reader: Box<dyn Read + Send>,
        mut writer: Box<dyn Write + Send>,
        address: &NbdAddress,
        options: &NbdOptions,
    ) -> Result<Self> {
        let bitmap = options.bitmap.as_deref();
        if let Some(name) = bitmap.filter(|name| BITMAP_PREFIX.len() + name.len() > MOST_NAME_BYTES)
        {
            let length = name.len();
            let most = MOST_NAME_BYTES - BITMAP_PREFIX.len();
            let fault =
                format!("the name of the bitmap has {length} bytes; expected at most {most}");
            return Err(error(address, &fault));
        }
        let mut incoming = Incoming::new(reader, options.patience);
        let agreed = agree(&mut incoming, &mut *writer, address.export(), bitmap);
        let agreed = agreed.map_err(|fault| error(address, &format!("cannot open it: {fault}")))?;
        let connection = Connection::new(incoming, writer, agreed, options.patience);
        let (data, dirty) = (Mutex::default(), Mutex::default());
        let (address, identity) = (address.clone(), OnceLock::new());
        Ok(NbdSource { address, connection, identity, data, dirty })
    }

    /// The first extent at or after `offset` where the bitmap of [`NbdOptions`] is set; `None` if it is not from there
    /// on. Without a bitmap, everything counts.
    ///
    /// # Errors
    /// [`Error::Source`] if the server does not answer right.
    pub fn next_dirty(&self, offset: u64) -> Result<Option<Extent>> {
        if self.connection.agreed().bitmap.is_none() {
            return Ok(self.rest(offset));
        }
        self.next(offset, Question::Dirty)
    }

    fn rest(&self, offset: u64) -> Option<Extent> {
        let size_bytes = self.size_bytes();
        (offset < size_bytes).then(|| Extent::between(offset, size_bytes))
    }

    fn next(&self, mut offset: u64, question: Question) -> Result<Option<Extent>> {
        let slot = match question {
            Question::Data => &self.data,
            Question::Dirty => &self.dirty,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        while offset < self.size_bytes() {
            let covers =
                |known: &Known| (known.covered.offset..known.covered.end()).contains(&offset);
            let known = match slot.take().filter(covers) {
                Some(known) => known,
                None => self.ask(offset, question)?,
            };
            let known = slot.insert(known);
            if let Some(found) = known.next(offset) {
                return Ok(Some(found));
            }
            offset = known.covered.end();
        }
        Ok(None)
    }

    /// What the server knows from `offset` on. Where it refuses to say where data is, all may be.
    fn ask(&self, offset: u64, question: Question) -> Result<Known> {
        let unit = u64::from(self.connection.agreed().min_bytes);
        let start = offset / unit * unit;
        let len = (self.size_bytes() - start).min(u64::from(STATUS_BYTES));
        let range = Extent { offset: start, len };
        match self.connection.status(range) {
            Ok(mut replied) => Ok(replied.take(question).unwrap_or_else(|| Known::all(range))),
            Err((range, Failure::Refused(_))) if question == Question::Data => {
                Ok(Known::all(range))
            }
            Err((range, failure)) => Err(self.failed("ask for the status of", range, &failure)),
        }
    }

    fn failed(&self, action: &str, range: Extent, failure: &Failure) -> Error {
        let Extent { offset, len } = range;
        let message =
            format!("cannot {action} {len} bytes at offset {offset}: {}", failure.message());
        error(&self.address, &message)
    }
}

fn error(address: &NbdAddress, message: &str) -> Error {
    // It may have words of the server.
    let message = escape::line(message).into_owned();
    Error::Source { path: PathBuf::from(address.to_string()), message }
}

impl Source for NbdSource {
    fn identity(&self) -> SourceIdentity {
        let read = || {
            let mut identity = self.place();
            add_content(&mut identity, self);
            identity
        };
        self.identity.get_or_init(read).clone()
    }

    fn place(&self) -> SourceIdentity {
        SourceIdentity::new(self.address.to_string(), "NBD export")
    }

    fn size_bytes(&self) -> u64 {
        self.connection.agreed().size_bytes
    }

    /// The size that both sides agreed on: the protocol has no way to ask again.
    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let end = self.size_bytes().min(offset.saturating_add(buffer.len() as u64));
        let range = Extent::between(offset, end);
        if range.len == 0 {
            return Ok(0);
        }
        // A piece may begin before the range and end behind it, where the server has larger units.
        let copied = self.connection.read(range, &mut |piece, bytes| {
            let skipped = offset.saturating_sub(piece.offset) as usize;
            let into = piece.offset.saturating_sub(offset) as usize;
            let from = bytes.get(skipped..).unwrap_or_default();
            let into = buffer.get_mut(into..).unwrap_or_default();
            let both = into.len().min(from.len());
            if let (Some(into), Some(from)) = (into.get_mut(..both), from.get(..both)) {
                into.copy_from_slice(from);
            }
        });
        copied.map_err(|(range, failure)| self.failed("read", range, &failure))?;
        Ok(range.len as usize)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        match self.knows_holes() {
            true => self.next(offset, Question::Data),
            false => Ok(self.rest(offset)),
        }
    }

    fn knows_holes(&self) -> bool {
        self.connection.agreed().allocation.is_some()
    }
}
