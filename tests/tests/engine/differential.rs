//! QEMU's qcow2 and ours, one against the other. Images that `qemu-img` and `qemu-io` make read by our reader
//! as `qemu-img convert` has them, or are refused by name (`theirs`, `features`); archives of ours read by QEMU
//! as they were backed up (`ours`); and archives whose deltas QEMU has written to stay right, whatever is done
//! with them next (`rewritten`).
//!
//! All cases come from seeds: they are the same in every run, and one that fails says its seed.

#![expect(
    clippy::disallowed_methods,
    reason = "makes images for another program, and looks at the files of archives"
)]

mod features;
mod ours;
mod rewritten;
mod theirs;
mod tools;
