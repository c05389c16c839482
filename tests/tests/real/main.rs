//! The real `backy` command on the real system: killed, out of space, on file systems with clones, in several
//! processes at once, with block devices, mounted, and after power cuts. The simulated disk of the other tests shares
//! our ideas of a disk; this one does not.
//!
//! A binary of its own because its library works with the limits of a normal build: `engine` makes them small
//! for its whole process. No test here changes its own process: what needs other limits, signals or users runs
//! in a child.

#![expect(
    clippy::disallowed_methods,
    reason = "plays the operator: makes sources and targets, and looks at the files of archives and mounts"
)]

mod beside;
mod cache;
mod calls;
mod ceph;
mod clone;
mod conformance;
mod cost;
mod crowd;
mod descriptors;
mod device;
mod disks;
mod durable;
mod full;
mod harness;
mod hint_program;
mod holeless;
mod hooks;
mod keeping;
mod kill;
mod large;
mod leftovers;
mod libvirt;
mod limits;
mod made;
mod medium;
mod mount;
mod mounted;
mod moving;
mod nbd;
mod others;
mod planted;
mod powercut;
mod processes;
mod qcow2;
mod qmp;
mod rare;
mod rbd;
mod readers;
mod readonly;
mod recipes;
mod reflink;
mod room;
mod site;
mod sources;
mod space;
mod sparse;
mod stand_ins;
mod strace;
mod thin;
mod threads;
mod torture;
mod ways;
