//! The library, mostly on the simulated disk: what it stores, loses and reports.
//!
//! A binary of its own because [`backy_tests::world`] makes the library's limits small for the whole process, so
//! that an image of some ten blocks has many batches and windows. All tests here want that, or do not notice.

mod changed;
mod clocks;
mod damage;
mod differential;
mod digests;
mod files;
mod golden;
mod hidden;
mod import;
mod interleave;
mod manifests;
mod merge;
mod model;
mod names;
mod old;
mod pull;
mod rbd_diff;
mod rebuild;
mod reflink;
mod restore;
mod retention;
mod scrub;
mod sweep;
mod told;
mod tracked;
mod wire;
