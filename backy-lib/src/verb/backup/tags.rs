//! Which tags a backup may give its revision: checked before anything else, so that a dry run and the run agree.

use std::collections::BTreeSet;

use super::BackupOptions;
use crate::base::error::{Error, Result};
use crate::base::revision::Tag;
use crate::format::manifest::MAX_TAGS;

/// Refuses more tags than a revision can hold, and new names that would mean something else where somebody names
/// revisions.
pub(crate) fn check(options: &BackupOptions, tags: &BTreeSet<Tag>) -> Result<()> {
    for tag in &options.tags {
        tag.check_new().map_err(|message| Error::Specification { message })?;
    }
    check_count(tags)
}

/// Refuses more tags than a revision can hold.
pub(crate) fn check_count(tags: &BTreeSet<Tag>) -> Result<()> {
    match tags.len() <= MAX_TAGS {
        true => Ok(()),
        false => {
            let message = format!("found {} tags, expected at most {MAX_TAGS}", tags.len());
            Err(Error::Specification { message })
        }
    }
}
