//! The side that answers, out of another origin: usually an archive here.
//!
//! One thread reads requests, some threads do what they ask for, and the calling thread writes the answers in the
//! order of the requests. At most [`WINDOW`] requests are without an answer, and only requests for blocks may overlap:
//! more is an error. So the memory is bounded, and reading never waits for writing, on which the other side relies.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::frame::{FrameReader, FrameWriter, Kind, broken};
use super::hello::{Connection, End};
use super::listing;
use super::message::{NO_REQUEST, Packing, Reason, Request, State, batch, piece};
use super::{Patience, WINDOW};
use crate::base::digest::is_zero;
use crate::base::error::{Error, Result};
use crate::base::pipeline::threads;
use crate::base::units::BlockSize;
use crate::format::qcow2::Compressor;
use crate::origin::{Entries, Fetched, Origin, PIECE_ENTRIES, PIECE_RUNS, TablePiece};

/// More threads than these would be ahead of any line.
const MOST_THREADS: usize = 4;

/// As the archive itself by default: small, and still faster than most lines.
const LEVEL: i32 = 1;

/// How to answer.
pub struct Answering<'a> {
    /// Opens the origin; once for each thread, and again after each list.
    pub origin: &'a (dyn Fn() -> Result<Box<dyn Origin>> + Sync),
    /// Its block size.
    pub block_size: BlockSize,
    /// How many threads work; by default as many as there are cores, and not more than four.
    pub threads: Option<usize>,
    /// The most bytes to send per second.
    pub limit_rate: Option<u64>,
    /// How long to wait for the other side.
    pub patience: Patience,
    /// Becomes true when answering has failed. The reader of the connection should then stop.
    pub stop: Arc<AtomicBool>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The side that asks has all that it asked for; after a push, with its report as JSON.
    Done(Option<String>),
    /// The side that asks reports that its pull failed, and why, in one line.
    Failed(String),
    /// It ended the connection without a word, between two requests.
    HungUp,
}

/// Frames of an answer.
type Answer = Vec<(Kind, Vec<u8>)>;

/// What the reading thread hands on, in the order in which it came.
enum Next {
    Answer(u32, Receiver<Result<Answer>>),
    End(Outcome),
    Failed(Error),
}

/// A request for one of the threads.
struct Job {
    number: u32,
    request: Request,
    reply: Sender<Result<Answer>>,
}

