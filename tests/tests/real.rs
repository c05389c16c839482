//! The real `backy` command on the real system: killed, out of space, on file systems with clones, in several processes at
//! once, with block devices. The simulated disk of the other tests shares our ideas of a disk; this one does not.

#![expect(
    clippy::disallowed_methods,
    reason = "plays the operator: makes sources and targets, and looks at the files of archives"
)]

#[path = "real/beside.rs"]
mod beside;
#[path = "real/cache.rs"]
mod cache;
#[path = "real/calls.rs"]
mod calls;
#[path = "real/clone.rs"]
mod clone;
#[path = "real/conformance.rs"]
mod conformance;
#[path = "real/cost.rs"]
mod cost;
#[path = "real/crowd.rs"]
mod crowd;
#[path = "real/descriptors.rs"]
mod descriptors;
#[path = "real/device.rs"]
mod device;
#[path = "real/disks.rs"]
mod disks;
#[path = "real/durable.rs"]
mod durable;
#[path = "real/full.rs"]
mod full;
#[path = "real/holeless.rs"]
mod holeless;
#[path = "real/hooks.rs"]
mod hooks;
#[path = "real/keeping.rs"]
mod keeping;
#[path = "real/kill.rs"]
mod kill;
#[path = "real/large.rs"]
mod large;
#[path = "real/leftovers.rs"]
mod leftovers;
#[path = "real/limits.rs"]
mod limits;
#[path = "real/made.rs"]
mod made;
#[path = "real/medium.rs"]
mod medium;
#[expect(dead_code, reason = "shared with the tests of mounts, which need more of it")]
#[path = "mount/mounted.rs"]
mod mounted;
#[path = "real/moving.rs"]
mod moving;
#[path = "real/others.rs"]
mod others;
#[path = "real/planted.rs"]
mod planted;
#[path = "real/processes.rs"]
mod processes;
#[path = "real/rare.rs"]
mod rare;
#[path = "real/readers.rs"]
mod readers;
#[path = "real/readonly.rs"]
mod readonly;
#[path = "real/recipes.rs"]
mod recipes;
#[path = "real/room.rs"]
mod room;
#[path = "real/site.rs"]
mod site;
#[path = "real/space.rs"]
mod space;
#[path = "real/sparse.rs"]
mod sparse;
#[path = "real/strace.rs"]
mod strace;
#[path = "real/threads.rs"]
mod threads;
#[path = "real/torture.rs"]
mod torture;
