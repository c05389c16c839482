//! A simulated line between two archives: it takes time, has a rate, can be cut, and can change what passes.
//!
//! Both ends are real pipes, so that what the library does with pipes is tested, too. The line knows where frames
//! begin, and nothing else of the protocol.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backy_lib::origin::wire::{FdReader, FdWriter, Patience};

/// The streams of one side.
pub type Streams = (FdReader<'static>, FdWriter);

/// Which way something passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the caller to the side that is called.
    Out,
    /// Back.
    Back,
}

/// What the line does with a frame.
pub enum Pass {
    /// It passes these bytes on.
    Bytes(Vec<u8>),
    /// It passes these bytes on, and is cut then.
    Cut(Vec<u8>),
}

/// Looks at each frame and decides what passes. Number 0 is the magic at the beginning.
pub type Filter = Arc<dyn Fn(Way, u64, Vec<u8>) -> Pass + Send + Sync>;

/// A line that has not been laid yet.
#[derive(Clone)]
pub struct Link {
    /// How long each byte is on its way.
    pub latency: Duration,
    /// Bytes a second in each direction.
    pub bytes_per_second: Option<f64>,
    /// Decides about each frame.
    pub filter: Option<Filter>,
    /// How long each side waits for the other.
    pub patience: Patience,
    /// Passes on whatever comes, without looking for frames: each read counts as one.
    pub is_raw: bool,
}

/// For tests in which nobody should have to wait.
pub fn patience() -> Patience {
    let (silence, answer) = (Duration::from_secs(20), Duration::from_secs(20));
    Patience { silence, answer, alive: Duration::from_secs(5) }
}

impl Default for Link {
    fn default() -> Self {
        Link {
            latency: Duration::ZERO,
            bytes_per_second: None,
            filter: None,
            patience: patience(),
            is_raw: false,
        }
    }
}

/// A line.
pub struct Laid {
    /// The streams of the caller.
    pub caller: Streams,
    /// The streams of the side that is called.
    pub called: Streams,
    /// What passed.
    pub traffic: Traffic,
}

/// What passed over a line, in both directions.
#[derive(Clone, Default)]
pub struct Traffic {
    ways: [Arc<Counts>; 2],
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

#[derive(Default)]
struct Counts {
    frames: AtomicU64,
    bytes: AtomicU64,
    recorded: Mutex<Vec<u8>>,
}

impl Traffic {
    fn of(&self, way: Way) -> &Arc<Counts> {
        &self.ways[usize::from(way == Way::Back)]
    }

    /// How many frames came from that side, with the magic.
    pub fn frames(&self, way: Way) -> u64 {
        self.of(way).frames.load(SeqCst)
    }

    /// How many bytes came from that side.
    pub fn bytes(&self, way: Way) -> u64 {
        self.of(way).bytes.load(SeqCst)
    }

    /// The first 64 KiB that came from that side.
    pub fn recorded(&self, way: Way) -> Vec<u8> {
        self.of(way).recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until both sides have closed their ends.
    pub fn wait(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().for_each(|thread| thread.join().expect("the line"));
    }
}

impl Link {
    /// A line that is cut when this many frames, and half of the next one, have passed that way.
    pub fn cut(way: Way, frames: u64) -> Self {
        let filter = move |on: Way, number: u64, mut frame: Vec<u8>| {
            if on == way && number == frames {
                frame.truncate(frame.len() / 2);
                return Pass::Cut(frame);
            }
            Pass::Bytes(frame)
        };
        Link { filter: Some(Arc::new(filter)), ..Link::default() }
    }

    /// A line for what may be no frames.
    pub fn raw(patience: Patience) -> Self {
        Link { is_raw: true, patience, ..Link::default() }
    }

    /// A line with something that changes frames.
    pub fn filtered(filter: impl Fn(Way, u64, Vec<u8>) -> Pass + Send + Sync + 'static) -> Self {
        Link { filter: Some(Arc::new(filter)), ..Link::default() }
    }

