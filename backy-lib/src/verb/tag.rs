//! `tag`: adds tags to a revision and removes them.
//!
//! [`TagRequest`] is what the command and Python ask for. A tag that somebody adds is pinned: it never expires.

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
    /// [`Error::NoSuchRevision`]. [`Error::Specification`] for more tags than a revision can hold, and for a new one
    /// with `..` in its name.
    pub fn tag(
        &mut self,
        id: RevisionId,
        add: &BTreeSet<Tag>,
        remove: &BTreeSet<Tag>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<BTreeSet<Tag>> {
        self.operation(ChangeTags { id, add, remove }, clock, observer).map(|done| done.tags)
    }
}

struct ChangeTags<'a> {
    id: RevisionId,
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
        let revision = after.revisions.iter_mut().find(|revision| revision.uuid == self.id);
        let no_such = || format!("revision {} no longer exists", self.id);
        let revision = revision.ok_or_else(|| Error::NoSuchRevision { message: no_such() })?;
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
