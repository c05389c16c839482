//! `tag` as the command and Python ask for it: a change of tags of a revision by name.

use std::collections::BTreeSet;

use crate::archive::Archive;
use crate::base::error::{Error, Result};
use crate::base::revision::Tag;
use crate::format::manifest::Revision;
use crate::policy::select::{RevisionSpec, check_tagged};
use crate::verb::caller::{Caller, interrupted};

/// Tags to add to a revision and to remove from it.
#[derive(Debug, Clone)]
pub struct TagRequest {
    /// The revision.
    pub revision: RevisionSpec,
    /// Tags to pin.
    pub add: BTreeSet<Tag>,
    /// Tags to remove.
    pub remove: BTreeSet<Tag>,
}

impl TagRequest {
    /// Changes the tags; the revision as it is then. Without a change it takes no lock.
    ///
    /// # Errors
    /// [`Error::Specification`] when a tag is both added and removed, when the revision does not have a tag that is
    /// to be removed, and as those of [`ArchiveWriter::tag`](crate::ArchiveWriter::tag).
    pub fn run(&self, archive: &Archive, caller: &Caller<'_>) -> Result<Revision> {
        let TagRequest { revision, add, remove } = self;
        let id = revision.resolve(archive.revisions())?;
        if let Some(tag) = add.intersection(remove).next() {
            let message = format!("cannot add and remove '{tag}' at once; omit one of them");
            return Err(Error::Specification { message });
        }
        check_tagged(archive.revisions(), id, remove)?;
        if add.is_empty() && remove.is_empty() {
            return archive.revision(id).cloned();
        }
        let archive = archive.trusted()?;
        let mut writer = caller.writer_for(archive, "tag", &[id])?;
        check_tagged(writer.archive().revisions(), id, remove)?;
        writer
            .tag(id, add, remove, caller.clock, caller.observer)
            .map_err(interrupted("the archive is as it was before"))?;
        writer.archive().revision(id).cloned()
    }
}