    /// Lays the line.
    ///
    /// # Panics
    /// When the system has no pipe or thread.
    pub fn lay(&self) -> Laid {
        let traffic = Traffic::default();
        let (from_caller, caller_out) = pipe().expect("a pipe");
        let (called_in, to_called) = pipe().expect("a pipe");
        let (from_called, called_out) = pipe().expect("a pipe");
        let (caller_in, to_caller) = pipe().expect("a pipe");
        // A cut closes both directions.
        let is_cut = Arc::new(Mutex::new(false));
        for (way, from, to) in
            [(Way::Out, from_caller, to_called), (Way::Back, from_called, to_caller)]
        {
            let (give, take) = sync_channel(64);
            let line = Line {
                link: self.clone(),
                way,
                counts: Arc::clone(traffic.of(way)),
                is_cut: Arc::clone(&is_cut),
            };
            let deliver = {
                let is_cut = Arc::clone(&is_cut);
                move || deliver(to, &take, &is_cut)
            };
            let mut threads = traffic.threads.lock().unwrap_or_else(PoisonError::into_inner);
            threads.push(std::thread::spawn(move || line.collect(from, &give)));
            threads.push(std::thread::spawn(deliver));
        }
        let streams = |read: PipeReader, write: PipeWriter| {
            let silence = self.patience.silence;
            let reader = FdReader::new(OwnedFd::from(read), silence, || false);
            (reader, FdWriter::new(OwnedFd::from(write), silence))
        };
        let (caller, called) = (streams(caller_in, caller_out), streams(called_in, called_out));
        Laid { caller, called, traffic }
    }
}

struct Line {
    link: Link,
    way: Way,
    counts: Arc<Counts>,
    is_cut: Arc<Mutex<bool>>,
}

impl Line {
    /// Takes whole frames and hands them on with the time at which they arrive.
    fn collect(self, mut from: PipeReader, give: &SyncSender<(Instant, Vec<u8>)>) {
        let mut free = Instant::now();
        while let Some(frame) = self.next(&mut from) {
            let number = self.counts.frames.fetch_add(1, SeqCst);
            self.counts.bytes.fetch_add(frame.len() as u64, SeqCst);
            let mut recorded = self.counts.recorded.lock().unwrap_or_else(PoisonError::into_inner);
            if recorded.len() < 64 << 10 {
                recorded.extend_from_slice(&frame);
            }
            drop(recorded);
            let (bytes, is_last) = match &self.link.filter {
                None => (frame, false),
                Some(filter) => match filter(self.way, number, frame) {
                    Pass::Bytes(bytes) => (bytes, false),
                    Pass::Cut(bytes) => (bytes, true),
                },
            };
            for part in bytes.chunks(16 << 10) {
                let takes = self.link.bytes_per_second.map_or(0.0, |rate| part.len() as f64 / rate);
                free = free.max(Instant::now()) + Duration::from_secs_f64(takes);
                if give.send((free + self.link.latency, part.to_vec())).is_err() {
                    return;
                }
            }
            if is_last {
                *self.is_cut.lock().unwrap_or_else(PoisonError::into_inner) = true;
                return;
            }
            if *self.is_cut.lock().unwrap_or_else(PoisonError::into_inner) {
                return;
            }
        }
    }

    /// The next frame, or what there is of it at the end.
    fn next(&self, from: &mut PipeReader) -> Option<Vec<u8>> {
        if self.link.is_raw {
            let mut some = vec![0; 16 << 10];
            let length = from.read(&mut some).ok().filter(|length| *length > 0)?;
            some.truncate(length);
            return Some(some);
        }
        let mut frame = vec![0; 8];
        if !fill(from, &mut frame) {
            return None;
        }
        // The first one is the magic.
        if self.counts.frames.load(SeqCst) > 0 {
            let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
            frame.resize(8 + length.min(8 << 20), 0);
            if !fill(from, &mut frame[8..]) {
                return None;
            }
        }
        Some(frame)
    }
}

fn fill(from: &mut PipeReader, buffer: &mut [u8]) -> bool {
    from.read_exact(buffer).is_ok()
}

/// Writes what arrives when it arrives.
fn deliver(mut to: PipeWriter, take: &Receiver<(Instant, Vec<u8>)>, is_cut: &Mutex<bool>) {
    loop {
        let (due, bytes) = match take.recv_timeout(Duration::from_millis(20)) {
            Ok(part) => part,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            Err(_) if *is_cut.lock().unwrap_or_else(PoisonError::into_inner) => return,
            Err(_) => continue,
        };
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}
