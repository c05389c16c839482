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
        let number = revision.resolve(archive.revisions())?;
        if let Some(tag) = add.intersection(remove).next() {
            let message = format!("cannot add and remove '{tag}' at once; omit one of them");
            return Err(Error::Specification { message });
        }
        check_tagged(archive.revisions(), number, remove)?;
        if add.is_empty() && remove.is_empty() {
            return of_number(archive, number);
        }
        let archive = archive.trusted()?;
        let (mut writer, numbers) = caller.writer_and_numbers(archive, "tag", &[number])?;
        let number = numbers.into_iter().next().unwrap_or(number);
        check_tagged(writer.archive().revisions(), number, remove)?;
        writer
            .tag(number, add, remove, caller.clock, caller.observer)
            .map_err(interrupted("the archive is as it was before"))?;
        of_number(writer.archive(), number)
    }
}

fn of_number(archive: &Archive, number: usize) -> Result<Revision> {
    let no_such = || Error::NoSuchRevision { message: format!("there is no revision {number}") };
    archive.revisions().get(number).cloned().ok_or_else(no_such)
}
