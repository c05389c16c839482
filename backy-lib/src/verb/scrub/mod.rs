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
mod lost;
mod record;
mod repair;
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

/// What to verify, and how.
#[derive(Debug, Clone, Default)]
pub struct ScrubOptions {
    /// Change nothing, not even the record of findings.
    pub check_only: bool,
    /// Numbers of the revisions whose files are read; `None` for all.
    pub revisions: Option<Vec<usize>>,
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

/// Maximum number of extents of a revision that a finding about very many blocks lists. With more, the
/// smallest gaps between them are included.
const MAX_EXTENTS: usize = 1000;

/// Maximum number of affected revisions in all findings together: one missing file may affect every older
/// revision, and so may the next one.
const MAX_COSTS: usize = 1 << 18;

/// Every finding lists at least this many.
const FEW_COSTS: usize = 8;

/// The context of all parts of a scrub.
struct Scrub<'a> {
    storage: &'a Arc<dyn Storage>,
    manifest: &'a mut Manifest,
    options: &'a ScrubOptions,
    now: Timestamp,
    observer: &'a dyn Observer,
    findings: Vec<Finding>,
    /// Numbers of the revisions whose digests were verified: only these prove what a block has to contain.
    vouched: BTreeSet<usize>,
    /// How many more affected revisions all findings together may list.
    left_costs: usize,
    /// The budget in bytes, once known.
    budget_bytes: Option<u64>,
}

/// Verifies the archive. With the lock, and unless `options` say otherwise, repairs and records; `manifest`
/// is the one on disk and is kept up to date.
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
            // Without the lock, a file may have been deleted with its revision; the archive as it is now is
            // checked instead.
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

/// How much was read, and how much was allowed.
struct Read {
    read_bytes: u64,
    budget_bytes: Option<u64>,
}

/// Reports what was found.
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

/// Without the lock, a writer may have changed the archive meanwhile. Then only what still cannot be read counts.
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
                // If a file was deleted, there is another manifest.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(true) | Err(_) => confirmed.push(finding),
            }
        }
        // While this manifest is in place, so are its files.
        let after = manifest::read(&**storage)?;
        if after == now {
            return Ok(confirmed);
        }
        (findings, now) = (confirmed, after);
    }
}

impl Scrub<'_> {
    /// Creates an image without data in place of a missing one, so that the next backup is possible, which has what the source still has. Content that only the old image had is recorded as bad.
    fn replace_lost_image(&mut self) -> Result<()> {
        let Some(newest) = self.manifest.revisions.first().filter(|_| self.repairs()) else {
            return Ok(());
        };
        if self.storage.list()?.contains(&FileName::IMAGE) {
            return Ok(());
        }
        let newest = newest.clone();
        recover::make_image(&**self.storage, &newest)?;
        // Recorded as lost now, whether or not this scrub reads it.
        let lost = self.cut_off(&newest, 0, 0)?;
        self.note_lost(0, &lost);
        let message = "missing: created again, without its former contents".to_owned();
        self.find(FileName::IMAGE, message, None, true)
    }

    /// Cached pages of a file say nothing about the disk.
    fn drop_caches(&self) -> Result<()> {
        for name in self.storage.list()? {
            progress::check(self.observer)?;
            match self.storage.open(name, Access::Read) {
                Ok(file) => file.drop_cache(),
                // It is checked below, or was deleted.
                Err(error) if error.is_loss() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn repairs(&self) -> bool {
        !self.options.check_only
    }

    /// Adds a finding that is not about single blocks. `ranges` is what it costs the revision itself.
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

    /// What cannot be read of which revisions if these blocks in the file of revision `number` are bad.
    fn affected(&mut self, number: usize, bad: &Findings) -> Result<Vec<Affected>> {
        let costs = self.costs(number, bad)?;
        let affected = costs.iter().map(|(number, bad)| (*number, bad.bad_blocks.iter().copied()));
        Ok(affected.filter_map(|(number, bad)| self.affected_one(number, bad)).collect())
    }

    /// The same as blocks; of fewer revisions if other findings have affected very many already.
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

    /// One finding for each range of blocks that is known to be bad now. With very many in a file, the last
    /// one covers all the rest.
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

    /// The numbers of the revisions whose files are read: the requested ones and all that they read through to.
    fn numbers(&self) -> Vec<usize> {
        let count = self.manifest.revisions.len();
        let Some(named) = &self.options.revisions else { return (0..count).collect() };
        let mut numbers = BTreeSet::new();
        for &number in named {
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
