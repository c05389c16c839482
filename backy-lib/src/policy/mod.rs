//! Decisions without I/O: config, schedule, retention, space estimates, choice of revisions, verdict on an archive.

pub mod config;
pub mod health;
pub mod plan;
pub mod retention;
pub mod room;
pub(crate) mod rotation;
pub mod schedule;
pub mod select;
