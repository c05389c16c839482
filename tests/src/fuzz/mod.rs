//! What is fuzzed: for each target how bytes become an input, and the oracle that panics when a promise is broken.
//!
//! `fuzz/fuzz_targets` hands these to libFuzzer, a few lines each, since that needs a nightly compiler. On stable
//! `tests/tests/corpus.rs` runs them on the inputs in `fuzz/seeds` and `fuzz/regressions`. Whoever adds a target adds it to
//! [`TARGETS`], and that test says what else is missing.
//!
//! A target does the same for the same bytes: no clock, no random names that matter, one thread. It is quick, and it bounds what it
//! does with an input itself where a long one would do nothing new.

pub mod archive_ops;
pub mod damaged_archive;
mod one_file;
pub mod qcow2_open;

pub use one_file::OneFile;

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its module, its binary and the folder of its inputs.
    pub name: &'static str,
    /// Runs it on an input.
    ///
    /// # Panics
    /// When a promise is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "archive_ops", run: archive_ops::run },
    Target { name: "damaged_archive", run: damaged_archive::run },
    Target { name: "qcow2_open", run: qcow2_open::run },
];
