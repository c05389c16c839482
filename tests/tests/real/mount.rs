//! `backy mount` for real: the kernel, the real command, loop devices and file systems in the images. What can be
//! tested without a kernel is tested in the library, `backy-lib/src/mount`.

mod background;
mod bytes;
mod damage;
mod free;
mod fstab;
mod inside;
mod life;
mod namespace;
mod partitions;
mod pinned;
mod tree;
