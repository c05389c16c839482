//! Revisions as bytes: the raw image, deltas, digest tables, and the chain that makes any revision of them.

pub(crate) mod append;
pub mod chain;
pub(crate) mod damage;
pub mod delta;
pub mod digests;
pub(crate) mod orphans;
mod private;
pub mod reader;
pub(crate) mod refcounts;
pub(crate) mod sequential;
pub(crate) mod walk;
