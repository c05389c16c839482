//! Decisions without I/O: what the config says, when a backup is due, what is kept, how much space it takes, what is healthy.

pub mod config;
pub mod health;
pub mod plan;
pub mod retention;
pub mod room;
pub mod schedule;
pub mod select;
