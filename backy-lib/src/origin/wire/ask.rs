//! The side that asks: another archive at the other end of a pair of streams.
//!
//! Requests for blocks are sent ahead of the answers, so that the latency of the line costs nothing. Both sides may
//! have full pipes at the same time, and still neither waits for the other for ever: this side has at most [`WINDOW`]
//! requests without an answer, and the other side always reads so many without writing anything. So each write here
//! ends, whatever the state of the answers, and then this side reads answers.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::frame::{FrameReader, FrameWriter, Kind, broken};
use super::hello::{Connection, End};
use super::listing::{self, MOST_LIST_BYTES};
use super::message::{
    Batch, Packing, Reason, State, blocks_request, list_request, most_blocks, number_of,
    read_listed, read_piece, table_request,
};
use super::{Patience, WINDOW};
use crate::base::error::{Error, Result};
use crate::base::revision::RevisionId;
use crate::base::units::{BlockIndex, BlockSize};
use crate::format::qcow2::{Decompressor, frame_bytes};
use crate::origin::{Fetched, Listing, Offered, Origin, TablePiece};

/// An archive at the other end of a pair of streams.
pub struct WireOrigin<R, W: Write + Send + 'static> {
    name: String,
    reader: FrameReader<R>,
    writer: Writer<W>,
    /// The number of the last request.
    number: u32,
    /// Requests whose answers nobody needs any more, and which still come.
    owed: VecDeque<u32>,
    /// Why the connection cannot be used any more.
    broken: Option<String>,
    block_size: Option<BlockSize>,
    /// The sizes of the revisions in the last list, in bytes.
    sizes: HashMap<RevisionId, u64>,
    unpacked: Vec<u8>,
    zeros: Vec<u8>,
    decompressor: Decompressor,
}

/// Why a request failed.
enum Trouble {
    /// The connection cannot be used any more.
    Broken(Error),
    /// Only the request failed.
    Refused(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Broken(error)
    }
}

type Asked<T> = std::result::Result<T, Trouble>;

