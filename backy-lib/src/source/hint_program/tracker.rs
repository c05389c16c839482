//! Marks that a hint program makes.

use std::path::Path;
use std::sync::Arc;

use super::answer::Made;
use super::request::HintProgram;
use super::{AtMark, Opener, Shared};
use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::source::reported::Reported;
use crate::source::tracking::{Marked, Tracker, check_identity};
use crate::source::{DeviceSource, Source};

/// Its name in bookmarks.
const TRACKER: &str = "command";

/// What it is called in messages.
const SOURCE: &str = "source";

/// It reports bytes.
const GRANULARITY: u64 = 1;

type Answer<T> = std::result::Result<T, String>;

pub(super) struct ProgramTracker {
    pub shared: Arc<Shared>,
    pub program: HintProgram,
    /// Opens another path as the source.
    pub open: Opener,
}

impl ProgramTracker {
    /// Makes a mark, and opens where the source is as it was there; or why there is no mark that holds what is read.
    fn make(&self, name: MarkName) -> Result<Answer<(Made, Option<DeviceSource>)>> {
        let made = match self.program.mark(name) {
            Ok(made) => made,
            Err(why) => return Ok(Err(why)),
        };
        let Some(path) = &made.path else { return Ok(Ok((made, None))) };
        Ok(self.opened(path)?.map(|device| (made, Some(device))))
    }

    fn opened(&self, path: &Path) -> Result<Answer<DeviceSource>> {
        let device = match (self.open)(path) {
            Ok(device) => device,
            Err(error @ Error::Source { .. }) => return Ok(Err(error.to_string())),
            Err(other) => return Err(other),
        };
        let (found, expected) = (device.size_bytes(), self.shared.live.size_bytes());
        Ok(match found == expected {
            true => Ok(device),
            false => {
                let path = path.display();
                Err(format!("found {found} bytes in {path}, expected {expected} as in the source"))
            }
        })
    }

    /// What has changed since an earlier mark; or why that is not known.
    fn changed(
        &self,
        name: MarkName,
        since: Option<(MarkName, &Bookmark)>,
        identity: &str,
        size_bytes: u64,
    ) -> Answer<Vec<Extent>> {
        let (since, bookmark) = since.ok_or_else(|| "there is no earlier mark".to_owned())?;
        check_identity(SOURCE, identity, bookmark)?;
        let known = self.program.changed_extents(name, (since, bookmark), size_bytes)?;
        let program = self.program.command.program();
        known.map_err(|why| format!("'{program}' does not know what has changed: {why}"))
    }
}

impl Tracker for ProgramTracker {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        self.shared.held.put(None);
        let identity = match self.program.identity() {
            Ok(identity) => identity,
            Err(why) => return Ok(Marked::none(why)),
        };
        let (made, device) = match self.make(name)? {
            Ok(made) => made,
            Err(why) => return Ok(Marked::none(why)),
        };
        let size_bytes = self.shared.live.size_bytes();
        let changed = self.changed(name, since, &identity, size_bytes);
        // A program that does not know where it has holes is no worse than a device.
        let data = self.program.data(name, size_bytes).map(std::result::Result::ok);
        let (data, changed) = match data {
            Ok(data) => (data, changed),
            // What was reported about changes is not relied on either.
            Err(why) => (None, changed.and(Err(why))),
        };
        let (changed, doubt) = match changed {
            Ok(changed) => (Some(changed), None),
            Err(why) => (None, Some(why)),
        };
        self.shared.held.put(Some(AtMark { device, reported: Reported { data, changed } }));
        let bookmark = Bookmark::new(TRACKER, made.id, identity, GRANULARITY);
        Ok(Marked { bookmark: Some(bookmark), doubt })
    }

    fn doubt(&self, _name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        let identity = self.program.identity().map_err(|why| self.program.error(&why))?;
        Ok(check_identity(SOURCE, &identity, bookmark).err())
    }

    /// The program does not list them.
    fn marks(&self, _archive: ArchiveId) -> Result<Vec<MarkName>> {
        let program = self.program.command.program();
        Err(self.program.error(&format!("'{program}' does not list its marks")))
    }

    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        self.shared.held.put(None);
        self.program.settle(archive, keep).map_err(|why| self.program.error(&why))
    }
}
