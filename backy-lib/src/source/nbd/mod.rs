//! An export of an NBD server: a client of our own, and the source that reads with it.
//!
//! It speaks what the NBD protocol calls fixed newstyle, with structured replies and metadata contexts where the server
//! has them. It takes every byte of the server for hostile: it checks each length, offset, type and cookie before it
//! allocates memory or stores anything, and waits only so long. After an answer that cannot be, nothing more is read
//! from that server. `doc/nbd.md` lists the limits.
//!
//! Left out on purpose: TLS, which ssh or stunnel replace; connecting again, since an export may have changed
//! meanwhile; everything that writes. Whether the bytes are right is for the server to know.

mod handshake;
mod incoming;
mod reply;
mod source;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod transmission;

use std::time::Duration;

use crate::base::escape;
use crate::format::nbd_address::MOST_NAME_BYTES;

pub use crate::format::nbd_address::NbdAddress;
pub use source::{NbdOptions, NbdSource};
pub(in crate::source) use stream::open_unix;

/// Longest payload of a reply to an option.
const MOST_OPTION_BYTES: u32 = 16 << 10;

/// Replies to one option.
const MOST_OPTION_REPLIES: usize = 64;

/// Bytes of a read request; less where the server takes less.
const PIECE_BYTES: u32 = 256 << 10;

/// Requests without an answer: 4 MiB, which is more than a line of 10 Gbit/s holds in 3 ms.
const DEPTH: usize = 16;

/// Chunks of the reply to one request: eight for each sector of a piece.
const MOST_CHUNKS: u32 = 4096;

/// Bytes about which one request for block status asks.
const STATUS_BYTES: u32 = 1 << 30;

/// Longest payload of a chunk of block status: 1,048,576 extents, more than QEMU sends, and as many as nbdkit does.
const MOST_STATUS_BYTES: u32 = 4 + (8 << 20);

/// An answer about fewer bytes counts as one about so many, of which the rest may hold data: so that a server that
/// answers byte by byte ends nonetheless.
const LEAST_STATUS_BYTES: u64 = 64 << 10;

/// Characters of a message of the server that an error shows.
const MOST_SHOWN: usize = 300;

/// The limits that `doc/nbd.md` lists.
pub const LIMITS: [(&str, u64); 11] = [
    ("seconds to connect", Patience::DEFAULT.connect.as_secs()),
    ("seconds without a byte", Patience::DEFAULT.silence.as_secs()),
    ("seconds for a whole answer", Patience::DEFAULT.answer.as_secs()),
    ("bytes of the name of an export or a bitmap", MOST_NAME_BYTES as u64),
    ("bytes of a reply to an option", MOST_OPTION_BYTES as u64),
    ("replies to an option", MOST_OPTION_REPLIES as u64),
    ("bytes of a read request", PIECE_BYTES as u64),
    ("requests without an answer", DEPTH as u64),
    ("chunks of an answer", MOST_CHUNKS as u64),
    ("bytes of a request for block status", STATUS_BYTES as u64),
    ("bytes of a chunk of block status", MOST_STATUS_BYTES as u64),
];

/// How long the client waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the server has accepted the connection.
    pub connect: Duration,
    /// For the next byte, or until the server takes one.
    pub silence: Duration,
    /// For the whole answer to a request or an option.
    pub answer: Duration,
}

impl Patience {
    const DEFAULT: Patience = Patience {
        connect: Duration::from_secs(10),
        silence: Duration::from_secs(60),
        answer: Duration::from_secs(5 * 60),
    };
}

impl Default for Patience {
    fn default() -> Self {
        Patience::DEFAULT
    }
}

/// Why the connection is of no use any more: what was found, what was expected, and what to do.
type Fault = String;

/// The other side does not keep to the protocol.
fn wrong(place: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Fault {
    format!(
        "{place}: found {found}, expected {expected}; check that an NBD server has this address, and update it"
    )
}

/// Words of the server, for the end of a part of a sentence: at most [`MOST_SHOWN`] characters of them, on one line.
fn said(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let mut shown: String = text.chars().take(MOST_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    match shown.trim() {
        "" => String::new(),
        shown => format!(" ('{}')", escape::line(shown)),
    }
}
