//! What the configured source of an archive is, which marks the archive has there, and what the next backup will read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::archive::folders;
use crate::base::error::{Result, judged};
use crate::base::mark::MarkName;
use crate::base::report_path::ReportPath;
use crate::base::revision::RevisionId;
use crate::policy::config::TrackingMode;
use crate::policy::rotation;
use crate::source::tracking::newest_mark;
use crate::source::{Opened, Source};

/// Version of the JSON of a report; `doc/scripting.md` has the promise.
pub const SOURCE_SCHEMA: u32 = 1;

/// The source of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceReport {
    /// Version of this structure: fields may be added within a version, but never removed or changed.
    pub schema: u32,
    /// The archive's folder, without symbolic links, whatever path was given.
    pub archive: ReportPath,
    /// The source as it is written in `backy.toml`; null if none is.
    pub source: Option<ReportPath>,
    /// `file`, `block device` and so on; null if the source cannot be opened.
    pub kind: Option<String>,
    /// Its size in bytes; null if it cannot be opened.
    pub size_bytes: Option<u64>,
    /// Why it cannot be opened.
    pub error: Option<String>,
    /// What tracks its changes; null if nothing does.
    pub tracker: Option<String>,
    /// `auto`, `off` or `require`.
    pub mode: String,
    /// The names of this archive's marks there; null if the source does not say.
    pub marks: Option<Vec<String>>,
    /// The revision since which the next backup reads changes; null if it reads everything.
    pub since: Option<RevisionId>,
    /// Why it reads everything, as far as that can be told before.
    pub reason: Option<String>,
    /// When the block was compared that was not compared for the longest time; null if the newest revision read
    /// everything, or if that is unknown.
    pub compared_since: Option<Timestamp>,
    /// The longest time that a block may go without, in seconds.
    pub verify_within_seconds: i64,
}

/// Looks at the source. Changes nothing there.
///
/// # Errors
/// When the archive or its config cannot be used. A source that cannot be opened is in the report.
pub fn source(archive: &Archive) -> Result<SourceReport> {
    let archive = archive.trusted()?;
    let config = archive.config()?;
    let newest = archive.revisions().first();
    let block_size = archive.manifest().block_size;
    let mut report = SourceReport {
        schema: SOURCE_SCHEMA,
        archive: folders::label(&archive.folder()),
        source: config.source.as_ref().map(|source| (&*source.written()).into()),
        kind: None,
        size_bytes: None,
        error: None,
        tracker: None,
        mode: config.tracking.mode.as_str().to_owned(),
        marks: None,
        since: None,
        reason: None,
        compared_since: newest
            .and_then(|newest| rotation::oldest(newest, block_size))
            .filter(|oldest| *oldest > Timestamp::MIN),
        verify_within_seconds: config.tracking.verify_within.as_secs(),
    };
    match judged(archive.open_tracked())? {
        Ok(opened) => look(&archive, &opened, config.tracking.mode, &mut report)?,
        Err(error) => report.error = Some(error.to_string()),
    }
    Ok(report)
}

fn look(
    archive: &Archive,
    opened: &Opened<'_>,
    mode: TrackingMode,
    report: &mut SourceReport,
) -> Result<()> {
    let source: &dyn Source = &*opened.source;
    report.kind = Some(source.place().kind);
    report.size_bytes = Some(source.size_bytes());
    report.reason = Some("the source cannot report what has changed".to_owned());
    let Some(tracker) = &opened.tracker else { return Ok(()) };
    report.tracker = Some(tracker.name().to_owned());
    let id = archive.manifest().archive;
    report.marks = match id {
        None => Some(Vec::new()),
        Some(id) => {
            let marks = judged(tracker.marks(id))?.ok();
            let named = |mut marks: Vec<MarkName>| {
                marks.sort_unstable();
                marks.iter().map(ToString::to_string).collect()
            };
            marks.map(named)
        }
    };
    if let Some(obstacle) = tracker.obstacle() {
        report.reason = Some(obstacle);
        return Ok(());
    }
    report.reason = match newest_mark(archive.manifest(), tracker.name()) {
        _ if mode == TrackingMode::Off => Some("mode = \"off\" in backy.toml".to_owned()),
        None => Some("there is no revision yet".to_owned()),
        Some(Err(why)) => Some(why),
        Some(Ok((name, bookmark))) => {
            let doubt = judged(tracker.doubt(name, bookmark))?;
            report.since = Some(name.revision).filter(|_| matches!(doubt, Ok(None)));
            doubt.unwrap_or_else(|error| Some(error.to_string()))
        }
    };
    Ok(())
}