/// Answers until the other side has finished.
///
/// # Errors
/// [`Error::Origin`] if the connection fails or the other side does not keep to the protocol. A request that fails is
/// an error on the other side only.
pub fn answer<R: Read + Send, W: Write>(
    connection: Connection<R, W>,
    options: &Answering<'_>,
) -> Result<Outcome> {
    let Connection { mut reader, writer } = connection;
    let (give_job, take_job) = bounded::<Job>(WINDOW + 1);
    let (give_next, take_next) = bounded::<Next>(WINDOW + 2);
    let (open, lists) = (AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (open, lists) = (&open, &lists);
        for started in 0..threads(options.threads).min(MOST_THREADS) {
            let take_job = take_job.clone();
            let work = move || work_all(&take_job, options, lists);
            match std::thread::Builder::new().spawn_scoped(scope, work) {
                Err(error) if started == 0 => {
                    return Err(Error::io("backy", "start a thread")(error));
                }
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(take_job);
        let read = move || read_all(&mut reader, options.block_size, open, &give_job, &give_next);
        let reading = std::thread::Builder::new().spawn_scoped(scope, read);
        reading.map_err(Error::io("backy", "start a thread"))?;
        let mut sender = Pace::new(writer, options);
        let outcome = match write_all(&mut sender, &take_next, open) {
            Err(error) if sender.writer.is_closed() => last_words(&take_next, error),
            outcome => outcome,
        };
        // Both other kinds of threads end when they find nobody at the other end of their channels.
        drop(take_next);
        if outcome.is_err() {
            options.stop.store(true, SeqCst);
        }
        outcome
    })
}

/// Reads requests until the end, and hands them out.
fn read_all<R: Read>(
    reader: &mut FrameReader<R>,
    block_size: BlockSize,
    open: &AtomicUsize,
    give_job: &Sender<Job>,
    give_next: &Sender<Next>,
) {
    let mut only_blocks = true;
    loop {
        let next = match read_one(reader, block_size) {
            Ok(Ok((number, request))) => {
                let before = open.fetch_add(1, SeqCst);
                let is_blocks = matches!(request, Request::Blocks { .. });
                if before >= WINDOW || before > 0 && !(is_blocks && only_blocks) {
                    let found = format!("a request besides {before} without an answer");
                    let expected = format!("at most {WINDOW}, all of them for blocks");
                    Next::Failed(reader.wrong(found, expected))
                } else {
                    only_blocks = is_blocks;
                    let (reply, answer) = bounded(1);
                    // There is space for as many as may be open.
                    let _ = give_job.send(Job { number, request, reply });
                    Next::Answer(number, answer)
                }
            }
            Ok(Err(outcome)) => Next::End(outcome),
            Err(error) => Next::Failed(error),
        };
        let is_last = !matches!(next, Next::Answer(..));
        if give_next.send(next).is_err() || is_last {
            return;
        }
    }
}

/// Reads a request, or how the connection ends.
fn read_one<R: Read>(
    reader: &mut FrameReader<R>,
    block_size: BlockSize,
) -> Result<std::result::Result<(u32, Request), Outcome>> {
    let Some((kind, payload)) = reader.next()? else { return Ok(Err(Outcome::HungUp)) };
    let read = match kind {
        Kind::List => Request::list(payload),
        Kind::Table => Request::table(payload),
        Kind::Blocks => Request::blocks(payload, block_size),
        Kind::End => {
            return match serde_json::from_slice::<End>(payload) {
                Ok(End { failed: Some(reason), .. }) => Ok(Err(Outcome::Failed(reason.message()))),
                Ok(End { report, .. }) => {
                    Ok(Err(Outcome::Done(report.map(|report| report.get().to_owned()))))
                }
                Err(error) => Err(reader.wrong(format!("an end with {error}"), "JSON")),
            };
        }
        kind => return Err(reader.wrong(format!("'{}'", kind.name()), "a request")),
    };
    read.map(Ok).map_err(|found| reader.wrong(found, "a request"))
}

/// Writes answers until the end.
fn write_all<W: Write>(
    sender: &mut Pace<W>,
    take_next: &Receiver<Next>,
    open: &AtomicUsize,
) -> Result<Outcome> {
    loop {
        let ended = || Error::Panic { message: "the thread that reads requests ended".to_owned() };
        match take_next.recv().map_err(|_| ended())? {
            Next::Answer(number, answer) => {
                let answer = sender.waiting(&answer)?;
                // Before it is written, because the other side may then send the next request.
                open.fetch_sub(1, SeqCst);
                match answer {
                    Ok(frames) => {
                        frames
                            .iter()
                            .try_for_each(|(kind, payload)| sender.send(*kind, payload))?;
                    }
                    Err(error) => sender.send(Kind::Error, &Reason::of(&error).payload(number))?,
                }
            }
            Next::End(outcome) => return Ok(outcome),
            Next::Failed(error) => {
                // It may be the connection itself that fails.
                let _ = sender.send(Kind::Error, &Reason::of(&error).payload(NO_REQUEST));
                return Err(error);
            }
        }
    }
}

/// How the other side said that it ended before it stopped reading; if it did not, this error.
fn last_words(take_next: &Receiver<Next>, error: Error) -> Result<Outcome> {
    let is_last = |next: &Next| !matches!(next, Next::Answer(..));
    match take_next.iter().find(is_last) {
        Some(Next::End(outcome @ Outcome::Failed(_))) => Ok(outcome),
        Some(Next::Failed(of_reading)) => Err(of_reading),
        _ => Err(error),
    }
}

/// Writes no faster than allowed, and signs of life where there is nothing else to write.
struct Pace<W> {
    writer: FrameWriter<W>,
    alive: Duration,
    limit_rate: Option<u64>,
    /// When the next frame may be sent.
    next: Option<Instant>,
}

impl<W: Write> Pace<W> {
    fn new(writer: FrameWriter<W>, options: &Answering<'_>) -> Self {
        let (alive, limit_rate) = (options.patience.alive, options.limit_rate);
        Pace { writer, alive, limit_rate, next: None }
    }

    /// Waits for an answer.
    fn waiting(&mut self, answer: &Receiver<Result<Answer>>) -> Result<Result<Answer>> {
        loop {
            match answer.recv_timeout(self.alive) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) => self.writer.write(Kind::Alive, &[])?,
                Err(RecvTimeoutError::Disconnected) => {
                    let message = "the thread that prepares answers ended".to_owned();
                    return Ok(Err(Error::Panic { message }));
                }
            }
        }
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<()> {
        if let Some(rate) = self.limit_rate {
            let now = Instant::now();
            let mut due = self.next.unwrap_or(now);
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                if left.is_zero() {
                    break;
                }
                if left > self.alive {
                    self.writer.write(Kind::Alive, &[])?;
                }
                std::thread::sleep(left.min(self.alive));
            }
            due = due.max(now);
            let bytes = payload.len() as f64;
            let takes = Duration::try_from_secs_f64(bytes / rate.max(1) as f64);
            self.next = due.checked_add(takes.unwrap_or(Duration::MAX));
        }
        self.writer.write(kind, payload)
    }
}

