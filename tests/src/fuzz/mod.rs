//! The fuzz targets: for each, how bytes become an input, and the oracle that panics when a promise is broken.
//!
//! `fuzz/fuzz_targets` passes these to libFuzzer, a few lines each, since that needs a nightly compiler. On stable
//! `tests/tests/corpus.rs` runs them on the inputs in `fuzz/seeds` and `fuzz/regressions`. Whoever adds a target adds
//! it to [`TARGETS`], and that test says what else is missing.
//!
//! A target does the same for the same bytes: no clock, no random names that matter, one thread. It is quick, and
//! limits its own work where a long input would find nothing new.

pub mod archive_ops;
pub mod config;
pub mod damaged_archive;
pub mod digest_file;
pub mod legacy_archive;
pub mod manifest;
pub mod nbd_server_bytes;
mod one_file;
pub mod partitions;
pub mod protocol_client;
pub mod protocol_server;
pub mod qcow2_open;
pub mod qcow2_roundtrip;
pub mod retention;
pub mod revision_spec;
pub mod source_answers;

pub use one_file::OneFile;

/// A folder for one input, in memory where possible.
///
/// # Panics
/// When there is none to be had.
pub fn scratch_folder() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("backy-fuzz-");
    let made = match std::path::Path::new("/dev/shm").is_dir() {
        true => builder.tempdir_in("/dev/shm"),
        false => builder.tempdir(),
    };
    made.expect("a temporary folder")
}

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
    Target { name: "config", run: config::run },
    Target { name: "damaged_archive", run: damaged_archive::run },
    Target { name: "digest_file", run: digest_file::run },
    Target { name: "legacy_archive", run: legacy_archive::run },
    Target { name: "manifest", run: manifest::run },
    Target { name: "nbd_server_bytes", run: nbd_server_bytes::run },
    Target { name: "partitions", run: partitions::run },
    Target { name: "protocol_client", run: protocol_client::run },
    Target { name: "protocol_server", run: protocol_server::run },
    Target { name: "qcow2_open", run: qcow2_open::run },
    Target { name: "qcow2_roundtrip", run: qcow2_roundtrip::run },
    Target { name: "retention", run: retention::run },
    Target { name: "revision_spec", run: revision_spec::run },
    Target { name: "source_answers", run: source_answers::run },
];
