//! The time and the time zone, as something that is handed in: the library never looks at the wall clock by itself.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// What is dated at most so far ahead has happened already: the clocks of two machines that share an archive differ, and time servers set
/// clocks back a little.
const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// The latest time that does not lie in the future.
pub(crate) fn latest(now: Timestamp) -> Timestamp {
    now.saturating_add(MAX_AHEAD).unwrap_or(Timestamp::MAX)
}

/// Tells what time it is.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// The time zone that local times are in where nobody names one.
    fn zone(&self) -> TimeZone {
        TimeZone::UTC
    }
}

/// The computer's clock: what the command and the Python module use.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn zone(&self) -> TimeZone {
        TimeZone::system()
    }
}

/// A clock that stands still, for tests and for questions about another time.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}
