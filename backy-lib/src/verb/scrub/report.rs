//! What a scrub found, and which revisions it costs what.

use std::sync::Arc;
use std::time::Instant;

use super::{Affected, Finding, Scrub, ScrubReport, content, coverage};
use crate::archive::moment;
use crate::base::error::{ErrorKind, Result};
use crate::base::progress::{self, Event, Observer};
use crate::base::units::BlockIndex;
use crate::format::manifest::{BlockRange, BlockRanges, Findings, Manifest};
use crate::image::damage;
use crate::storage::manifest::{self, Look};
use crate::storage::{FileName, Storage};

/// Maximum number of extents of a revision that a finding about very many blocks lists. With more, the
/// smallest gaps between them are included.
const MAX_EXTENTS: usize = 1000;

/// Every finding lists at least this many.
const FEW_COSTS: usize = 8;

/// How much was read, and how much was allowed.
pub(super) struct Read {
    pub(super) read_bytes: u64,
    pub(super) budget_bytes: Option<u64>,
}

/// Reports what was found.
pub(super) fn report(
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
pub(super) fn confirmed(
    storage: &Arc<dyn Storage>,
    before: &Manifest,
    findings: Vec<Finding>,
    observer: &dyn Observer,
) -> Result<Vec<Finding>> {
    if findings.is_empty() {
        return Ok(findings);
    }
    let now = manifest::read(&**storage)?;
    if now == *before && now.in_progress.is_none() {
        return Ok(findings);
    }
    let mut findings = findings;
    // As long as a manifest stands, so do its files.
    manifest::look(&**storage, now, |now| {
        progress::check(observer)?;
        let mut confirmed = Vec::new();
        for finding in std::mem::take(&mut findings) {
            match content::is_unreadable(storage, now, &finding, observer) {
                Ok(false) => {}
                // If a file was deleted, there is another manifest.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(true) | Err(_) => confirmed.push(finding),
            }
        }
        findings = confirmed;
        Ok(Look::IfCurrent(()))
    })?;
    Ok(findings)
}

impl Scrub<'_> {
    /// Adds a finding that is not about single blocks. `ranges` is what it costs the revision itself.
    pub(super) fn find(
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
    pub(super) fn affected(&mut self, number: usize, bad: &Findings) -> Result<Vec<Affected>> {
        let costs = self.costs(number, bad)?;
        let affected = costs.iter().map(|(number, bad)| (*number, bad.bad_blocks.iter().copied()));
        Ok(affected.filter_map(|(number, bad)| self.affected_one(number, bad)).collect())
    }

    /// The same as blocks; of fewer revisions if other findings have affected very many already.
    pub(super) fn costs(
        &mut self,
        number: usize,
        bad: &Findings,
    ) -> Result<Vec<(usize, Findings)>> {
        let most = self.left_costs.max(FEW_COSTS);
        let costs = damage::costs(
            &**self.context.storage,
            self.manifest,
            number,
            bad,
            most,
            self.context.observer,
        )?;
        self.left_costs = self.left_costs.saturating_sub(costs.len());
        Ok(costs)
    }

    pub(super) fn affected_one(
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
    pub(super) fn report_bad_blocks(&mut self) -> Result<()> {
        for number in 0..self.manifest.revisions.len() {
            let Some(revision) = self.manifest.revisions.get(number) else { break };
            if revision.findings.bad_blocks.is_empty() {
                continue;
            }
            let file = revision.file().to_string();
            let bad = match number {
                0 => damage::besides_left_out(
                    &**self.context.storage,
                    self.manifest,
                    &revision.findings,
                )?,
                _ => revision.findings.clone(),
            };
            let costs = self.costs(number, &bad)?;
            let (listed, (more_blocks, more)) = damage::listed(&bad);
            for range in listed {
                let affected = costs.iter().filter_map(|(number, bad)| {
                    self.affected_one(*number, bad.bad_blocks.within(*range))
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
                    let mut bad: BlockRanges = bad.bad_blocks.within(rest).collect();
                    bad.join_to(MAX_EXTENTS);
                    self.affected_one(*number, bad.into_iter())
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
}

pub(super) fn describe(range: BlockRange) -> String {
    let are = if range.count == 1 { "is" } else { "are" };
    format!("{} {are} not what was backed up", damage::name(range))
}