impl<R: Read, W: Write + Send + 'static> WireOrigin<R, W> {
    /// Asks over a connection. `name` is what the other side is called in messages.
    pub fn new(connection: Connection<R, W>, name: &str, patience: Patience) -> Result<Self> {
        let Connection { reader, writer } = connection;
        Ok(WireOrigin {
            name: name.to_owned(),
            reader,
            writer: Writer::new(writer, patience)?,
            number: 0,
            owed: VecDeque::new(),
            broken: None,
            block_size: None,
            sizes: HashMap::new(),
            unpacked: Vec::new(),
            zeros: Vec::new(),
            decompressor: Decompressor::new()?,
        })
    }

    /// Whether the connection cannot be used any more.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Ends the connection in order.
    pub fn finish(self) -> Result<()> {
        self.end(&End::default())
    }

    /// The same at the end of a push: the other side gets the report, which is JSON.
    pub fn finish_with(self, report: String) -> Result<()> {
        let report = serde_json::value::RawValue::from_string(report)
            .map_err(|error| broken(&self.name, format!("the report is not JSON: {error}")))?;
        self.end(&End { report: Some(report), failed: None })
    }

    /// The same where the pull has failed.
    pub fn finish_failed(self, error: &Error) -> Result<()> {
        self.end(&End { report: None, failed: Some(Reason::of(error)) })
    }

    fn end(self, end: &End) -> Result<()> {
        if let Some(message) = self.broken {
            return Err(broken(&self.name, message));
        }
        let payload = serde_json::to_vec(end).unwrap_or_default();
        self.writer.lock().write(Kind::End, &payload)
    }

    /// Does something with the connection, unless it is broken.
    fn ask<T>(&mut self, call: impl FnOnce(&mut Self) -> Asked<T>) -> Result<T> {
        if let Some(message) = &self.broken {
            return Err(broken(&self.name, message.clone()));
        }
        match call(self) {
            Ok(value) => Ok(value),
            Err(Trouble::Refused(error)) => Err(error),
            Err(Trouble::Broken(error)) => {
                self.broken = Some(match &error {
                    Error::Origin { message, .. } => message.clone(),
                    error => error.to_string(),
                });
                Err(error)
            }
        }
    }

    /// Sends a request, and returns its number.
    fn send(&mut self, kind: Kind, payload: impl FnOnce(u32) -> Vec<u8>) -> Result<u32> {
        // No number is that of an error about no request.
        self.number = self.number.checked_add(1).unwrap_or(1);
        let mut writer = self.writer.lock();
        let sent = writer.write(kind, &payload(self.number));
        writer.or_answered(sent)?;
        Ok(self.number)
    }

    /// Reads an answer to a request, and returns its type; its payload is then that of the reader.
    fn receive(&mut self, number: u32, expected: [Kind; 2]) -> Asked<Kind> {
        let (kind, payload) = self.reader.expect("an answer")?;
        if kind == Kind::Error {
            let read = Reason::read(payload);
            let (of, reason) = read.map_err(|found| self.reader.wrong(found, "an error"))?;
            let error = reason.into_error(&self.name);
            return Err(if of == number {
                Trouble::Refused(error)
            } else {
                Trouble::Broken(error)
            });
        }
        if !expected.contains(&kind) {
            let [one, other] = expected.map(Kind::name);
            let expected =
                if one == other { format!("'{one}'") } else { format!("'{one}' or '{other}'") };
            return Err(self.reader.wrong(format!("'{}'", kind.name()), expected).into());
        }
        let found = number_of(payload).map_err(|found| self.wrong(found))?;
        if found != number {
            let found = format!("an answer to request {found}");
            return Err(self.reader.wrong(found, format!("one to request {number}")).into());
        }
        Ok(kind)
    }

    fn wrong(&self, found: impl std::fmt::Display) -> Error {
        broken(&self.name, format!("found {found}"))
    }

    /// Reads the answers that nobody needs any more.
    fn drain(&mut self) -> Result<()> {
        while let Some(number) = self.owed.pop_front() {
            match self.receive(number, [Kind::Batch; 2]) {
                Ok(_) | Err(Trouble::Refused(_)) => {}
                Err(Trouble::Broken(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn ask_listing(&mut self) -> Asked<Listing> {
        self.drain()?;
        let number = self.send(Kind::List, list_request)?;
        let (mut revisions, mut total): (Vec<Offered>, usize) = (Vec::new(), 0);
        while self.receive(number, [Kind::Revisions, Kind::Listed])? == Kind::Revisions {
            let text = self.reader.payload().get(4..).unwrap_or_default();
            total += text.len();
            if total > MOST_LIST_BYTES {
                let found = format!("a list of {total} bytes or more");
                return Err(self.reader.wrong(found, format!("at most {MOST_LIST_BYTES}")).into());
            }
            let some = serde_json::from_slice::<Vec<Offered>>(text);
            revisions.extend(some.map_err(|error| self.wrong(format!("a bad list: {error}")))?);
        }
        let read = read_listed(self.reader.payload());
        let (_, block_size, count) = read.map_err(|found| self.wrong(found))?;
        if u64::from(count) != revisions.len() as u64 {
            let found = format!("{} revisions", revisions.len());
            return Err(self.reader.wrong(found, count).into());
        }
        listing::check(block_size, &revisions)
            .map_err(|found| self.wrong(format!("in the list: {found}")))?;
        self.block_size = Some(block_size);
        self.sizes = revisions.iter().map(|offered| (offered.uuid, offered.size_bytes)).collect();
        Ok(Listing { block_size, revisions })
    }

    /// The block size, and the size of a revision in bytes.
    fn size_of(&mut self, revision: RevisionId) -> Asked<(BlockSize, u64)> {
        if self.block_size.is_none() {
            self.ask_listing()?;
        }
        match (self.block_size, self.sizes.get(&revision)) {
            (Some(block_size), Some(&size_bytes)) => Ok((block_size, size_bytes)),
            _ => {
                let message = format!("{}: revision {revision} is not in its list", self.name);
                Err(Trouble::Refused(Error::NoSuchRevision { message }))
            }
        }
    }

    fn ask_table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Asked<TablePiece> {
        self.drain()?;
        let (block_size, size_bytes) = self.size_of(revision)?;
        let end = BlockIndex(block_size.count(size_bytes));
        let number =
            self.send(Kind::Table, |number| table_request(number, revision, since, from))?;
        self.receive(number, [Kind::Piece; 2])?;
        let read = read_piece(self.reader.payload(), from, end.max(from));
        let (_, piece) = read.map_err(|found| self.wrong(found))?;
        Ok(piece)
    }

    fn ask_blocks(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Asked<()> {
        self.drain()?;
        let (block_size, size_bytes) = self.size_of(revision)?;
        let end = BlockIndex(block_size.count(size_bytes));
        if let Some(behind) = wanted.last().filter(|last| **last >= end) {
            let message = format!(
                "{}: block {behind} of revision {revision}: found the end at {end}",
                self.name
            );
            return Err(Trouble::Refused(Error::Specification { message }));
        }
        // At most 256.
        let mut batches = wanted.chunks(most_blocks(block_size) as usize);
        let mut asked: VecDeque<(u32, &[BlockIndex])> = VecDeque::new();
        loop {
            while asked.len() < WINDOW {
                let Some(blocks) = batches.next() else { break };
                let number =
                    self.send(Kind::Blocks, |number| blocks_request(number, revision, blocks))?;
                asked.push_back((number, blocks));
            }
            let Some((number, blocks)) = asked.pop_front() else { return Ok(()) };
            let took = match self.receive(number, [Kind::Batch; 2]) {
                Ok(_) => self.take_batch((block_size, size_bytes), blocks, take),
                Err(trouble) => Err(trouble),
            };
            if took.is_err() {
                self.owed.extend(asked.iter().map(|(number, _)| *number));
                return took;
            }
        }
    }

    /// Hands on the blocks of the answer that was read last.
    fn take_batch(
        &mut self,
        (block_size, size_bytes): (BlockSize, u64),
        blocks: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Asked<()> {
        let wrong = |found: String| broken(&self.name, format!("found {found}"));
        let batch = Batch::read(self.reader.payload(), blocks.len()).map_err(wrong)?;
        let length = |block: BlockIndex| block_size.extent(block, size_bytes).len as usize;
        let data = blocks.iter().zip(&batch.states).filter(|(_, state)| **state == State::Data);
        // No more than a request asks for: 1 MiB or one block.
        let expected: usize = data.map(|(&block, _)| length(block)).sum();
        let mut bytes = match batch.packing {
            Packing::Plain => batch.packed,
            Packing::Zstd => {
                self.unpacked.resize(expected, 0);
                if frame_bytes(batch.packed) != Some(batch.packed.len()) {
                    return Err(wrong("no whole zstd frame".to_owned()).into());
                }
                self.decompressor.decompress(batch.packed, &mut self.unpacked).map_err(wrong)?;
                &self.unpacked
            }
        };
        if bytes.len() != expected {
            let found = format!("{} bytes of blocks, expected {expected}", bytes.len());
            return Err(wrong(found).into());
        }
        self.zeros.resize(block_size.len(), 0);
        for (&block, state) in blocks.iter().zip(&batch.states) {
            let fetched = match state {
                State::Bad => Fetched::Bad,
                State::Zero => Fetched::Data(self.zeros.get(..length(block)).unwrap_or_default()),
                State::Data => {
                    let Some((own, rest)) = bytes.split_at_checked(length(block)) else { break };
                    bytes = rest;
                    Fetched::Data(own)
                }
            };
            take(block, fetched).map_err(Trouble::Refused)?;
        }
        Ok(())
    }
}

impl<R: Read + Send, W: Write + Send + 'static> Origin for WireOrigin<R, W> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn listing(&mut self) -> Result<Listing> {
        self.ask(Self::ask_listing)
    }

    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> Result<TablePiece> {
        self.ask(|own| own.ask_table(revision, since, from))
    }

    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> Result<()>,
    ) -> Result<()> {
        self.ask(|own| own.ask_blocks(revision, wanted, take))
    }
}

/// Writes requests, and a sign of life whenever this side has been busy with something else for a while: without one,
/// the other side would take it for dead.
struct Writer<W: Write + Send + 'static> {
    writer: Arc<Mutex<FrameWriter<W>>>,
    /// Ends the thread when it is dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<W: Write + Send + 'static> Writer<W> {
    fn new(writer: FrameWriter<W>, patience: Patience) -> Result<Self> {
        let writer = Arc::new(Mutex::new(writer));
        let (stop, stopped) = channel();
        let shared = Arc::clone(&writer);
        let live = move || {
            while stopped.recv_timeout(patience.alive) == Err(RecvTimeoutError::Timeout) {
                if lock(&shared).write(Kind::Alive, &[]).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().spawn(live);
        let thread = Some(thread.map_err(Error::io("backy", "start a thread"))?);
        Ok(Writer { writer, stop: Some(stop), thread })
    }

    fn lock(&self) -> MutexGuard<'_, FrameWriter<W>> {
        lock(&self.writer)
    }
}

fn lock<W>(writer: &Mutex<FrameWriter<W>>) -> MutexGuard<'_, FrameWriter<W>> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Write + Send + 'static> Drop for Writer<W> {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A write of it ends: the stream itself does not wait for ever.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
