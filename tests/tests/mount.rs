//! `backy mount` for real: the kernel, the real command, loop devices and file systems in the images. What can be tested without
//! a kernel is tested in the library, `backy-lib/src/mount`.

#![expect(
    clippy::disallowed_methods,
    reason = "plays the operator: makes sources, and looks at the files of archives and mounts"
)]

#[path = "mount/background.rs"]
mod background;
#[path = "mount/bytes.rs"]
mod bytes;
#[path = "mount/damage.rs"]
mod damage;
#[expect(dead_code, reason = "shared with the tests of the other commands, which need more of it")]
#[path = "real/disks.rs"]
mod disks;
#[path = "mount/free.rs"]
mod free;
#[path = "mount/fstab.rs"]
mod fstab;
#[path = "mount/inside.rs"]
mod inside;
#[path = "mount/life.rs"]
mod life;
#[path = "mount/mounted.rs"]
mod mounted;
#[path = "mount/namespace.rs"]
mod namespace;
#[path = "mount/partitions.rs"]
mod partitions;
#[path = "mount/pinned.rs"]
mod pinned;
#[expect(dead_code, reason = "shared with the tests of the other commands, which need more of it")]
#[path = "real/site.rs"]
mod site;
#[expect(dead_code, reason = "shared with the tests of the other commands, which need more of it")]
#[path = "real/strace.rs"]
mod strace;
#[path = "mount/tree.rs"]
mod tree;
