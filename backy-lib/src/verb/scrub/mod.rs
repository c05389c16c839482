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
mod request;
mod structure;

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::left_overs;
use crate::archive::moment;
use crate::archive::recover;
use crate::base::clock::Clock;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extent::Extent;
use crate::base::progress::{self, Event, Observer};
use crate::base::revision::RevisionId;
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, Findings, Manifest, Revision, within};
use crate::image::damage;
use crate::policy::config::parse_interval;
use crate::storage::manifest;
use crate::storage::{Access, FileName, Storage};

pub use content::Coverage;
pub(crate) use content::coverage;
pub use request::ScrubRequest;

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

impl FromStr for Budget {
    type Err = String;

    /// `90s`, `30m`, `4h`, or a share such as `10%`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || {
            format!("'{text}' is neither a time, such as 90s, 30m or 4h, nor a share, such as 10%")
        };
        if let Some(number) = text.strip_suffix('%') {
            let percent: f64 = number.parse().map_err(|_| wrong())?;
            let some = percent > 0.0 && percent <= 100.0;
            return some.then_some(Budget::Share(percent / 100.0)).ok_or_else(wrong);
        }
        let time = parse_interval(text).map_err(|_| wrong())?;
        Duration::try_from(time).map(Budget::Time).map_err(|_| wrong())
    }
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
#[non_exhaustive]
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
#[non_exhaustive]
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

/// Stretches of a revision that a finding about very many blocks names. Where there are more, what lies between the closest is
/// among them.
const MAX_EXTENTS: usize = 1000;

/// Revisions that are named as affected, all findings together: one file that is missing may cost every older revision, and so may
/// the next one.
const MAX_COSTS: usize = 1 << 18;

/// As many each finding names in any case.
const FEW_COSTS: usize = 8;

