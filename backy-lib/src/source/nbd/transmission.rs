//! Requests and their replies: section "Transmission phase" of the protocol.
//!
//! Several threads have requests open at once on one connection, up to [`DEPTH`] together, because many servers accept
//! only one. Whichever thread waits for a reply while nobody else does reads the next one, whosever it is, and wakes
//! the others. Each has a copy of the bytes of its own, so that no reply can reach another thread's memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::handshake::Agreed;
use super::incoming::Incoming;
use super::reply::{Body, Header, Request};
use super::status::Replied;
use super::{DEPTH, Fault, PIECE_BYTES, Patience, wrong};
use crate::base::error::describe_io;
use crate::base::extent::Extent;

/// "Request message".
const REQUEST_MAGIC: u32 = 0x2560_9513;

/// "Request types": those that are sent.
const READ: u16 = 0;
const DISC: u16 = 2;
const BLOCK_STATUS: u16 = 7;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refused it; the next one may work.
    Refused(String),
    /// The connection is of no use any more.
    Broken(Fault),
}

impl Failure {
    pub(super) fn message(&self) -> &str {
        match self {
            Failure::Refused(message) | Failure::Broken(message) => message,
        }
    }
}

/// A connection on which both sides have agreed.
pub(super) struct Connection {
    agreed: Agreed,
    patience: Patience,
    shared: Mutex<Shared>,
    changed: Condvar,
}

struct Shared {
    /// Nothing while a thread reads from it.
    incoming: Option<Incoming>,
    outgoing: Box<dyn Write + Send>,
    open: BTreeMap<u64, Request>,
    /// Also counts the request whose reply is being read.
    open_count: usize,
    done: BTreeMap<u64, Request>,
    /// When the last one was done, whosever it is.
    last_done: Instant,
    next_cookie: u64,
    broken: Option<Fault>,
}

impl Connection {
    pub(super) fn new(
        incoming: Incoming,
        outgoing: Box<dyn Write + Send>,
        agreed: Agreed,
        patience: Patience,
    ) -> Self {
        let shared = Shared {
            incoming: Some(incoming),
            outgoing,
            open: BTreeMap::new(),
            open_count: 0,
            done: BTreeMap::new(),
            last_done: Instant::now(),
            next_cookie: 1,
            broken: None,
        };
        Connection { agreed, patience, shared: Mutex::new(shared), changed: Condvar::new() }
    }

    pub(super) fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Reads a range of the export, in pieces. `each` gets them in any order, until one fails.
    pub(super) fn read(
        &self,
        range: Extent,
        each: &mut dyn FnMut(Extent, &[u8]),
    ) -> Result<(), (Extent, Failure)> {
        let min = u64::from(self.agreed.min_bytes);
        let piece = u64::from(PIECE_BYTES.min(self.agreed.max_bytes)).max(min) / min * min;
        let (first, end) = (range.offset / min * min, range.end().next_multiple_of(min));
        let mut next = first;
        let pieces = std::iter::from_fn(|| {
            let range = Extent::between(next, end.min(next.saturating_add(piece)));
            next = range.end();
            (range.len > 0).then_some((READ, range))
        });
        self.exchange(pieces, &mut |range, body| {
            if let Body::Read { bytes, .. } = body {
                each(range, &bytes);
            }
        })
    }

