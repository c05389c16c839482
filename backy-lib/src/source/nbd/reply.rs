//! The replies to requests: sections "Simple reply message" and "Structured reply chunk message" of the protocol.
//!
//! This decides what a server may send in answer to what. Whoever reads a reply has its request alone meanwhile.

use std::collections::BTreeMap;

use super::handshake::Agreed;
use super::incoming::{Incoming, split};
use super::status::Replied;
use super::{Fault, MOST_CHUNKS, MOST_NAME_BYTES, said, wrong};
use crate::base::extent::Extent;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// "Structured reply flags".
const DONE: u16 = 1;

/// "Structured reply types".
const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const OFFSET_HOLE: u16 = 2;
const STATUS: u16 = 5;
const ERROR_BIT: u16 = 1 << 15;
const ERROR: u16 = ERROR_BIT + 1;
const ERROR_OFFSET: u16 = ERROR_BIT + 2;

/// What an error chunk may have besides its message.
const MOST_ERROR_BYTES: u32 = MOST_NAME_BYTES as u32 + 64;

/// A request and what has come of its reply.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) range: Extent,
    pub(super) body: Body,
    chunks: u32,
    /// The server's first error, as a sentence.
    pub(super) refused: Option<String>,
}

#[derive(Debug)]
pub(super) enum Body {
    Read { bytes: Vec<u8>, filled: Filled },
    Status(Replied),
}

/// Which bytes of a read have come: stretches from start to end, which neither overlap nor touch.
#[derive(Debug, Default)]
pub(super) struct Filled(BTreeMap<usize, usize>);

impl Filled {
    /// False if some of it has come before.
    fn add(&mut self, start: usize, end: usize) -> bool {
        let before = self.0.range(..=start).next_back().map(|(&start, &end)| (start, end));
        let after = self.0.range(start..).next().map(|(&start, &end)| (start, end));
        if before.is_some_and(|before| before.1 > start) || after.is_some_and(|after| after.0 < end)
        {
            return false;
        }
        let first = before.filter(|before| before.1 == start).map_or(start, |before| before.0);
        let last = match after.filter(|after| after.0 == end) {
            Some(after) => {
                self.0.remove(&after.0);
                after.1
            }
            None => end,
        };
        self.0.insert(first, last);
        true
    }

    fn is_all_of(&self, length: usize) -> bool {
        self.0.get(&0) == Some(&length)
    }
}

/// What a reply begins with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Header {
    Simple { error: u32, cookie: u64 },
    Chunk { flags: u16, kind: u16, cookie: u64, length: u32 },
}

impl Header {
    pub(super) fn read(incoming: &mut Incoming, agreed: &Agreed) -> Result<Self, Fault> {
        let what = "a reply";
        match incoming.u32(what)? {
            SIMPLE_MAGIC => {
                let (error, cookie) = (incoming.u32(what)?, incoming.u64(what)?);
                Ok(Header::Simple { error, cookie })
            }
            CHUNK_MAGIC if agreed.structured => {
                let (flags, kind) = (incoming.u16(what)?, incoming.u16(what)?);
                let (cookie, length) = (incoming.u64(what)?, incoming.u32(what)?);
                Ok(Header::Chunk { flags, kind, cookie, length })
            }
            found => {
                let or_chunk = match agreed.structured {
                    true => format!(" or {CHUNK_MAGIC:#010x}"),
                    false => String::new(),
                };
                let expected = format!("{SIMPLE_MAGIC:#010x}{or_chunk}");
                Err(wrong(what, format!("{found:#010x}"), expected))
            }
        }
    }

    pub(super) fn cookie(self) -> u64 {
        match self {
            Header::Simple { cookie, .. } | Header::Chunk { cookie, .. } => cookie,
        }
    }
}

impl Request {
    pub(super) fn read(range: Extent) -> Self {
        let bytes = vec![0; range.len as usize];
        Request::new(range, Body::Read { bytes, filled: Filled::default() })
    }

    pub(super) fn status(range: Extent) -> Self {
        Request::new(range, Body::Status(Replied::nothing(range)))
    }

    fn new(range: Extent, body: Body) -> Self {
        Request { range, body, chunks: 0, refused: None }
    }

    /// Reads what follows a header. True if it was the last of the reply.
    pub(super) fn receive(
        &mut self,
        header: &Header,
        incoming: &mut Incoming,
        agreed: &Agreed,
    ) -> Result<bool, Fault> {
        match *header {
            Header::Simple { error: 0, .. } => {
                let Body::Read { bytes, .. } = &mut self.body else {
                    return Err(wrong(
                        "a reply",
                        "a simple one",
                        "a structured one with block status",
                    ));
                };
                if agreed.structured {
                    return Err(wrong("a reply", "a simple one with data", "a structured one"));
                }
                incoming.fill(bytes, "the data of a reply")?;
                Ok(true)
            }
            Header::Simple { error, .. } => {
                self.refuse(error, "");
                Ok(true)
            }
            Header::Chunk { flags, kind, length, .. } => {
                self.chunks += 1;
                if self.chunks > MOST_CHUNKS {
                    return Err(wrong("a reply", "more chunks", format!("at most {MOST_CHUNKS}")));
                }
                if flags & !DONE != 0 {
                    return Err(wrong("a chunk", format!("the flags {flags:#06x}"), "0 or 1"));
                }
                let is_done = flags & DONE != 0;
                self.chunk(kind, length, is_done, incoming, agreed)?;
                if is_done {
                    self.check_whole(agreed)?;
                }
                Ok(is_done)
            }
        }
    }

