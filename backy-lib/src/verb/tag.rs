//! `tag`: adds tags to a revision and removes them.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::archive::ArchiveWriter;
use crate::base::clock::Clock;
use crate::base::error::{Error, Result};
use crate::base::progress::Observer;
use crate::base::revision::{RevisionId, Tag};
use crate::verb::backup;

/// What the history says of a change of tags.
#[derive(Serialize)]
struct TagReport {
    revision: RevisionId,
    tags: BTreeSet<Tag>,
    pinned_tags: BTreeSet<Tag>,
}

impl ArchiveWriter {
    /// Adds tags that are kept until they are removed by hand, and removes tags; one that the schedule had given
    /// before it was added by hand is the schedule's again. Gives all that the revision has then.
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
        self.recover_from_failure(observer)?;
        let mut after = self.archive().manifest().clone();
        let Some(revision) = after.revisions.get_mut(number) else {
            let message = format!("there is no revision {number}");
            return Err(Error::NoSuchRevision { message });
        };
        for tag in add.difference(&revision.tags) {
            tag.check_new().map_err(|message| Error::Specification { message })?;
        }
        remove.iter().for_each(|tag| revision.remove_tag(tag));
        add.iter().for_each(|tag| revision.pin_tag(tag));
        let (tags, pinned_tags) = (revision.tags.clone(), revision.pinned_tags.clone());
        let report = TagReport { revision: revision.uuid, tags: tags.clone(), pinned_tags };
        backup::tags::check_count(&tags)?;
        let started = clock.now();
        self.publish(after)?;
        self.record("tag", started, &Ok(report), clock, observer);
        Ok(tags)
    }
}