    /// What the server knows of the beginning of a range, whose offset and length are multiples of the smallest block.
    pub(super) fn status(&self, range: Extent) -> Result<Replied, (Extent, Failure)> {
        let mut found = Replied::nothing(range);
        self.exchange(std::iter::once((BLOCK_STATUS, range)), &mut |_, body| {
            if let Body::Status(replied) = body {
                found = replied;
            }
        })?;
        Ok(found)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends requests and passes on what was replied, until all are done or one has failed.
    fn exchange(
        &self,
        mut asked: impl Iterator<Item = (u16, Extent)>,
        take: &mut dyn FnMut(Extent, Body),
    ) -> Result<(), (Extent, Failure)> {
        let mut next = asked.next();
        let mut own: BTreeMap<u64, Extent> = BTreeMap::new();
        let mut failed = None;
        let mut since = Instant::now();
        let mut shared = self.lock();
        loop {
            while let Some((kind, range)) = next.filter(|_| shared.has_space()) {
                let cookie = shared.send(kind, range);
                own.insert(cookie, range);
                next = asked.next();
            }
            while let Some((cookie, request)) = shared.take_done(&own) {
                own.remove(&cookie);
                since = Instant::now();
                match request.refused {
                    None => {
                        drop(shared);
                        take(request.range, request.body);
                        shared = self.lock();
                    }
                    // What has been asked is still waited for, so that nothing is left over.
                    Some(message) => {
                        next = None;
                        failed.get_or_insert((request.range, Failure::Refused(message)));
                    }
                }
            }
            let waited_for = own.values().next().copied().or(next.map(|(_, range)| range));
            let Some(waited_for) = waited_for else { return failed.map_or(Ok(()), Err) };
            // Who could not yet send anything waits for the requests of others.
            let began = if own.is_empty() { since.max(shared.last_done) } else { since };
            if began.elapsed() > self.patience.answer {
                let seconds = self.patience.answer.as_secs_f64();
                let fault = format!("no whole answer came in {seconds} s; see the server's log");
                shared.broken.get_or_insert(fault);
            }
            if let Some(fault) = shared.broken.clone() {
                self.changed.notify_all();
                return Err((waited_for, Failure::Broken(fault)));
            }
            if next.is_some() && shared.has_space() {
                continue;
            }
            shared = match shared.incoming.take() {
                Some(incoming) => self.receive(shared, incoming),
                None => {
                    let left = self.patience.answer.saturating_sub(began.elapsed());
                    let woken = self.changed.wait_timeout(shared, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Reads one reply, or one chunk of it, while others may send. The lock is released meanwhile.
    fn receive<'a>(
        &'a self,
        shared: MutexGuard<'a, Shared>,
        mut incoming: Incoming,
    ) -> MutexGuard<'a, Shared> {
        drop(shared);
        incoming.begin();
        let header = Header::read(&mut incoming, &self.agreed);
        let received = header.and_then(|header| {
            let cookie = header.cookie();
            let request = self.lock().open.remove(&cookie);
            let Some(mut request) = request else {
                return Err(wrong(
                    "a reply",
                    format!("the cookie {cookie}"),
                    "one of an open request",
                ));
            };
            let is_done = request.receive(&header, &mut incoming, &self.agreed)?;
            Ok((cookie, request, is_done))
        });
        let mut shared = self.lock();
        shared.incoming = Some(incoming);
        match received {
            Ok((cookie, request, true)) => {
                shared.open_count = shared.open_count.saturating_sub(1);
                shared.last_done = Instant::now();
                shared.done.insert(cookie, request);
            }
            Ok((cookie, request, false)) => drop(shared.open.insert(cookie, request)),
            Err(fault) => drop(shared.broken.get_or_insert(fault)),
        }
        self.changed.notify_all();
        shared
    }
}

impl Drop for Connection {
    /// "Terminating the transmission phase".
    fn drop(&mut self) {
        let shared = self.shared.get_mut().unwrap_or_else(PoisonError::into_inner);
        if shared.broken.is_none() {
            // The server notices as well that the connection is closed.
            let _ = shared.outgoing.write_all(&message(DISC, 0, Extent { offset: 0, len: 0 }));
        }
    }
}

fn message(kind: u16, cookie: u64, range: Extent) -> Vec<u8> {
    let mut message = REQUEST_MAGIC.to_be_bytes().to_vec();
    message.extend(0_u16.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(cookie.to_be_bytes());
    message.extend(range.offset.to_be_bytes());
    message.extend((range.len as u32).to_be_bytes());
    message
}

impl Shared {
    fn has_space(&self) -> bool {
        self.open_count < DEPTH && self.broken.is_none()
    }

    /// Sends a request, or breaks the connection. Returns its cookie.
    fn send(&mut self, kind: u16, range: Extent) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let request = match kind {
            READ => Request::read(range),
            _ => Request::status(range),
        };
        self.open.insert(cookie, request);
        self.open_count += 1;
        let written = self.outgoing.write_all(&message(kind, cookie, range));
        if let Err(error) = written.and_then(|()| self.outgoing.flush()) {
            let error = describe_io(&error);
            let fault = format!("cannot send a request: {error}; see the server's log");
            self.broken.get_or_insert(fault);
        }
        cookie
    }

    /// One of these requests that is done.
    fn take_done(&mut self, own: &BTreeMap<u64, Extent>) -> Option<(u64, Request)> {
        let cookie = own.keys().find(|cookie| self.done.contains_key(cookie))?;
        self.done.remove_entry(cookie)
    }
}
