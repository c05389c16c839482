//! `import`: copies the revisions of an archive of 2014 to a new archive, oldest first, in the order that
//! their parents prove, whatever their times say.
//!
//! The old archive is only read. Content that is provably correct is imported; the rest is left out or
//! marked, and listed with a reason. Each revision is an ordinary backup of its image, with the old name and
//! time. So an interruption costs no more than the revision in progress, and importing again continues after
//! the existing ones.
//!
//! The tables of the old archive bound the memory: some 50 bytes for each old block in a data file or a
//! `.rev`, plus one old block. An archive with more than
//! [`MAX_OLD_BLOCKS`](crate::format::legacy::MAX_OLD_BLOCKS) in total is refused, because a data file may be
//! a hole of any length.

mod check;
mod folder;
mod image;
mod old;
mod order;
mod reader;
mod request;
mod unplaced;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::operation::{Context, Request};
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::progress::{Event, Observer};
use crate::base::report_path::ReportPath;
use crate::base::revision::{RevisionId, Tag};
use crate::base::units::BlockSize;
use crate::format::manifest::{Manifest, Revision};
use crate::format::qcow2::Layout;
use crate::storage::{FileName, Trust};
use crate::verb::backup::{self, BackupOptions, Stamp};

use check::Verdict;
use image::{Before, OldImage};
use old::OldArchive;

pub use reader::{OldEntry, OldReader, OldRecord};
pub use request::ImportRequest;

/// The tag of all imported revisions. It is pinned, so that no schedule deletes them.
pub const IMPORT_TAG: &str = "imported";

/// What an import did.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImportReport {
    /// The imported revisions, oldest first.
    pub imported: Vec<Imported>,
    /// Revisions that an earlier import had imported already, oldest first.
    pub present: Vec<Imported>,
    /// What was not imported.
    pub skipped: Vec<Skipped>,
    /// Other notes, as sentences.
    pub notes: Vec<String>,
}

/// An imported revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Imported {
    /// Its name, the old one.
    pub uuid: RevisionId,
    /// When it was made.
    pub started: Timestamp,
    /// Exact size of its image.
    pub size_bytes: u64,
    /// Extents of the image with unknown content.
    pub damaged: Vec<Extent>,
}

/// Something that was not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// A file of the old archive.
    pub what: ReportPath,
    /// The reason.
    pub why: String,
}

impl ImportReport {
    /// Whether everything in the old archive is in the new one now, and correct.
    pub fn is_complete(&self) -> bool {
        let mut revisions = self.present.iter().chain(&self.imported);
        self.skipped.is_empty() && revisions.all(|revision| revision.damaged.is_empty())
    }
}

/// Checks that `old` is an archive of 2014 that can be imported into `folder`, which need not exist. Returns
/// the old source, if that is an absolute path.
///
/// # Errors
/// [`Error::Source`] if there is no such archive, or if one folder is inside the other.
pub fn inspect(old: &Path, folder: &Path) -> Result<Option<PathBuf>> {
    let archive = OldArchive::load(old)?;
    check_apart(old, folder)?;
    Ok(archive.source.map(PathBuf::from).filter(|path| path.is_absolute()))
}

/// The archive in `folder`, into which `old` can be imported. If there is none, it is created with the source
/// of the old one and with blocks of `block_size` or the default. The source is not taken from an old archive
/// if users other than the caller and root can change its folder or `config`.
///
/// # Errors
/// As for [`inspect`], before anything is created; [`Error::Specification`] if the archive has another block size.
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

impl ArchiveWriter {
    /// Brings over what is right of an archive of 2014, oldest revision first, each with its name and time.
    /// An import that was interrupted is continued.
    ///
    /// # Errors
    /// [`Error::Specification`] when there are revisions here that are not of that archive; [`Error::Source`] when
    /// there is no such archive, or it changes meanwhile. The revisions that were made until then stay.
    pub fn import(
        &mut self,
        old: &Path,
        threads: Option<usize>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<ImportReport> {
        self.operation(Import { old, threads }, clock, observer)
    }
}

struct Import<'a> {
    old: &'a Path,
    threads: Option<usize>,
}

impl Request for Import<'_> {
    const NAME: &'static str = "import";
    type Plan = ();
    type Report = ImportReport;

    fn threads(&self) -> Option<usize> {
        self.threads
    }

    fn plan(&self, _: &mut ArchiveWriter, _: &Context<'_>) -> Result<()> {
        Ok(())
    }

    fn run(
        self,
        writer: &mut ArchiveWriter,
        context: &Context<'_>,
        (): (),
        _: Timestamp,
    ) -> Result<ImportReport> {
        import(context, writer.manifest_mut(), self.old)
    }
}

/// Imports. The archive has been recovered; `manifest` is the one on disk and is kept up to date.
fn import(context: &Context<'_>, manifest: &mut Manifest, path: &Path) -> Result<ImportReport> {
    check_apart(path, &context.storage.folder())?;
    let mut old = OldArchive::load(path)?;
    check_only_imported(context, manifest, &old)?;
    let verdicts = check::check(&mut old, context.observer)?;
    let candidates = sort_out(&mut old, verdicts, Layout::max_image_bytes(manifest.block_size));
    name_skipped(&old, context.observer);
    let present = count_present(context, manifest, &candidates)?;
    let tags: BTreeSet<Tag> = IMPORT_TAG.parse().into_iter().collect();
    let options = BackupOptions::default();
    let mut imported = Vec::new();
    // After an interruption the first one is compared in full: the old archive may have been replaced meanwhile.
    let mut before = None;
    for candidate in candidates.get(present..).unwrap_or_default() {
        let (file, size_bytes) = (candidate.file, candidate.size_bytes);
        let source = OldImage::new(&old, file, size_bytes, &candidate.lost, before);
        let stamp = Stamp {
            uuid: candidate.uuid,
            started: candidate.time,
            pinned_tags: tags.clone(),
            scheduled_tags: BTreeSet::new(),
            offered: None,
            spools: false,
        };
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

/// A revision to import.
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

/// The revisions to import, oldest first; the others are left out with a reason.
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

/// Refuses an archive with revisions of another origin, before the whole old archive is read.
fn check_only_imported(context: &Context<'_>, manifest: &Manifest, old: &OldArchive) -> Result<()> {
    let known = old.files.iter().filter(|data| data.revision.is_some());
    let known: BTreeSet<RevisionId> = known.map(|data| data.uuid).collect();
    match manifest.revisions.iter().find(|revision| !known.contains(&revision.uuid)) {
        Some(other) => Err(not_new(context, other, old.folder.path.display().to_string())),
        None => Ok(()),
    }
}

/// How many of the candidates, from the oldest on, are in the archive already.
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
    // For a folder that does not exist yet: the nearest existing one above it.
    let Some(real) = folder.ancestors().find_map(|above| above.canonicalize().ok()) else {
        return Ok(());
    };
    if real.starts_with(&real_old) || folder.exists() && real_old.starts_with(&real) {
        let message =
            format!("it and the new archive, {}, must not contain each other", folder.display());
        return Err(Error::Source { path: old.to_owned(), message });
    }
    Ok(())
}
