//! `scrub`: verifies stored data, reports exactly what each problem costs which revision, and repairs what
//! can be repaired.
//!
//! *Structure*: files, lengths, headers, tables, reference counts, and the digests of all revisions against
//! their digest files. *Content*: every stored block once, however many revisions read it, on all cores.
//! Repairs are provably correct: they either follow from the manifest, or use correct bytes from elsewhere in
//! the archive.
//!
//! With the lock, findings and dates are recorded. Without it nothing is changed, and an apparent problem
//! that a running writer may cause is checked again before it is reported.

mod budget;
mod content;
mod digests;
mod due;
mod lost;
mod record;
mod repair;
mod report;
mod request;
mod run;
mod stored;
mod structure;
mod zeros;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::left_overs;
use crate::archive::moment;
use crate::archive::operation::Context;
use crate::archive::recover;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::revision::RevisionId;
use crate::format::manifest::{BlockRange, BlockRanges, Manifest, Revision};
use crate::storage::manifest::{self, Look};
use crate::storage::{FileName, cache};

use report::{Read, confirmed, report};

pub use content::Coverage;
pub(crate) use content::coverage;
pub(crate) use due::last_read;
pub use request::ScrubRequest;

/// What to verify, and how.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// Change nothing, not even the record of findings.
    pub check_only: bool,
    /// The revisions whose files are read, as far as they exist; `None` for all.
    pub revisions: Option<Vec<RevisionId>>,
    /// How much content is read, longest waiting first: since it was last read or, if never, since it was written.
    pub budget: Option<Budget>,
    /// Threads that read and digest; `None` for one per core.
    pub threads: Option<usize>,
}

/// A limit on the content that is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Start nothing after this time.
    Time(Duration),
    /// A share of the stored bytes, from 0 to 1. A part of the image, or a delta, is read to its end once started.
    Share(f64),
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScrubReport {
    /// All problems: old findings that still exist, new ones, and repaired ones.
    pub findings: Vec<Finding>,
    /// Files with names that the archive uses, unknown to the manifest. They are kept.
    pub unknown_files: Vec<String>,
    /// Bytes of content that were read and verified.
    pub read_bytes: u64,
    /// Stored bytes that a budget given as a share allowed; `None` without one.
    pub budget_bytes: Option<u64>,
    /// How much of the stored data was verified, and since when.
    pub coverage: Coverage,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The file within the archive's folder.
    pub file: String,
    /// The blocks in it, if it is about blocks.
    pub blocks: Option<BlockRange>,
    /// What was found, and what was expected.
    pub message: String,
    /// Which extents of which revisions cannot be read.
    pub affected: Vec<Affected>,
    /// Whether it was repaired.
    pub repaired: bool,
}

/// A revision that is affected by a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Affected {
    /// The revision.
    pub revision: RevisionId,
    /// Its number, 0 being the newest.
    pub number: usize,
    /// The extents that cannot be read.
    pub extents: Vec<Extent>,
}

impl ScrubReport {
    /// Whether no problems are left.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired)
    }
}

/// Maximum number of affected revisions in all findings together: one missing file may affect every older
/// revision, and so may the next one.
const MAX_COSTS: usize = 1 << 18;

/// The context of all parts of a scrub.
struct Scrub<'a> {
    context: &'a Context<'a>,
    manifest: &'a mut Manifest,
    options: &'a ScrubOptions,
    now: Timestamp,
    findings: Vec<Finding>,
    /// Numbers of the revisions whose digests were verified: only these prove what a block has to contain.
    vouched: BTreeSet<usize>,
    /// How many more affected revisions all findings together may list.
    left_costs: usize,
    /// The budget in bytes, once known.
    budget_bytes: Option<u64>,
    /// Zero blocks of the image that are read; `None` for those that the file system reports as data: see
    /// [`zeros`](self::zeros).
    written_zeros: Option<Arc<BlockRanges>>,
}

/// Verifies the archive. With the lock, and unless `options` say otherwise, repairs and records; `manifest`
/// is the one on disk and is kept up to date.
fn scrub(
    context: &Context<'_>,
    manifest: &mut Manifest,
    options: &ScrubOptions,
) -> Result<ScrubReport> {
    manifest::look(&**context.storage, manifest.clone(), |now| {
        *manifest = now.clone();
        Ok(match scrub_once(context, manifest, options) {
            // Without the lock: a file went because its revision did. Then it is another archive that is to be checked.
            Err(error) if options.check_only && error.kind() == ErrorKind::NotFound => {
                Look::IfCurrent(Err(error))
            }
            done => Look::Sure(done),
        })
    })?
}

