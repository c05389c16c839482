//! Vocabulary that every other part uses: errors, units, digests, clocks, limits.

pub(crate) mod block_ranges;
pub mod canary;
pub mod clock;
pub mod digest;
pub mod error;
pub mod escape;
pub mod extent;
pub mod fork;
#[cfg(feature = "testing")]
pub mod limits;
#[cfg(not(feature = "testing"))]
pub(crate) mod limits;
pub mod mark;
pub(crate) mod pipeline;
pub mod progress;
pub mod report_path;
pub mod revision;
pub mod units;
