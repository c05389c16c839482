//! The real `backy` command on the real system: killed, out of space, on file systems with clones, in several processes at
//! once, with block devices. The simulated disk of the other tests shares our ideas of a disk; this one does not.

#![expect(
    clippy::disallowed_methods,
    reason = "plays the operator: makes sources and targets, and looks at the files of archives"
)]

#[path = "real/beside.rs"]
mod beside;
#[path = "real/clone.rs"]
mod clone;
#[path = "real/device.rs"]
mod device;
#[path = "real/disks.rs"]
mod disks;
#[path = "real/full.rs"]
mod full;
#[path = "real/hooks.rs"]
mod hooks;
#[path = "real/keeping.rs"]
mod keeping;
#[path = "real/kill.rs"]
mod kill;
#[path = "real/processes.rs"]
mod processes;
#[path = "real/recipes.rs"]
mod recipes;
#[path = "real/room.rs"]
mod room;
#[path = "real/site.rs"]
mod site;
#[path = "real/space.rs"]
mod space;
#[path = "real/strace.rs"]
mod strace;
