//! `import`: brings the revisions of an archive of 2014 over into a new one, oldest first: in the order that their
//! parents prove, whatever their times say.
//!
//! The old archive is only read. What is provably right comes over; the rest is left out or marked, and named with a reason.
//! Each revision is an ordinary backup of its image, with the old name and time, so an interruption costs no more than the
//! revision that is being made; importing again goes on after those that are there.
//!
//! Memory is bounded by the tables of the old archive, some 50 bytes for each old block in a data file or a `.rev`, and one old block.
//! An archive with more than [`MAX_OLD_BLOCKS`](crate::format::legacy::MAX_OLD_BLOCKS) of them in all is refused: a data file may be
//! a hole of any length.

mod check;
mod folder;
mod image;
mod old;
mod order;
mod reader;
mod request;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::progress::{Event, Observer};
use crate::base::report_path::ReportPath;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::BlockSize;
use crate::format::manifest::{Manifest, Revision};
use crate::format::qcow2::Layout;
use crate::storage::{FileName, Trust};
use crate::verb::backup::{self, BackupOptions, Context, Stamp};

use check::Verdict;
use image::{Before, OldImage};
use old::OldArchive;

pub use reader::{OldEntry, OldReader, OldRecord};
pub use request::ImportRequest;

/// The tag of all imported revisions. It is pinned, so that no schedule removes them.
pub const IMPORT_TAG: &str = "imported";

/// What an import did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// The revisions that were brought over, oldest first.
    pub imported: Vec<Imported>,
    /// Revisions that an earlier import had brought over already, oldest first.
    pub present: Vec<Imported>,
    /// What was not brought over.
    pub skipped: Vec<Skipped>,
    /// What else was found out, as sentences.
    pub notes: Vec<String>,
}

/// A revision that was brought over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// Its name, the old one.
    pub uuid: RevisionId,
    /// When it was made.
    pub started: Timestamp,
    /// Exact size of its image.
    pub size_bytes: u64,
    /// Stretches of the image whose right content is not known.
    pub damaged: Vec<Extent>,
}

/// Something that was not brought over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// A file of the old archive.
    pub what: ReportPath,
    /// The reason.
    pub why: String,
}

impl ImportReport {
    /// Whether all that there was is in the archive now, and right.
    pub fn is_complete(&self) -> bool {
        let mut revisions = self.present.iter().chain(&self.imported);
        self.skipped.is_empty() && revisions.all(|revision| revision.damaged.is_empty())
    }
}

/// Looks whether `old` is an archive of 2014 that can be imported into `folder`, which need not be there. What was backed up,
/// if that is an absolute path.
///
/// # Errors
/// [`Error::Source`] when there is no such archive, or one folder is within the other.
pub fn inspect(old: &Path, folder: &Path) -> Result<Option<PathBuf>> {
    let archive = OldArchive::load(old)?;
    check_apart(old, folder)?;
    Ok(archive.source.map(PathBuf::from).filter(|path| path.is_absolute()))
}

/// The archive in `folder`, into which `old` can be imported; it is made when there is none, of the old one's source, with blocks
/// of `block_size` or the usual ones. The source is not taken from an old archive whose folder or `config`
/// anybody but the caller and root can change.
///
/// # Errors
/// As of [`inspect`], before anything has been made;
/// [`Error::Specification`] when the archive has blocks of another size.
pub fn prepare(
    old: &Path,
    folder: &Path,
    block_size: Option<BlockSize>,
    trust: Trust,
) -> Result<Archive> {
    let source = inspect(old, folder)?;
    let archive = match Archive::open_with(folder, trust) {
        Err(error) if error.kind() == ErrorKind::NoArchive => {
            let has_config = folder.join(FileName::CONFIG.to_string()).exists();
            let is_trusted = || trust.check_file(&old.join("config"));
            let source = source.filter(|_| !has_config && is_trusted().is_ok());
            let block_size = block_size.unwrap_or(BlockSize::DEFAULT);
            return Archive::init_with(folder, source.as_deref(), block_size, trust);
        }
        opened => opened?,
    };
    let found = archive.manifest().block_size;
    match block_size.filter(|asked| *asked != found) {
        None => Ok(archive),
        Some(asked) => {
            let (path, found, asked) = (folder.display(), found.bytes(), asked.bytes());
            let message =
                format!("{path}: the archive has blocks of {found} bytes, not of {asked}");
            Err(Error::Specification { message })
        }
    }
}

