//! `tag`: adds tags to a revision and removes them.

mod request;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::operation::{Context, Request};
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::Observer;
use crate::base::revision::{RevisionId, Tag};
use crate::format::manifest::Manifest;
use crate::policy::config::Config;
use crate::verb::backup;

pub use request::TagRequest;

impl ArchiveWriter {
    /// Adds tags that stay until somebody removes them, and removes tags. If the schedule gave a tag before somebody
    /// added it, removing it leaves it to the schedule again. Returns all tags that the revision then has.
    ///
    /// # Errors
    /// [`Error::Specification`] for more tags than a revision can hold, and for a new one with `..` in its name.
    pub fn tag(
        &mut self,
        number: usize,
        add: &BTreeSet<Tag>,
        remove: &BTreeSet<Tag>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<BTreeSet<Tag>> {
        self.operation(ChangeTags { number, add, remove }, clock, observer).map(|done| done.tags)
    }
}

struct ChangeTags<'a> {
    number: usize,
    add: &'a BTreeSet<Tag>,
    remove: &'a BTreeSet<Tag>,
}

/// What the history records about a change of tags.
#[derive(Serialize)]
struct TagReport {
    revision: RevisionId,
    tags: BTreeSet<Tag>,
    pinned_tags: BTreeSet<Tag>,
}

impl Request for ChangeTags<'_> {
    const NAME: &'static str = "tag";
    type Plan = (Manifest, TagReport);
    type Report = TagReport;

    /// An unreadable config is no reason to refuse a tag.
    fn config(_: &Archive) -> Result<Config> {
        Ok(Config::default())
    }

    fn plan(&self, writer: &mut ArchiveWriter, _: &Context<'_>) -> Result<(Manifest, TagReport)> {
        let mut after = writer.archive().manifest().clone();
        let Some(revision) = after.revisions.get_mut(self.number) else {
            let message = format!("there is no revision {}", self.number);
            return Err(Error::NoSuchRevision { message });
        };
        for tag in self.add.difference(&revision.tags) {
            tag.check_new().map_err(|message| Error::Specification { message })?;
        }
        self.remove.iter().for_each(|tag| revision.remove_tag(tag));
        self.add.iter().for_each(|tag| revision.pin_tag(tag));
        let (tags, pinned_tags) = (revision.tags.clone(), revision.pinned_tags.clone());
        let report = TagReport { revision: revision.uuid, tags, pinned_tags };
        backup::tags::check_count(&report.tags)?;
        Ok((after, report))
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        _: &Context<'_>,
        (after, report): (Manifest, TagReport),
        _: Timestamp,
    ) -> Result<TagReport> {
        writer.publish(after)?;
        Ok(report)
    }

    fn is_recorded(done: &Result<TagReport>) -> bool {
        done.is_ok()
    }
}
