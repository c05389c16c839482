//! Sources that know what has changed: marks, and who keeps them.
//!
//! A [`Tracker`] makes a mark at the source for each revision, and reports what may have changed since the mark of
//! the newest one. It is never believed further than that: a backup that has any doubt reads everything and says why.
//!
//! The order of a backup, each step durable before the next:
//!
//! 1. the manifest says that the revision is under way, which names its mark
//! 2. [`Tracker::mark`]; from here on the source is read as it was at the mark
//! 3. the source is read
//! 4. the manifest has the revision, with the bookmark that step 2 returned: the commit
//! 5. [`Tracker::settle`] removes all marks of the archive but that of the newest revision
//!
//! Where the config wants no marks, step 2 is [`Tracker::hold`], and there is no bookmark.
//!
//! So the mark that the newest revision names exists at the source, or everything is read. A backup that fails settles
//! as well, and the next one removes what a crash has left.

use super::Source;
use crate::base::canary::{Bug, planted};
use crate::base::error::Result;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::{Bookmark, Manifest};

/// Keeps marks at a source, and reports what has changed since one of them.
pub trait Tracker {
    /// Its name in bookmarks.
    fn name(&self) -> &str;

    /// Makes a mark with this name. From here on the source is read as it was at the mark, and
    /// [`Source::next_changed`] reports what may have changed since `since`, if [`Marked::doubt`] is `None`.
    ///
    /// # Errors
    /// Those that keep the source from being read. If only the mark cannot be made, it says so in [`Marked`].
    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked>;

    /// Where no mark is wanted: from here on the source is read as it was at this time. What that needs has the name,
    /// so that [`Tracker::settle`] removes it. By default, the source is read as it is.
    ///
    /// # Errors
    /// Those that keep the source from being read.
    fn hold(&mut self, _name: MarkName) -> Result<()> {
        Ok(())
    }

    /// What there is to say about the last mark that is no doubt: one sentence, or `None`.
    fn note(&self) -> Option<String> {
        None
    }

    /// Why it cannot make marks here at all, as far as that can be told without making one: one sentence, or `None`.
    fn obstacle(&self) -> Option<String> {
        None
    }

    /// Why it would not be known what has changed since a mark, as far as that can be told without a new one: one
    /// sentence, or `None`.
    ///
    /// # Errors
    /// When the source does not answer.
    fn doubt(&self, name: MarkName, bookmark: &Bookmark) -> Result<Option<String>>;

    /// The marks of an archive at the source, in any order.
    ///
    /// # Errors
    /// When the source does not answer.
    fn marks(&self, archive: ArchiveId) -> Result<Vec<MarkName>>;

    /// Removes all marks of an archive but one. Doing it twice does no harm.
    ///
    /// # Errors
    /// When the source does not answer; some marks may be left.
    fn settle(&mut self, archive: ArchiveId, keep: Option<MarkName>) -> Result<()>;
}

/// The mark of the newest revision, as far as this tracker has made it; or why there is none. `None` without revisions.
pub(crate) fn newest_mark<'m>(
    manifest: &'m Manifest,
    tracker: &str,
) -> Option<std::result::Result<(MarkName, &'m Bookmark), String>> {
    let newest = manifest.revisions.first()?;
    let known = manifest.mark_of(newest.uuid).zip(newest.bookmark.as_ref());
    Some(match known {
        Some((name, bookmark)) if bookmark.tracker == tracker => Ok((name, bookmark)),
        None => Err(format!("revision {} was made without a mark at the source", newest.uuid)),
        Some((_, bookmark)) => Err(format!(
            "the mark of revision {} was made by {}, not by {tracker}",
            newest.uuid,
            bookmark.tracker.escape_debug()
        )),
    })
}

/// Checks that what a mark was made at, some `kind` of thing, is what a bookmark has.
///
/// # Errors
/// A sentence.
pub(super) fn check_identity(
    kind: &str,
    found: &str,
    bookmark: &Bookmark,
) -> std::result::Result<(), String> {
    if found == bookmark.identity || planted(Bug::OtherSource) {
        return Ok(());
    }
    let (found, expected) = (found.escape_debug(), bookmark.identity.escape_debug());
    Err(format!("it is another {kind}: found {found}, expected {expected}"))
}

/// Checks that a mark, some `kind` of thing, is the one of a bookmark, and no other that was made under its name.
///
/// # Errors
/// A sentence.
pub(super) fn check_id(
    (kind, name): (&str, MarkName),
    found: &str,
    bookmark: &Bookmark,
) -> std::result::Result<(), String> {
    if found == bookmark.id || planted(Bug::RemadeMark) {
        return Ok(());
    }
    let (found, expected) = (found.escape_debug(), bookmark.id.escape_debug());
    Err(format!("the {kind} {name} was made again: found {found}, expected {expected}"))
}

/// What came of a mark.
#[derive(Debug, Clone, PartialEq)]
pub struct Marked {
    /// What the manifest keeps of it; `None` if there is no mark.
    pub bookmark: Option<Bookmark>,
    /// Why it is not known what has changed: one sentence. `None` if it is.
    pub doubt: Option<String>,
}

impl Marked {
    /// The mark is there, and it is known what has changed.
    pub fn known(bookmark: Bookmark) -> Self {
        Marked { bookmark: Some(bookmark), doubt: None }
    }

    /// The mark is there, but it is not known what has changed.
    pub fn unknown(bookmark: Bookmark, doubt: String) -> Self {
        Marked { bookmark: Some(bookmark), doubt: Some(doubt) }
    }

    /// There is no mark.
    pub fn none(doubt: String) -> Self {
        Marked { bookmark: None, doubt: Some(doubt) }
    }
}

/// An open source, and what keeps its marks, if anything does. The tracker may be asked when the source is closed.
pub struct Opened<'s> {
    /// The source.
    pub source: Box<dyn Source + 's>,
    /// Its tracker.
    pub tracker: Option<Box<dyn Tracker + 's>>,
}

impl<'s> Opened<'s> {
    /// A source that keeps no marks.
    pub fn untracked(source: impl Source + 's) -> Self {
        Opened { source: Box::new(source), tracker: None }
    }
}