/// Imports; the archive has been recovered, `manifest` is the one on disk and is kept up to date.
pub(crate) fn import(
    context: &Context<'_>,
    manifest: &mut Manifest,
    path: &Path,
    threads: Option<usize>,
) -> Result<ImportReport> {
    check_apart(path, &context.storage.folder())?;
    let mut old = OldArchive::load(path)?;
    check_only_imported(context, manifest, &old)?;
    let verdicts = check::check(&mut old, context.observer)?;
    let candidates = sort_out(&mut old, verdicts, Layout::max_image_bytes(manifest.block_size));
    name_skipped(&old, context.observer);
    let present = count_present(context, manifest, &candidates)?;
    let tags: BTreeSet<Tag> = IMPORT_TAG.parse().into_iter().collect();
    let options = BackupOptions { tags: tags.clone(), threads, ..BackupOptions::default() };
    let mut imported = Vec::new();
    // After an interruption the first one is compared as a whole: the old archive may have become another one meanwhile.
    let mut before = None;
    for candidate in candidates.get(present..).unwrap_or_default() {
        let (file, size_bytes) = (candidate.file, candidate.size_bytes);
        let source = OldImage::new(&old, file, size_bytes, &candidate.lost, before);
        let stamp = Stamp { uuid: candidate.uuid, time: candidate.time };
        backup::backup(context, manifest, &source, &options, tags.clone(), Some(stamp))?;
        before = Some(Before { file, size_bytes });
        imported.push(candidate.describe());
    }
    let present = candidates.iter().take(present).map(Candidate::describe).collect();
    let mut notes = old.notes;
    notes.push(format!(
        "imported revisions have the tag '{IMPORT_TAG}' and stay until you remove it: they never expire"
    ));
    Ok(ImportReport { imported, present, skipped: old.skipped, notes })
}

/// A revision that comes over.
struct Candidate {
    file: usize,
    uuid: RevisionId,
    time: Timestamp,
    size_bytes: u64,
    lost: Vec<Extent>,
}

impl Candidate {
    fn describe(&self) -> Imported {
        Imported {
            uuid: self.uuid,
            started: self.time,
            size_bytes: self.size_bytes,
            damaged: self.lost.clone(),
        }
    }
}

/// The revisions that come over, oldest first; the others are left out with a reason.
fn sort_out(
    old: &mut OldArchive,
    verdicts: Vec<(usize, Verdict)>,
    max_bytes: u64,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (file, verdict) in verdicts {
        let Some(revision) = old.files.get(file).and_then(|data| data.revision.as_ref()) else {
            continue;
        };
        let (uuid, time) = (revision.uuid, revision.time);
        let why = match verdict {
            Verdict::Import { size_bytes, lost } if size_bytes <= max_bytes => {
                candidates.push(Candidate { file, uuid, time, size_bytes, lost });
                continue;
            }
            Verdict::Import { size_bytes, .. } => {
                format!(
                    "size: found {size_bytes} bytes, expected {max_bytes} at most; larger blocks allow more"
                )
            }
            Verdict::Skip(why) => why,
        };
        old.skipped.push(Skipped { what: uuid.to_string().into(), why });
    }
    order::sort(&mut candidates, old);
    candidates
}

fn name_skipped(old: &OldArchive, observer: &dyn Observer) {
    for Skipped { what, why } in &old.skipped {
        let path = old.folder.file_path(what);
        observer.event(&Event::Finding(format!("{}: not imported: {why}", path.display())));
    }
}

/// Refuses an archive with revisions that are not of the old one, before all of that is read.
fn check_only_imported(context: &Context<'_>, manifest: &Manifest, old: &OldArchive) -> Result<()> {
    let known = old.files.iter().filter(|data| data.revision.is_some());
    let known: BTreeSet<RevisionId> = known.map(|data| data.uuid).collect();
    match manifest.revisions.iter().find(|revision| !known.contains(&revision.uuid)) {
        Some(other) => Err(not_new(context, other, old.folder.path.display().to_string())),
        None => Ok(()),
    }
}

/// How many of the candidates are in the archive already, from the oldest on.
fn count_present(
    context: &Context<'_>,
    manifest: &Manifest,
    candidates: &[Candidate],
) -> Result<usize> {
    let same = |revision: &Revision, candidate: &Candidate| {
        (revision.uuid, revision.started, revision.size_bytes)
            == (candidate.uuid, candidate.time, candidate.size_bytes)
    };
    for (number, revision) in manifest.revisions.iter().rev().enumerate() {
        if !candidates.get(number).is_some_and(|candidate| same(revision, candidate)) {
            let what = format!("the revisions to import, as their number {number} from the oldest");
            return Err(not_new(context, revision, what));
        }
    }
    Ok(manifest.revisions.len())
}

fn not_new(context: &Context<'_>, revision: &Revision, what: String) -> Error {
    Error::Specification {
        message: format!(
            "{}: found revision {}, which is not of {what}; expected a new archive or an interrupted import",
            context.storage.folder().display(),
            revision.uuid
        ),
    }
}

/// Refuses to write into the old archive's folder, or to read the archive that is being written.
fn check_apart(old: &Path, folder: &Path) -> Result<()> {
    let Ok(real_old) = old.canonicalize() else { return Ok(()) };
    // A folder that is not there yet: the nearest one above that is.
    let Some(real) = folder.ancestors().find_map(|above| above.canonicalize().ok()) else {
        return Ok(());
    };
    if real.starts_with(&real_old) || folder.exists() && real_old.starts_with(&real) {
        let message = format!("it and the new archive, {}, must be apart", folder.display());
        return Err(Error::Source { path: old.to_owned(), message });
    }
    Ok(())
}
