//! Bytes to values and back: every kind of file in an archive, without I/O.
//!
//! Input is hostile until parsed: nothing here panics, and nothing allocates more than the length of its input.
//! `doc/format.md` is the specification; its worked example is parsed by a test.

pub mod digests;
pub mod disk;
pub mod file_system;
pub mod legacy;
pub(crate) mod libvirt_address;
pub mod manifest;
pub(crate) mod name;
pub(crate) mod nbd_address;
pub mod partitions;
pub mod qcow2;
pub(crate) mod qmp_address;
pub(crate) mod rbd_address;
pub mod readme;
pub(crate) mod thin_address;
