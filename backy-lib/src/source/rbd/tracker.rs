//! Marks of an image: snapshots, one for each.

use std::sync::Arc;
use std::thread;

use super::answers::{Difference, Snapshot};
use super::image::Image;
use super::{Held, Shared};
use crate::base::error::{Result, describe_io};
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::program::QEMU_NBD;
use crate::source::qemu_nbd::Export;
use crate::source::reported::Reported;
use crate::source::served::Server;
use crate::source::tracking::{Marked, Tracker, check_id, check_identity};

/// Its name in bookmarks.
const TRACKER: &str = "rbd";

/// `rbd diff` lists bytes; librbd itself deals with sectors.
const GRANULARITY: u64 = 512;

/// What it is called in messages.
const IMAGE: &str = "image";

/// What QEMU says without its driver for RBD: as a module that is missing, or as a driver that it does not know.
const NO_DRIVER: [&str; 2] = ["Unknown driver 'rbd'", "Unable to load module rbd"];

type Answer<T> = std::result::Result<T, String>;

pub(super) struct SnapshotTracker {
    pub shared: Arc<Shared>,
}

/// What was found out about a snapshot, side by side.
struct Found {
    place: Answer<String>,
    data: Answer<Difference>,
    /// `None` if nothing was asked.
    changed: Option<Answer<Difference>>,
}

impl SnapshotTracker {
    fn image(&self) -> &Image {
        &self.shared.image
    }

    /// Makes a snapshot and has it served. Returns it with those of the image.
    fn take(&self, name: MarkName) -> Result<(Snapshot, Export, Vec<Snapshot>)> {
        let image = self.image();
        self.shared.held.put(None);
        image.make(&name.to_string()).map_err(|why| {
            image.error(&format!("no snapshot can be made, and without one it is not read: {why}"))
        })?;
        let listed = image.snapshots().map_err(|why| image.error(&why))?;
        let Some(snapshot) = find(&listed, name).cloned() else {
            return Err(image.error(&format!("the snapshot {name} is missing after it was made")));
        };
        let export = Export::open(image.options(&snapshot.name), None).map_err(|why| {
            image.error(&match NO_DRIVER.iter().any(|words| why.contains(words)) {
                true => format!(
                    "{} cannot read it; install the Debian package qemu-block-extra: {why}",
                    QEMU_NBD.name
                ),
                false => why,
            })
        })?;
        let served = export.nbd().map_or(0, crate::source::Source::size_bytes);
        if served < snapshot.size_bytes {
            let expected = snapshot.size_bytes;
            return Err(image.error(&format!(
                "QEMU serves {served} bytes of the snapshot {name}, expected {expected}"
            )));
        }
        Ok((snapshot, export, listed))
    }

    /// Asks all at once: each answer takes some time.
    fn find_out(&self, snapshot: &Snapshot, since: Option<&str>, with_place: bool) -> Found {
        let image = self.image();
        let difference =
            |since| move || image.difference(since, &snapshot.name, snapshot.size_bytes);
        thread::scope(|scope| {
            let data = thread::Builder::new().spawn_scoped(scope, difference(None));
            let changed = since
                .map(|since| thread::Builder::new().spawn_scoped(scope, difference(Some(since))));
            let place = match with_place {
                true => image.place(),
                false => Err("nobody asks".to_owned()),
            };
            Found { place, data: joined(data), changed: changed.map(joined) }
        })
    }

    /// What the snapshot is known by, in a bookmark.
    fn identity(&self, place: &str) -> Answer<String> {
        Ok(format!("{place}, image {}", self.image().info()?.id))
    }

    /// What has changed between two snapshots, as `rbd diff` has reported; or why that is not to be relied on.
    fn compared(
        &self,
        (since, bookmark): (MarkName, &Bookmark),
        identity: &str,
        found: Option<Answer<Difference>>,
    ) -> Answer<Difference> {
        check_identity(IMAGE, identity, bookmark)?;
        let changed = found.ok_or_else(|| "nothing was compared".to_owned())??;
        // A snapshot that was removed meanwhile no longer has what it had.
        let listed = self.image().snapshots()?;
        earlier(&listed, since, bookmark)?;
        Ok(changed)
    }
}

