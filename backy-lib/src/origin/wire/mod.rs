//! The protocol between two archives at the two ends of a pair of byte streams: `doc/protocol.md` specifies it.
//!
//! One side asks and one answers, whichever of them made the connection. [`WireOrigin`] asks and is an
//! [`Origin`](super::Origin) like any other; [`answer`] answers out of another origin; [`serve`] is the far side of a
//! pull, and what [`accept`] gives that of a push. Each side takes what the other sends for hostile: it checks every
//! length against a limit before it allocates memory, waits only so long, and uses no path that leads out of its root.
//!
//! Others decide whether blocks, tables and revisions are right: whoever uses a [`WireOrigin`] checks digests.

mod answer;
mod ask;
mod frame;
mod hello;
mod listing;
mod message;
mod place;
mod serve;
mod stream;

use std::time::Duration;

pub use answer::{Answering, Outcome, answer};
pub use ask::WireOrigin;
pub use hello::{Connection, Hello, Push, Role, call};
pub(crate) use message::REPORTS;
pub use serve::{Accepted, Pipes, ServeOptions, accept, serve};
pub use stream::{FdReader, FdWriter};

/// The versions of the protocol that this program knows, in ascending order.
pub const VERSIONS: [u32; 1] = [1];

/// The types of frames: number, name, and the longest payload in bytes.
pub fn frame_types() -> impl Iterator<Item = (u8, &'static str, usize)> {
    frame::Kind::ALL.into_iter().map(|kind| (kind as u8, kind.name(), kind.most_bytes()))
}

/// How long each side waits for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the next byte, or until the other side takes one.
    pub silence: Duration,
    /// For an answer from a side that only reports that it is alive.
    pub answer: Duration,
    /// After how long a side that has nothing else to send reports that it is alive.
    pub alive: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            silence: Duration::from_secs(5 * 60),
            answer: Duration::from_secs(60 * 60),
            alive: Duration::from_secs(30),
        }
    }
}

/// Bytes of blocks in an answer, unless one block is longer. One request has one answer, and its blocks are compressed
/// together.
pub(crate) const BATCH_BYTES: u64 = 1 << 20;

/// Requests for blocks that may be without an answer: 16 MiB, more than a line of 1 Gbit/s and 20 ms holds even if the
/// blocks compress to a quarter.
pub(crate) const WINDOW: usize = 16;