    fn chunk(
        &mut self,
        kind: u16,
        length: u32,
        is_done: bool,
        incoming: &mut Incoming,
        agreed: &Agreed,
    ) -> Result<(), Fault> {
        match (kind, &mut self.body) {
            (NONE, _) if length == 0 && is_done => Ok(()),
            (NONE, _) => {
                let found = format!("one without content, of {length} bytes, before others");
                Err(wrong("a chunk", found, "0 bytes, as the last one"))
            }
            (OFFSET_DATA, Body::Read { bytes, filled }) => {
                let place = place_of_data(length, incoming)?;
                let part = part(self.range, place, bytes, filled)?;
                incoming.fill(part, "the data of a chunk")
            }
            (OFFSET_HOLE, Body::Read { bytes, filled }) => {
                let place = place_of_hole(length, incoming)?;
                part(self.range, place, bytes, filled)?.fill(0);
                Ok(())
            }
            (STATUS, Body::Status(replied)) => replied.chunk(incoming, length, agreed),
            (kind, _) if kind & ERROR_BIT != 0 => {
                let (error, said) = error_chunk(kind, length, incoming)?;
                self.refuse(error, &said);
                Ok(())
            }
            (kind, body) => {
                let expected = match body {
                    Body::Read { .. } => "data, a hole or an error",
                    Body::Status(_) => "block status or an error",
                };
                Err(wrong("a chunk", format!("the type {kind} with {length} bytes"), expected))
            }
        }
    }

    fn refuse(&mut self, error: u32, said: &str) {
        let advice = match error {
            108 => "it is shutting down; start it again",
            _ => "see its log",
        };
        let text = format!("the server answers {}{said}; {advice}", name_of(error));
        self.refused.get_or_insert(text);
    }

    /// A reply without an error has everything.
    fn check_whole(&self, agreed: &Agreed) -> Result<(), Fault> {
        let is_whole = match &self.body {
            _ if self.refused.is_some() => true,
            Body::Read { bytes, filled } => filled.is_all_of(bytes.len()),
            Body::Status(replied) => replied.is_whole(agreed),
        };
        match is_whole {
            true => Ok(()),
            false => Err(wrong("a reply", "its end before all of it had come", "all of it")),
        }
    }
}

/// `NBD_REPLY_TYPE_OFFSET_DATA`, up to its data.
fn place_of_data(length: u32, incoming: &mut Incoming) -> Result<Extent, Fault> {
    let what = "a chunk with data";
    let Some(data) = length.checked_sub(8).filter(|&data| data > 0) else {
        return Err(wrong(what, format!("{length} bytes"), "at least 9"));
    };
    Ok(Extent::new(incoming.u64(what)?, u64::from(data)))
}

/// `NBD_REPLY_TYPE_OFFSET_HOLE`.
fn place_of_hole(length: u32, incoming: &mut Incoming) -> Result<Extent, Fault> {
    let what = "a chunk for a hole";
    if length != 12 {
        return Err(wrong(what, format!("{length} bytes"), "12"));
    }
    let offset = incoming.u64(what)?;
    Ok(Extent::new(offset, u64::from(incoming.u32(what)?)))
}

/// The part of a read that a chunk is about, which has to be within it and new.
fn part<'a>(
    range: Extent,
    place: Extent,
    bytes: &'a mut [u8],
    filled: &mut Filled,
) -> Result<&'a mut [u8], Fault> {
    let Extent { offset, len } = place;
    let within = || {
        let start = usize::try_from(offset.checked_sub(range.offset)?).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (start < end && end <= bytes.len()).then_some((start, end))
    };
    let found = within().filter(|&(start, end)| filled.add(start, end));
    found.and_then(|(start, end)| bytes.get_mut(start..end)).ok_or_else(|| {
        let found = format!("{len} bytes at offset {offset}");
        let asked = format!("bytes not sent before, of {} at offset {}", range.len, range.offset);
        wrong("a chunk", found, asked)
    })
}

/// `NBD_REPLY_TYPE_ERROR` and its relatives: the number and the server's words, for the end of a sentence.
fn error_chunk(kind: u16, length: u32, incoming: &mut Incoming) -> Result<(u32, String), Fault> {
    let what = "a chunk with an error";
    if !(6..=MOST_ERROR_BYTES).contains(&length) {
        return Err(wrong(what, format!("{length} bytes"), format!("6 to {MOST_ERROR_BYTES}")));
    }
    let payload = incoming.bytes(length, what)?;
    let mut rest = payload.as_slice();
    let error = split(&mut rest).map_or(0, u32::from_be_bytes);
    let message_length = usize::from(split(&mut rest).map_or(0, u16::from_be_bytes));
    let text = rest.get(..message_length).filter(|text| text.len() <= MOST_NAME_BYTES);
    let more = rest.len().checked_sub(message_length);
    let is_possible = match kind {
        ERROR => more == Some(0),
        ERROR_OFFSET => more == Some(8),
        // Types of later versions may have more.
        _ => more.is_some(),
    };
    match text.filter(|_| is_possible && error != 0) {
        Some(text) => Ok((error, said(text))),
        None => {
            let found =
                format!("the error {error} with a message of {message_length} of {length} bytes");
            Err(wrong(what, found, "an error other than 0 and a message that fits"))
        }
    }
}

/// "Error values".
fn name_of(error: u32) -> String {
    let name = match error {
        1 => "EPERM",
        5 => "EIO",
        12 => "ENOMEM",
        22 => "EINVAL",
        28 => "ENOSPC",
        75 => "EOVERFLOW",
        95 => "ENOTSUP",
        108 => "ESHUTDOWN",
        error => return format!("error {error}"),
    };
    format!("{name} ({error})")
}
