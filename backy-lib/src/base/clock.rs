//! The time and the time zone, passed in by the caller: the library never reads the wall clock itself.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A date at most this far ahead counts as past: the clocks of machines that share an archive differ, and
/// time servers set clocks back a little.
const MAX_AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// The latest time that does not count as future.
pub(crate) fn latest(now: Timestamp) -> Timestamp {
    now.saturating_add(MAX_AHEAD).unwrap_or(Timestamp::MAX)
}

/// Source of the current time.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// The zone of local times for which the config names no zone.
    fn zone(&self) -> TimeZone {
        TimeZone::UTC
    }
}

/// The computer's clock, which the command and the Python module use.
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

/// A clock that stands still, for tests and for asking about another time.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}
