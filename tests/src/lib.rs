//! What the tests share: sources and targets in memory, a model of an archive, oracles.
//!
//! The model keeps every revision as a plain `Vec<u8>` beside the archive under test. QEMU is the witness that does
//! not share our mistakes ([`qemu`]).

pub mod canary;
pub mod checker;
pub mod command;
pub mod damage;
pub mod fake_origin;
pub mod fuzz;
pub mod golden;
pub mod legacy;
pub mod link;
pub mod memory;
pub mod model;
pub mod qemu;
pub mod rbd_diff;
pub mod retention;
pub mod stop;
pub mod tracked;
pub mod world;
