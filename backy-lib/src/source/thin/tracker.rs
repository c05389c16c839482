//! Marks of a thin volume: snapshots, one for each.

use std::sync::Arc;

use super::delta::{Difference, Question};
use super::lvm::MADE;
use super::reservation::{Reservation, tidy_unless_in_use};
use super::volumes::{Listed, Thin};
use super::{Held, Shared};
use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::reported::Reported;
use crate::source::tracking::{Marked, Tracker, check_id, check_identity};
use crate::source::{DeviceSource, Source};

/// Its name in bookmarks.
const TRACKER: &str = "lvm-thin";

/// What it is called in messages.
const VOLUME: &str = "volume";

const NO_MARK: &str = "there is no earlier mark";

type Answer<T> = std::result::Result<T, String>;

pub(super) struct SnapshotTracker {
    pub shared: Arc<Shared>,
}

/// A snapshot that was made and can be read.
struct Taken {
    snapshot: Thin,
    device: DeviceSource,
    listed: Listed,
    /// Whether nothing is below it, so that what is not mapped is zero.
    is_alone: Answer<()>,
}

impl SnapshotTracker {
    /// Makes a snapshot and opens it.
    fn take(&self, name: MarkName) -> Result<Taken> {
        let lvm = &self.shared.lvm;
        self.shared.held.put(None);
        let text = name.to_string();
        lvm.make(&text).map_err(|why| {
            lvm.error(&format!("no snapshot can be made, and without one it is not read: {why}"))
        })?;
        let activated = lvm.activate(&text).and_then(|()| {
            let listed = lvm.list()?;
            Ok((listed.thin(&text)?, listed))
        });
        let (snapshot, listed) = activated
            .map_err(|why| lvm.error(&format!("its snapshot {text} cannot be read: {why}")))?;
        let device = DeviceSource::open(&snapshot.path).map_err(|error| self.of_device(error))?;
        let (found, expected) = (device.size_bytes(), snapshot.size_bytes);
        if found != expected {
            let path = snapshot.path.display();
            return Err(lvm.error(&format!("found {found} bytes in {path}, expected {expected}")));
        }
        let is_alone = lvm.check_table(&snapshot);
        Ok(Taken { snapshot, device, listed, is_alone })
    }

    /// What differs between an earlier snapshot and this one; without an earlier one, what is mapped at all.
    fn difference(&self, taken: &Taken, earlier: Option<&Thin>) -> Answer<Difference> {
        if !planted(Bug::ForgottenOrigin) {
            taken.is_alone.clone()?;
        }
        let lvm = &self.shared.lvm;
        let snapshot = &taken.snapshot;
        let reservation = Reservation::take(lvm, &taken.listed.pool(&snapshot.pool)?)?;
        let asked = Question {
            left: earlier.unwrap_or(snapshot).device,
            right: snapshot.device,
            block_bytes: reservation.pool().block_bytes,
            size_bytes: snapshot.size_bytes,
        };
        let found = lvm.difference(reservation.pool(), asked);
        match (found, reservation.release()) {
            (Ok(found), Ok(())) => Ok(found),
            (Err(why), Ok(())) | (Ok(_), Err(why)) => Err(why),
            (Err(why), Err(more)) => Err(format!("{why}; {more}")),
        }
    }

    /// The same, and afterwards both snapshots are still what they were.
    fn compared(
        &self,
        taken: &Taken,
        earlier: &Thin,
        (since, bookmark): (MarkName, &Bookmark),
    ) -> Answer<Difference> {
        let found = self.difference(taken, Some(earlier))?;
        let listed = self.shared.lvm.list()?;
        check_mark(&listed, since, bookmark)?;
        match listed.thin(&taken.snapshot.name)? == taken.snapshot {
            true => Ok(found),
            false => Err(format!("the snapshot {} was made again", taken.snapshot.name)),
        }
    }

    /// What the volume is known by, in a bookmark, and the unit of its pool.
    fn identity(&self, listed: &Listed) -> Answer<(String, u64)> {
        let volume = self.shared.lvm.volume(listed)?;
        let pool = listed.pool(&volume.pool)?;
        Ok((format!("volume {}, pool {}", volume.uuid, pool.uuid), pool.block_bytes))
    }

    /// Has this snapshot read.
    fn hold_taken(&self, taken: Taken, difference: Option<Difference>, with_changes: bool) {
        let (data, changed) = match difference {
            Some(found) => (Some(found.data), Some(found.changed).filter(|_| with_changes)),
            None => (None, None),
        };
        let dm_uuid = taken.listed.dm_uuid(self.shared.lvm.address.volume());
        let reported = Reported { data, changed };
        self.shared.held.put(Some(Held::new(taken.snapshot, taken.device, reported, dm_uuid)));
    }