fn scrub_once(
    context: &Context<'_>,
    manifest: &mut Manifest,
    options: &ScrubOptions,
) -> Result<ScrubReport> {
    let stopwatch = Instant::now();
    let before = manifest.clone();
    let Context { storage, observer, .. } = *context;
    let now = context.clock.now();
    let was_recorded = moment::is_as_recorded(&**storage, manifest)?;
    let (findings, vouched, left_costs) = (Vec::new(), BTreeSet::new(), MAX_COSTS);
    let mut scrub = Scrub {
        context,
        manifest,
        options,
        now,
        findings,
        vouched,
        left_costs,
        budget_bytes: None,
        written_zeros: None,
    };
    scrub.replace_lost_image()?;
    cache::drop_all(&**storage, observer)?;
    scrub.check_structure()?;
    let emptied = scrub.check_digests()?;
    scrub.written_zeros = scrub.find_written_zeros(emptied, was_recorded)?;
    let checked = scrub.check_content();
    // Not everything was checked, so known problems stay recorded.
    scrub.record_flaws(Revision::add_flaws);
    if matches!(checked, Err(Error::Interrupted)) && scrub.repairs() && *scrub.manifest != before {
        manifest::publish(&**storage, scrub.manifest)?;
    }
    let read_bytes = checked?;
    if !options.check_only {
        scrub.mend_blocks()?;
    }
    scrub.check_length()?;
    scrub.check_refcounts()?;
    scrub.record_flaws(Revision::set_flaws);
    scrub.report_bad_blocks()?;
    let read = Read { read_bytes, budget_bytes: scrub.budget_bytes };
    let mut findings = scrub.findings;
    if options.check_only {
        // Findings about content are not recorded.
        *manifest = before;
        findings = confirmed(storage, manifest, findings, observer)?;
        let beside = moment::look(&**storage)?;
        findings.extend(beside.mismatch.map(|message| Finding {
            file: FileName::MANIFEST.to_string(),
            blocks: None,
            message,
            affected: Vec::new(),
            repaired: false,
        }));
        let report = report(findings, beside.unknown, read, manifest, stopwatch, observer);
        return Ok(report);
    }
    // Its problems are known now, unless only part of it was read.
    let all = options.budget.is_none() && options.revisions.is_none();
    if was_recorded || all {
        manifest.image_file = moment::image_file(&**storage)?;
    }
    if *manifest != before {
        manifest::publish(&**storage, manifest)?;
    }
    let unknown = left_overs::unknown(&**storage, manifest)?;
    let unknown = unknown.iter().map(FileName::to_string).collect();
    Ok(report(findings, unknown, read, manifest, stopwatch, observer))
}

impl Scrub<'_> {
    /// Creates an image without data in place of a missing one, so that the next backup is possible, which has what
    /// the source still has. Content that only the old image had is recorded as bad.
    fn replace_lost_image(&mut self) -> Result<()> {
        let Some(newest) = self.manifest.revisions.first().filter(|_| self.repairs()) else {
            return Ok(());
        };
        if self.context.storage.list()?.contains(&FileName::IMAGE) {
            return Ok(());
        }
        let newest = newest.clone();
        recover::make_image(&**self.context.storage, &newest)?;
        // Recorded as lost now, whether or not this scrub reads it.
        let lost = self.cut_off(&newest, 0, 0)?;
        self.note_lost(0, &lost);
        let message = "missing: created again, without its former contents".to_owned();
        self.find(FileName::IMAGE, message, None, true)
    }

    fn repairs(&self) -> bool {
        !self.options.check_only
    }

    /// The numbers of the revisions whose files are read: the requested ones and all that they read through to.
    fn numbers(&self) -> Vec<usize> {
        let count = self.manifest.revisions.len();
        let Some(named) = &self.options.revisions else { return (0..count).collect() };
        let named: HashSet<RevisionId> = named.iter().copied().collect();
        let numbered = self.manifest.revisions.iter().enumerate();
        let named = numbered.filter(|(_, revision)| named.contains(&revision.uuid));
        let mut numbers = BTreeSet::new();
        for (number, _) in named {
            for number in (0..=number).rev() {
                let standalone =
                    self.manifest.revisions.get(number).is_none_or(|r| r.is_standalone());
                // What this one reads through to is known already.
                if !numbers.insert(number) || standalone {
                    break;
                }
            }
        }
        numbers.into_iter().collect()
    }
}
