//! Damage that decides what a verb has to detect or repair, in an archive with three revisions or more.

use backy_lib::storage::{DigestsKind, FileName};
use backy_tests::world::World;

/// What is damaged, and how.
pub(crate) type Damage = (&'static str, fn(&World));

pub(crate) const IMAGE: Damage =
    ("image", |world| world.disk.tamper(FileName::IMAGE, |image| image[4096 + 9] ^= 1));

pub(crate) const HEADER: Damage = ("header", |world| {
    let name = FileName::Delta(world.expected[1].uuid);
    world.disk.tamper(name, |delta| delta[..512].fill(0));
});

pub(crate) const DIGESTS: Damage = ("digests", |world| {
    let name = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    world.disk.tamper(name, |digests| digests[..4200].fill(0));
});