impl Tracker for SnapshotTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        let (snapshot, export, listed) = self.take(name)?;
        let known = match since {
            Some((since, bookmark)) => earlier(&listed, since, bookmark).map(|_| since.to_string()),
            None => Err("there is no earlier mark".to_owned()),
        };
        let found = self.find_out(&snapshot, known.as_deref().ok(), true);
        let identity = found.place.and_then(|place| self.identity(&place));
        let mut changed = match (since, &known, &identity) {
            (Some(since), Ok(_), Ok(identity)) => self.compared(since, identity, found.changed),
            (_, Err(why), _) => Err(why.clone()),
            (_, _, Err(why)) => Err(format!("it is not known which image it is: {why}")),
            (None, ..) => Err("there is no earlier mark".to_owned()),
        };
        let (data, holes) = match found.data {
            Ok(data) => (Some(data.data), None),
            Err(why) => (None, Some(format!("it is not known where it has data: {why}"))),
        };
        // What was reported about changes is not relied on without knowing the holes.
        changed = match holes {
            Some(why) => changed.and(Err(why)),
            None => changed,
        };
        let (changed, doubt) = match changed {
            Ok(changed) => (Some(changed.listed), None),
            Err(why) => (None, Some(why)),
        };
        let id = format!("snapshot {}", snapshot.id);
        self.shared.held.put(Some(Held::new(snapshot, export, Reported { data, changed })));
        Ok(match identity {
            Ok(identity) => {
                Marked { bookmark: Some(Bookmark::new(TRACKER, id, identity, GRANULARITY)), doubt }
            }
            Err(why) => Marked::none(format!("it is not known which image it is: {why}")),
        })
    }

    fn hold(&mut self, name: MarkName) -> Result<()> {
        let (snapshot, export, _) = self.take(name)?;
        let data = self.find_out(&snapshot, None, false).data.ok().map(|found| found.data);
        self.shared.held.put(Some(Held::new(snapshot, export, Reported { data, changed: None })));
        Ok(())
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        let image = self.image();
        let listed = image.snapshots().map_err(|why| image.error(&why))?;
        if let Err(why) = earlier(&listed, name, bookmark) {
            return Ok(Some(why));
        }
        let identity = image.place().and_then(|place| self.identity(&place));
        let identity = identity.map_err(|why| image.error(&why))?;
        Ok(check_identity(IMAGE, &identity, bookmark).err())
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        let image = self.image();
        let listed = image.snapshots().map_err(|why| image.error(&why))?;
        let names = listed.iter().filter_map(|snapshot| snapshot.name.parse::<MarkName>().ok());
        Ok(names.filter(|name| name.archive == archive).collect())
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.shared.held.put(None);
        let image = self.image();
        let mut failed = Vec::new();
        for name in self.marks(archive)?.into_iter().filter(|name| Some(*name) != keep) {
            if let Err(why) = image.remove(&name.to_string()) {
                failed.push(format!("the snapshot {name} cannot be removed: {why}"));
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(image.error(&failed.join("; "))),
        }
    }
}

fn joined(
    spawned: std::io::Result<thread::ScopedJoinHandle<'_, Answer<Difference>>>,
) -> Answer<Difference> {
    let running = spawned.map_err(|error| format!("cannot run 'rbd': {}", describe_io(&error)))?;
    running.join().unwrap_or_else(|_| Err("'rbd diff' could not be read".to_owned()))
}

fn find(listed: &[Snapshot], name: MarkName) -> Option<&Snapshot> {
    let name = name.to_string();
    listed.iter().find(|snapshot| snapshot.name == name)
}

/// Checks that the snapshot of a bookmark is still there, and is the same.
fn earlier(listed: &[Snapshot], name: MarkName, bookmark: &Bookmark) -> Answer<()> {
    let Some(snapshot) = find(listed, name) else {
        return Err(format!("the snapshot {name} is missing"));
    };
    check_id(("snapshot", name), &format!("snapshot {}", snapshot.id), bookmark)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::base::revision::RevisionId;

    /// A snapshot counts only with the number that the bookmark has, and an image only with its identity.
    #[test]
    fn a_bookmark_is_of_one_snapshot_of_one_image() {
        let time = Timestamp::from_second(1).unwrap();
        let name = MarkName { archive: ArchiveId::new(time), revision: RevisionId::new(time) };
        let of = |id| Snapshot { id, name: name.to_string(), size_bytes: 1 };
        let bookmark =
            Bookmark::new(TRACKER, "snapshot 4".to_owned(), "cluster a".to_owned(), GRANULARITY);
        assert_eq!(earlier(&[of(4)], name, &bookmark), Ok(()));
        let missing = earlier(&[], name, &bookmark).unwrap_err();
        assert!(missing.ends_with("is missing"), "{missing}");
        let again = earlier(&[of(5)], name, &bookmark).unwrap_err();
        assert!(
            again.ends_with("was made again: found snapshot 5, expected snapshot 4"),
            "{again}"
        );
        assert_eq!(check_identity(IMAGE, "cluster a", &bookmark), Ok(()));
        let other = check_identity(IMAGE, "cluster b", &bookmark).unwrap_err();
        assert_eq!(other, "it is another image: found cluster b, expected cluster a");
    }
}