/// Does what requests ask for, until there are no more.
fn work_all(take_job: &Receiver<Job>, options: &Answering<'_>, lists: &AtomicU64) {
    // The origin, and how many lists had been made when it was opened: each list may name new revisions.
    let mut held: Option<(u64, Box<dyn Origin>)> = None;
    let mut packer = None;
    for Job { number, request, reply } in take_job {
        let worked = catch_unwind(AssertUnwindSafe(|| {
            if matches!(request, Request::List) {
                lists.fetch_add(1, SeqCst);
            }
            let now = lists.load(SeqCst);
            let (_, origin) = match held.take().filter(|(of, _)| *of == now) {
                Some(current) => held.insert(current),
                None => held.insert((now, (options.origin)()?)),
            };
            let packer = match &mut packer {
                Some(packer) => packer,
                none => none.insert(Packer::new()?),
            };
            work(&mut **origin, number, &request, options.block_size, packer)
        }));
        let message = || "a thread that prepares answers failed".to_owned();
        let answer = worked.unwrap_or_else(|_| Err(Error::Panic { message: message() }));
        // Nobody waits for it after an error of the connection.
        let _ = reply.send(answer);
    }
}

/// Packs blocks, batch after batch, with one working memory.
struct Packer {
    compressor: Compressor,
    data: Vec<u8>,
}

impl Packer {
    fn new() -> Result<Self> {
        Ok(Packer { compressor: Compressor::new(LEVEL)?, data: Vec::new() })
    }

    /// The payload of an answer with these data.
    fn batch(&mut self, number: u32, states: &[State]) -> Vec<u8> {
        match self.compressor.frame(&self.data) {
            Some(frame) => batch(number, states, Packing::Zstd, frame),
            None => batch(number, states, Packing::Plain, &self.data),
        }
    }
}

fn work(
    origin: &mut dyn Origin,
    number: u32,
    request: &Request,
    block_size: BlockSize,
    packer: &mut Packer,
) -> Result<Answer> {
    match request {
        Request::List => listing::frames(number, origin.listing()?),
        Request::Table { revision, since, from } => {
            let found = origin.table(*revision, *since, *from)?;
            check_piece(&origin.name(), &found)?;
            Ok(vec![(Kind::Piece, piece(number, &found))])
        }
        Request::Blocks { revision, blocks } => {
            let mut states = Vec::with_capacity(blocks.len());
            packer.data.clear();
            let mut expected: VecDeque<_> = blocks.iter().copied().collect();
            let name = origin.name();
            let no_block = |block| {
                let message =
                    format!("{name}: block {block} of revision {revision}: there is no such block");
                Error::Specification { message }
            };
            origin.fetch(*revision, blocks, &mut |block, fetched| {
                if expected.pop_front() != Some(block) {
                    let message = format!("the origin gave block {block} out of order");
                    return Err(Error::Panic { message });
                }
                states.push(match fetched {
                    Fetched::Bad => State::Bad,
                    Fetched::Data([]) => return Err(no_block(block)),
                    Fetched::Data(bytes) if is_zero(bytes) => State::Zero,
                    Fetched::Data(bytes) => {
                        packer.data.extend_from_slice(bytes);
                        State::Data
                    }
                });
                Ok(())
            })?;
            if let Some(&missing) = expected.front() {
                return Err(no_block(missing));
            }
            debug_assert!(packer.data.len() as u64 <= super::BATCH_BYTES.max(block_size.bytes()));
            Ok(vec![(Kind::Batch, packer.batch(number, &states))])
        }
    }
}

/// What an origin here promises of its pieces.
fn check_piece(name: &str, piece: &TablePiece) -> Result<()> {
    let entries = |run: &crate::origin::TableRun| match &run.entries {
        Entries::Zero(_) => 0,
        Entries::Each(entries) => entries.len(),
    };
    let total: usize = piece.runs.iter().map(entries).sum();
    if piece.runs.len() <= PIECE_RUNS && total <= PIECE_ENTRIES {
        return Ok(());
    }
    Err(broken(name, format!("a piece of a table with {total} entries")))
}
