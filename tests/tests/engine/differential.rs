//! QEMU's qcow2 against ours. Our reader reads images that `qemu-img` and `qemu-io` make as `qemu-img convert` does,
//! or refuses them by name (`theirs`, `features`). QEMU reads our archives as they were backed up (`ours`). Archives
//! whose deltas QEMU has written to stay right, whatever is done with them next (`rewritten`).
//!
//! All cases come from seeds: they are the same in every run, and a failing one prints its seed.

#![expect(
    clippy::disallowed_methods,
    reason = "makes images for another program, and looks at the files of archives"
)]

mod features;
mod ours;
mod rewritten;
mod theirs;
mod tools;
