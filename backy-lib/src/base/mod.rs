//! Vocabulary that every other part uses: errors, units, digests, clocks, limits.

pub(crate) mod block_ranges;
pub mod canary;
pub mod clock;
pub mod digest;
pub mod error;
pub mod escape;
pub mod extent;
pub mod fork;
pub mod limits;
pub(crate) mod pipeline;
pub mod progress;
pub mod report_path;
pub mod revision;
pub mod units;