/// What every part needs.
struct Scrub<'a> {
    storage: &'a Arc<dyn Storage>,
    manifest: &'a mut Manifest,
    options: &'a ScrubOptions,
    now: Timestamp,
    observer: &'a dyn Observer,
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
pub(crate) fn scrub(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    options: &ScrubOptions,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<ScrubReport> {
    let mut options = options.clone();
    loop {
        let before = manifest.clone();
        match scrub_once(storage, manifest, &options, clock, observer) {
            // Without the lock: a file went because its revision did. Then it is another archive that is to be checked.
            Err(error) if options.check_only && error.kind() == ErrorKind::NotFound => {
                let now = manifest::read(&**storage)?;
                if now == before {
                    return Err(error);
                }
                let same = |&number: &usize| {
                    let named = before.revisions.get(number)?.uuid;
                    now.revisions.iter().position(|revision| revision.uuid == named)
                };
                options.revisions =
                    options.revisions.map(|all| all.iter().filter_map(same).collect());
                *manifest = now;
            }
            done => return done,
        }
    }
}

fn scrub_once(
    storage: &Arc<dyn Storage>,
    manifest: &mut Manifest,
    options: &ScrubOptions,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<ScrubReport> {
    let stopwatch = Instant::now();
    let before = manifest.clone();
    let now = clock.now();
    let was_recorded = moment::is_as_recorded(&**storage, manifest)?;
    let (findings, vouched, left_costs) = (Vec::new(), BTreeSet::new(), MAX_COSTS);
    let mut scrub = Scrub {
        storage,
        manifest,
        options,
        now,
        observer,
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

/// How much was read, and might have been.
struct Read {
    read_bytes: u64,
    budget_bytes: Option<u64>,
}

/// Tells what was found.
fn report(
    findings: Vec<Finding>,
    unknown_files: Vec<String>,
    read: Read,
    manifest: &Manifest,
    stopwatch: Instant,
    observer: &dyn Observer,
) -> ScrubReport {
    for finding in &findings {
        let done = if finding.repaired { "; repaired" } else { "" };
        observer.event(&Event::Finding(format!("{}: {}{done}", finding.file, finding.message)));
    }
    for name in &unknown_files {
        observer.event(&Event::Note(format!("{name}: {}", moment::UNKNOWN)));
    }
    ScrubReport {
        findings,
        unknown_files,
        read_bytes: read.read_bytes,
        budget_bytes: read.budget_bytes,
        coverage: coverage(manifest),
        seconds: stopwatch.elapsed().as_secs_f64(),
    }
}

/// Without the lock a writer may have changed the archive meanwhile. Then only what still cannot be read counts.
fn confirmed(
    storage: &Arc<dyn Storage>,
    before: &Manifest,
    findings: Vec<Finding>,
    observer: &dyn Observer,
) -> Result<Vec<Finding>> {
    if findings.is_empty() {
        return Ok(findings);
    }
    let mut findings = findings;
    let mut now = manifest::read(&**storage)?;
    if now == *before && now.in_progress.is_none() {
        return Ok(findings);
    }
    loop {
        progress::check(observer)?;
        let mut confirmed = Vec::new();
        for finding in findings {
            match content::is_unreadable(storage, &now, &finding, observer) {
                Ok(false) => {}
                // For a file that has gone there is another manifest.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(true) | Err(_) => confirmed.push(finding),
            }
        }
        // As long as this manifest stands, so do its files.
        let after = manifest::read(&**storage)?;
        if after == now {
            return Ok(confirmed);
        }
        (findings, now) = (confirmed, after);
    }
}

impl Scrub<'_> {
    /// Makes an image without data in the place of one that is gone, so that the next backup can be made; it has what the source
    /// still has. What only the old one held is found to be bad.
    fn replace_lost_image(&mut self) -> Result<()> {
        let Some(newest) = self.manifest.revisions.first().filter(|_| self.repairs()) else {
            return Ok(());
        };
        if self.storage.list()?.contains(&FileName::IMAGE) {
            return Ok(());
        }
        let newest = newest.clone();
        recover::make_image(&**self.storage, &newest)?;
        // Known to be lost from here on, whether or not this scrub comes to read it.
        let lost = self.cut_off(&newest, 0, 0)?;
        self.note_lost(0, &lost);
        let message = "missing: created again, without its former contents".to_owned();
        self.find(FileName::IMAGE, message, None, true)
    }

    /// What memory still has of a file says nothing of the disk.
    fn drop_caches(&self) -> Result<()> {
        for name in self.storage.list()? {
            progress::check(self.observer)?;
            match self.storage.open(name, Access::Read) {
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

    /// Takes note of something that is not about single blocks. `ranges` is what it costs the revision itself.
    fn find(
        &mut self,
        file: FileName,
        message: String,
        costs: Option<(usize, BlockRange)>,
        repaired: bool,
    ) -> Result<()> {
        let affected = match costs {
            Some((number, blocks)) => {
                let bad = Findings::new(vec![blocks]);
                self.affected(number, &bad)?
            }
            None => Vec::new(),
        };
        let file = file.to_string();
        self.findings.push(Finding { file, blocks: None, message, affected, repaired });
        Ok(())
    }

    /// Which revisions cannot be read where, when these blocks of the file of revision `number` are bad.
    fn affected(&mut self, number: usize, bad: &Findings) -> Result<Vec<Affected>> {
        let costs = self.costs(number, bad)?;
        let affected = costs.iter().map(|(number, bad)| (*number, bad.bad_blocks.iter().copied()));
        Ok(affected.filter_map(|(number, bad)| self.affected_one(number, bad)).collect())
    }

    /// The same as blocks; of fewer revisions when others have cost very many already.
    fn costs(&mut self, number: usize, bad: &Findings) -> Result<Vec<(usize, Findings)>> {
        let most = self.left_costs.max(FEW_COSTS);
        let costs =
            damage::costs(&**self.storage, self.manifest, number, bad, most, self.observer)?;
        self.left_costs = self.left_costs.saturating_sub(costs.len());
        Ok(costs)
    }

    fn affected_one(
        &self,
        number: usize,
        bad: impl Iterator<Item = BlockRange>,
    ) -> Option<Affected> {
        let revision = self.manifest.revisions.get(number)?;
        let block_size = self.manifest.block_size;
        let extents = bad.map(|range| damage::extent(range, block_size, revision.size_bytes));
        Some(Affected { revision: revision.uuid, number, extents: extents.collect() })
    }

    /// One finding for each range of blocks that is known to be bad now. Where there are very many in a file, the last one is about
    /// all further ones.
    fn report_bad_blocks(&mut self) -> Result<()> {
        for number in 0..self.manifest.revisions.len() {
            let Some(revision) = self.manifest.revisions.get(number) else { break };
            if revision.findings.bad_blocks.is_empty() {
                continue;
            }
            let file = revision.file().to_string();
            let bad = match number {
                0 => damage::besides_left_out(&**self.storage, self.manifest, &revision.findings)?,
                _ => revision.findings.clone(),
            };
            let costs = self.costs(number, &bad)?;
            let (listed, (more_blocks, more)) = damage::listed(&bad);
            for range in listed {
                let affected = costs.iter().filter_map(|(number, bad)| {
                    self.affected_one(*number, within(&bad.bad_blocks, *range))
                });
                let affected = affected.filter(|affected| !affected.extents.is_empty()).collect();
                self.findings.push(Finding {
                    file: file.clone(),
                    blocks: Some(*range),
                    message: describe(*range),
                    affected,
                    repaired: false,
                });
            }
            if more > 0 {
                let message = format!(
                    "{more_blocks} more blocks in {more} places are not what was backed up; 'backy status --json' \
                     lists all of them"
                );
                let rest = BlockRange::between(
                    listed.last().map_or(BlockIndex(0), |l| l.end()),
                    BlockIndex(u64::MAX),
                );
                let affected = costs.iter().filter_map(|(number, bad)| {
                    let mut bad = Findings::new(within(&bad.bad_blocks, rest).collect());
                    bad.join_to(MAX_EXTENTS);
                    self.affected_one(*number, bad.bad_blocks.into_iter())
                });
                let affected = affected.filter(|affected| !affected.extents.is_empty()).collect();
                self.findings.push(Finding {
                    file,
                    blocks: None,
                    message,
                    affected,
                    repaired: false,
                });
            }
        }
        Ok(())
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

fn describe(range: BlockRange) -> String {
    let are = if range.count == 1 { "is" } else { "are" };
    format!("{} {are} not what was backed up", damage::name(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_time_or_a_share() {
        for (text, expected) in [
            ("90s", Budget::Time(Duration::from_secs(90))),
            ("30m", Budget::Time(Duration::from_secs(1800))),
            ("2d", Budget::Time(Duration::from_secs(172_800))),
            ("10%", Budget::Share(0.1)),
            ("100%", Budget::Share(1.0)),
            ("2.5%", Budget::Share(0.025)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in ["", "%", "0%", "101%", "-5%", "NaN%", "30", "m", "30 m", "1h30m", "0s", "-1m"] {
            assert!(bad.parse::<Budget>().expect_err(bad).contains("10%"), "{bad}");
        }
    }
}
