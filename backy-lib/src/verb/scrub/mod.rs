//! `scrub`: checks what is stored, says exactly which revisions a flaw costs what, and mends what can be mended.
//!
//! *Structure*: files, lengths, headers, tables, reference counts, and the digests of all revisions from their digest files.
//! *Content*: every stored block once, however many revisions read it, on all cores. What is mended is provably right:
//! everything that follows from the manifest, and blocks whose right bytes are elsewhere in the archive.
//!
//! With the lock, findings and dates are recorded. Without it nothing is changed, and what looks wrong because a writer
//! is at work is looked at again before it is told.

mod budget;
mod content;
mod digests;
mod lost;
mod record;
mod repair;
mod report;
mod run;
mod stored;
mod structure;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::left_overs;
use crate::archive::moment;
use crate::archive::operation::Context;
use crate::archive::recover;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::progress;
use crate::base::revision::RevisionId;
use crate::format::manifest::{BlockRange, Manifest, Revision};
use crate::storage::manifest::{self, Look};
use crate::storage::{Access, FileName};

use report::{Read, confirmed, report};

pub use content::Coverage;
pub(crate) use content::coverage;

/// What to check, and how.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// Change nothing, not even the record of what was found.
    pub check_only: bool,
    /// Numbers of the revisions whose files are read; `None` for all.
    pub revisions: Option<Vec<usize>>,
    /// How much content is read; what waits longest comes first: since it was read or, if it never was, since it was
    /// written.
    pub budget: Option<Budget>,
    /// Threads that read and digest; `None` for one a core.
    pub threads: Option<usize>,
}

/// A limit for the content that is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Begin nothing after this time.
    Time(Duration),
    /// A share of the stored bytes, from 0 to 1. A stretch of the image, or a delta, that has been begun is read to
    /// its end.
    Share(f64),
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// All that is wrong or was: old findings that are still there, new ones, and those that were mended.
    pub findings: Vec<Finding>,
    /// Files with a name that an archive uses, of which the manifest knows nothing. They are kept.
    pub unknown_files: Vec<String>,
    /// Bytes of content that were read and checked.
    pub read_bytes: u64,
    /// Stored bytes that a budget which is a share allowed to be read; `None` without one.
    pub budget_bytes: Option<u64>,
    /// How much of what is stored has been verified since when.
    pub coverage: Coverage,
    /// Time that it took.
    pub seconds: f64,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file within the archive's folder.
    pub file: String,
    /// The blocks in it, if it is about blocks.
    pub blocks: Option<BlockRange>,
    /// What was found, and what was expected.
    pub message: String,
    /// Which revisions cannot be read where.
    pub affected: Vec<Affected>,
    /// Whether it has been mended.
    pub repaired: bool,
}

/// A revision that a finding costs something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// The revision.
    pub revision: RevisionId,
    /// Its number, 0 being the newest.
    pub number: usize,
    /// What of it cannot be read.
    pub extents: Vec<Extent>,
}

impl ScrubReport {
    /// Whether nothing is wrong any more.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired)
    }
}

/// Revisions that are named as affected, all findings together: one file that is missing may cost every older revision, and so may
/// the next one.
const MAX_COSTS: usize = 1 << 18;

/// What every part needs.
struct Scrub<'a> {
    context: &'a Context<'a>,
    manifest: &'a mut Manifest,
    options: &'a ScrubOptions,
    now: Timestamp,
    findings: Vec<Finding>,
    /// Numbers of the revisions whose digests came out right: only these say what a block has to be.
    vouched: BTreeSet<usize>,
    /// How many more revisions may be named as affected, all findings together.
    left_costs: usize,
    /// What the budget comes to, once that is known.
    budget_bytes: Option<u64>,
}

/// Checks the archive. With the lock held, and unless `options` say otherwise, mends and records; `manifest` is the one on disk
/// and is kept up to date.
fn scrub(
    context: &Context<'_>,
    manifest: &mut Manifest,
    options: &ScrubOptions,
) -> Result<ScrubReport> {
    let (mut options, mut before) = (options.clone(), manifest.clone());
    manifest::look(&**context.storage, manifest.clone(), |now| {
        let same = |&number: &usize| {
            let named = before.revisions.get(number)?.uuid;
            now.revisions.iter().position(|revision| revision.uuid == named)
        };
        options.revisions = options.revisions.take().map(|all| match now == &before {
            true => all,
            false => all.iter().filter_map(same).collect(),
        });
        before = now.clone();
        *manifest = now.clone();
        Ok(match scrub_once(context, manifest, &options) {
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
    };
    scrub.replace_lost_image()?;
    scrub.drop_caches()?;
    scrub.check_structure()?;
    scrub.check_digests()?;
    let checked = scrub.check_content();
    // Not all has been looked at: what was known stays.
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
        // What was found of the content is not recorded.
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
    // What is wrong in it is known now, unless not all of it was read.
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
    /// Makes an image without data in the place of one that is gone, so that the next backup can be made; it has what the source
    /// still has. What only the old one held is found to be bad.
    fn replace_lost_image(&mut self) -> Result<()> {
        let Some(newest) = self.manifest.revisions.first().filter(|_| self.repairs()) else {
            return Ok(());
        };
        if self.context.storage.list()?.contains(&FileName::IMAGE) {
            return Ok(());
        }
        let newest = newest.clone();
        recover::make_image(&**self.context.storage, &newest)?;
        // Known to be lost from here on, whether or not this scrub comes to read it.
        let lost = self.cut_off(&newest, 0, 0)?;
        self.note_lost(0, &lost);
        let message = "missing: created again, without its former contents".to_owned();
        self.find(FileName::IMAGE, message, None, true)
    }

    /// What memory still has of a file says nothing of the disk.
    fn drop_caches(&self) -> Result<()> {
        for name in self.context.storage.list()? {
            progress::check(self.context.observer)?;
            match self.context.storage.open(name, Access::Read) {
                Ok(file) => file.drop_cache(),
                // Looked at below, or it has gone.
                Err(error) if error.is_loss() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn repairs(&self) -> bool {
        !self.options.check_only
    }

    /// The numbers of the revisions whose files are to be read: those that were named and all that they read through to.
    fn numbers(&self) -> Vec<usize> {
        let count = self.manifest.revisions.len();
        let Some(named) = &self.options.revisions else { return (0..count).collect() };
        let mut numbers = BTreeSet::new();
        for &number in named {
            for number in (0..=number).rev() {
                let standalone =
                    self.manifest.revisions.get(number).is_none_or(|r| r.is_standalone());
                // What that reads through to is known already.
                if !numbers.insert(number) || standalone {
                    break;
                }
            }
        }
        numbers.into_iter().collect()
    }
}
