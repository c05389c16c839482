//! Revisions as bytes: the raw image, deltas, digest tables, and the chain that combines them into any revision.
//!
//! The readers are public. The writers of deltas and digest files (`append`, `delta`, `digests`) are public only with
//! the feature `testing`, because they do not require the archive's lock.

pub(crate) mod append;
pub mod chain;
pub(crate) mod damage;
#[cfg(feature = "testing")]
pub mod delta;
#[cfg(not(feature = "testing"))]
#[expect(unreachable_pub, reason = "public for tests")]
pub(crate) mod delta;
#[cfg(feature = "testing")]
pub mod digests;
#[cfg(not(feature = "testing"))]
#[expect(unreachable_pub, reason = "public for tests")]
pub(crate) mod digests;
pub(crate) mod orphans;
mod private;
pub mod reader;
pub(crate) mod refcounts;
pub(crate) mod sequential;
pub(crate) mod taken;
pub(crate) mod walk;