    fn of_device(&self, error: Error) -> Error {
        match error {
            Error::Source { path, message } => {
                self.shared.lvm.error(&format!("{}: {message}", path.display()))
            }
            other => other,
        }
    }
}

impl Tracker for SnapshotTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        let taken = self.take(name)?;
        let identity = self.identity(&taken.listed);
        let earlier = match (since, &identity) {
            (Some((since, bookmark)), Ok((identity, _))) => {
                let known = check_mark(&taken.listed, since, bookmark);
                known.and_then(|earlier| {
                    check_identity(VOLUME, identity, bookmark).map(|()| earlier)
                })
            }
            (None, _) => Err(NO_MARK.to_owned()),
            (_, Err(why)) => Err(why.clone()),
        };
        let (found, doubt) = match (since, earlier) {
            (Some(since), Ok(earlier)) => match self.compared(&taken, &earlier, since) {
                Ok(found) => (Some(found), None),
                Err(why) => (None, Some(why)),
            },
            // Everything is read, apart from holes.
            (_, earlier) => (self.difference(&taken, None).ok(), earlier.err()),
        };
        let id = id(&taken.snapshot);
        let is_alone = taken.is_alone.clone();
        self.hold_taken(taken, found, doubt.is_none());
        Ok(match (is_alone, identity) {
            (Ok(()), Ok((identity, unit))) => {
                Marked { bookmark: Some(Bookmark::new(TRACKER, id, identity, unit)), doubt }
            }
            (Err(why), _) | (_, Err(why)) => Marked::none(why),
        })
    }

    fn hold(&mut self, name: MarkName) -> Result<()> {
        let taken = self.take(name)?;
        let found = self.difference(&taken, None).ok();
        self.hold_taken(taken, found, false);
        Ok(())
    }

    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        let lvm = &self.shared.lvm;
        let listed = lvm.list().map_err(|why| lvm.error(&why))?;
        let (identity, _) = self.identity(&listed).map_err(|why| lvm.error(&why))?;
        let known = check_mark(&listed, name, bookmark);
        Ok(known.and_then(|_| check_identity(VOLUME, &identity, bookmark)).err())
    }

    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>> {
        let lvm = &self.shared.lvm;
        let listed = lvm.list().map_err(|why| lvm.error(&why))?;
        Ok(marks_in(&listed, archive))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.shared.held.put(None);
        let lvm = &self.shared.lvm;
        let listed = lvm.list().map_err(|why| lvm.error(&why))?;
        let mut failed = Vec::new();
        for name in marks_in(&listed, archive) {
            let settled = settle_one(&self.shared, &listed, &name.to_string(), Some(name) == keep);
            failed.extend(settled.err());
        }
        let pool = lvm.volume(&listed).and_then(|volume| listed.pool(&volume.pool));
        failed.extend(pool.and_then(|pool| tidy_unless_in_use(lvm, &pool)).err());
        match failed.is_empty() {
            true => Ok(()),
            false => Err(lvm.error(&failed.join("; "))),
        }
    }
}

fn settle_one(shared: &Shared, listed: &Listed, name: &str, is_kept: bool) -> Answer<()> {
    let thin = listed.thin(name)?;
    let failed = |why: String| format!("the snapshot {name} cannot be removed: {why}");
    if is_kept {
        let done = if thin.is_active { shared.lvm.deactivate(name) } else { Ok(()) };
        return done.map_err(|why| format!("the snapshot {name} cannot be deactivated: {why}"));
    }
    if !thin.tags.iter().any(|tag| tag == MADE) {
        return Err(failed(format!("it has no tag '{MADE}', so that backy has not made it")));
    }
    shared.lvm.remove(name).map_err(failed)
}

fn marks_in(listed: &Listed, archive: ArchiveId) -> Vec<MarkName> {
    let names = listed.thins().filter_map(|name| name.parse::<MarkName>().ok());
    names.filter(|name| name.archive == archive).collect()
}

/// What distinguishes a snapshot from another one of its name.
fn id(snapshot: &Thin) -> String {
    format!("snapshot {}, device {}", snapshot.uuid, snapshot.device)
}

/// Checks that the snapshot of a bookmark is still there, and is the same.
fn check_mark(listed: &Listed, name: MarkName, bookmark: &Bookmark) -> Answer<Thin> {
    let text = name.to_string();
    if !listed.thins().any(|thin| thin == text) {
        return Err(format!("the snapshot {name} is missing"));
    }
    let snapshot = listed.thin(&text)?;
    check_id(("snapshot", name), &id(&snapshot), bookmark).map(|()| snapshot)
}
