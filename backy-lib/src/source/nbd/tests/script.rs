//! What servers send, honest and otherwise, as bytes.

use std::io::{Cursor, Write, sink};
use std::sync::{Arc, Mutex};

use super::super::{NbdAddress, NbdOptions, NbdSource, Patience};
use crate::base::error::Result;

pub(super) const GO: u32 = 7;
pub(super) const STRUCTURED: u32 = 8;
pub(super) const META: u32 = 10;
pub(super) const ACK: u32 = 1;
pub(super) const INFO: u32 = 3;
pub(super) const CONTEXT: u32 = 4;
pub(super) const ERR: u32 = 1 << 31;

/// The numbers of the contexts in the honest beginning.
pub(super) const ALLOCATION: u32 = 5;
pub(super) const BITMAP: u32 = 9;

pub(super) fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(super) fn greeting() -> Vec<u8> {
    b"NBDMAGICIHAVEOPT\0\x03".to_vec()
}

/// A reply to an option.
pub(super) fn reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    bytes(&[
        &0x0003_e889_0455_65a9_u64.to_be_bytes(),
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &(payload.len() as u32).to_be_bytes(),
        payload,
    ])
}

pub(super) fn context(number: u32, name: &str) -> Vec<u8> {
    reply(META, CONTEXT, &bytes(&[&number.to_be_bytes(), name.as_bytes()]))
}

pub(super) fn export(size_bytes: u64) -> Vec<u8> {
    reply(GO, INFO, &bytes(&[&[0, 0], &size_bytes.to_be_bytes(), &[0, 3]]))
}

pub(super) fn block_sizes(min: u32, max: u32) -> Vec<u8> {
    let (min, usual, max) = (min.to_be_bytes(), 4096_u32.to_be_bytes(), max.to_be_bytes());
    reply(GO, INFO, &bytes(&[&[0, 3], &min, &usual, &max]))
}

/// Everything up to the transmission: with structured replies, `base:allocation`, and requests from one byte on.
pub(super) fn beginning(size_bytes: u64) -> Vec<u8> {
    bytes(&[
        &greeting(),
        &reply(STRUCTURED, ACK, &[]),
        &context(ALLOCATION, "base:allocation"),
        &reply(META, ACK, &[]),
        &export(size_bytes),
        &block_sizes(1, 32 << 20),
        &reply(GO, ACK, &[]),
    ])
}

/// The same with a bitmap `b` besides.
pub(super) fn beginning_with_bitmap(size_bytes: u64) -> Vec<u8> {
    bytes(&[
        &greeting(),
        &reply(STRUCTURED, ACK, &[]),
        &context(BITMAP, "qemu:dirty-bitmap:b"),
        &context(ALLOCATION, "base:allocation"),
        &reply(META, ACK, &[]),
        &export(size_bytes),
        &reply(GO, ACK, &[]),
    ])
}

/// The same of a server that knows neither structured replies nor block sizes.
pub(super) fn simple_beginning(size_bytes: u64) -> Vec<u8> {
    bytes(&[
        &greeting(),
        &reply(STRUCTURED, ERR + 1, b"what is that"),
        &export(size_bytes),
        &reply(GO, ACK, &[]),
    ])
}

pub(super) fn simple(error: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    let magic = 0x6744_6698_u32.to_be_bytes();
    bytes(&[&magic, &error.to_be_bytes(), &cookie.to_be_bytes(), data])
}

pub(super) fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    bytes(&[
        &0x668e_33ef_u32.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &(payload.len() as u32).to_be_bytes(),
        payload,
    ])
}

pub(super) fn done(cookie: u64) -> Vec<u8> {
    chunk(1, 0, cookie, &[])
}

pub(super) fn data(flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    chunk(flags, 1, cookie, &bytes(&[&offset.to_be_bytes(), data]))
}

pub(super) fn hole(flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    chunk(flags, 2, cookie, &bytes(&[&offset.to_be_bytes(), &length.to_be_bytes()]))
}

pub(super) fn status(flags: u16, cookie: u64, number: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    for (length, state) in extents {
        payload.extend(length.to_be_bytes());
        payload.extend(state.to_be_bytes());
    }
    chunk(flags, 5, cookie, &payload)
}

/// An error chunk; with an offset if there is one.
pub(super) fn error(flags: u16, cookie: u64, error: u32, text: &[u8], at: Option<u64>) -> Vec<u8> {
    let mut payload = error.to_be_bytes().to_vec();
    payload.extend((text.len() as u16).to_be_bytes());
    payload.extend(text);
    payload.extend(at.into_iter().flat_map(u64::to_be_bytes));
    chunk(flags, (1 << 15) + if at.is_some() { 2 } else { 1 }, cookie, &payload)
}

pub(super) fn address() -> NbdAddress {
    "nbd://host/x".parse().expect("an address")
}

pub(super) fn options(bitmap: Option<&str>) -> NbdOptions {
    NbdOptions { bitmap: bitmap.map(str::to_owned), patience: Patience::default() }
}

/// Opens an export of a server that sends these bytes and listens to nothing.
pub(super) fn open(sent: &[u8]) -> Result<NbdSource> {
    NbdSource::over(
        Box::new(Cursor::new(sent.to_vec())),
        Box::new(sink()),
        &address(),
        &options(None),
    )
}

pub(super) fn open_with_bitmap(sent: &[u8]) -> Result<NbdSource> {
    let reader = Cursor::new(sent.to_vec());
    NbdSource::over(Box::new(reader), Box::new(sink()), &address(), &options(Some("b")))
}

/// Keeps what the client sends.
#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<Vec<u8>>>);

impl Recorder {
    pub(super) fn recorded(&self) -> Vec<u8> {
        self.0.lock().expect("no panic").clone()
    }
}

impl Write for Recorder {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
