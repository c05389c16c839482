//! Commands, and the expected state after they have worked.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use backy_lib::archive::ArchiveWriter;
use backy_lib::progress::Silent;
use backy_lib::scrub::Finding;
use backy_lib::storage::{FileName, Storage};
use backy_lib::{
    BackupOptions, Error, ErrorKind, ImageUpdate, MaintenanceOptions, MaintenanceReport, Result,
    RevisionId, ScrubOptions, ScrubReport, Tag, drill,
};

use super::{Model, Verb};
use crate::memory::MemorySource;
use crate::world::{self, Expected};

/// Tags that are given by hand; two of them mean something to the schedules.
const TAGS: [&str; 4] = ["full", "daily", "pinned", "other"];

/// What a command that worked has done.
#[derive(Debug)]
pub(super) enum Done {
    /// Nothing visible.
    Nothing,
    /// A manifest has been published, with the same revisions.
    Noted,
    /// A revision was made.
    Made(RevisionId),
    /// Revisions were deleted, each in a step of its own or not; perhaps none.
    Gone(Vec<RevisionId>),
    /// An archive of 2014 was imported: its revisions are there, newest first.
    Imported(Vec<RevisionId>),
    /// The manifest was rebuilt, with these revisions.
    Rebuilt(Vec<RevisionId>),
    /// A scrub has ended, and found this.
    Found(Vec<String>),
    /// A drill has not passed, for this reason.
    #[expect(dead_code, reason = "said when it was not to be")]
    Failed(String),
}

impl Done {
    /// Whether a manifest was published, and with it all that was done to the folder before.
    pub(super) fn is_durable(&self) -> bool {
        match self {
            Done::Nothing | Done::Found(_) => false,
            Done::Gone(gone) => !gone.is_empty(),
            _ => true,
        }
    }

    /// Whether that is possible on an intact archive.
    pub(super) fn is_good(&self) -> bool {
        match self {
            Done::Found(findings) => findings.is_empty(),
            Done::Failed(_) => false,
            _ => true,
        }
    }
}

/// The sample of an archive of 2014: three revisions, of which the older two are the same.
fn sample() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("legacy/scrub-consistent")
}

/// What the revisions of the sample hold, newest first.
#[expect(clippy::disallowed_methods, reason = "files of another program")]
pub(super) fn sample_contents() -> [Vec<u8>; 3] {
    ["original.1", "original.2", "original.2"]
        .map(|name| std::fs::read(sample().join(name)).expect("the sample"))
}

impl Model {
    /// Runs the command, whatever the result.
    pub(super) fn attempt(&self, verb: Verb) -> Result<Done> {
        let (disk, clock) = (&self.world.disk, self.clock());
        if let Verb::Rebuild { .. } = verb {
            let report =
                ArchiveWriter::rebuild_on(Arc::new(disk.clone()), "a test", false, &Silent)?;
            return Ok(Done::Rebuilt(report.revisions));
        }
        let mut writer = self.writer()?;
        Ok(match verb {
            Verb::Backup { in_place, if_due, threads } => {
                let update = if in_place { ImageUpdate::InPlace } else { ImageUpdate::Auto };
                let options = BackupOptions {
                    force: !if_due,
                    update,
                    threads: Some(threads),
                    ..BackupOptions::default()
                };
                let source = MemorySource::new(&self.source);
                let report = writer.backup(&source, &options, &clock, &Silent)?;
                report.map_or(Done::Nothing, |report| Done::Made(report.revision.uuid))
            }
            Verb::Remove { which } => gone(world::remove_by(&mut writer, &self.chosen(which))?),
            Verb::Maintain { keep } => gone(writer.maintain(&options(keep), &clock, &Silent)?),
            Verb::Tag { number, tag, remove } => {
                let Some(number) = self.number(number) else { return Ok(Done::Nothing) };
                let tags = BTreeSet::from([tag_of(tag)]);
                let none = BTreeSet::new();
                let (add, remove) = if remove { (&none, &tags) } else { (&tags, &none) };
                let pinned = |writer: &ArchiveWriter| {
                    writer.archive().revisions()[number].pinned_tags.clone()
                };
                let before = pinned(&writer);
                let all = writer.tag(writer.archive().id(number)?, add, remove, &clock, &Silent)?;
                assert!(all.is_superset(add), "{all:?}");
                // One that was pinned over the schedule's belongs to the schedule again.
                let is_unpinned = |tag| before.contains(tag) && !pinned(&writer).contains(tag);
                assert!(all.intersection(remove).all(is_unpinned), "{all:?}");
                Done::Noted
            }
            Verb::Scrub { which, threads } => {
                let chosen = self.chosen(which);
                let chosen = world::ids(writer.archive(), &chosen)?;
                let revisions = (!chosen.is_empty()).then_some(chosen);
                let options =
                    ScrubOptions { revisions, threads: Some(threads), ..ScrubOptions::default() };
                let report = writer.scrub(&options, &clock, &Silent)?;
                let say = |finding: Finding| format!("{}: {}", finding.file, finding.message);
                Done::Found(flaws(report).into_iter().map(say).collect())
            }
            Verb::Drill { number } => {
                let Some(number) = self.number(number) else { return Ok(Done::Nothing) };
                let archive = writer.archive();
                let drill = drill::read(archive, archive.id(number)?, Some(1), &clock, &Silent)?;
                let failed = (!drill.passed).then(|| drill.message.clone());
                writer.record_drill(drill, &clock, &Silent)?;
                failed.map_or(Done::Noted, Done::Failed)
            }
            Verb::Import => {
                let report = writer.import(&sample(), Some(1), &clock, &Silent)?;
                assert!(report.is_complete(), "{report:?}");
                let all = report.present.iter().chain(&report.imported);
                let mut all: Vec<_> =
                    all.map(|revision| (revision.started, revision.uuid)).collect();
                all.sort();
                Done::Imported(all.into_iter().rev().map(|(_, uuid)| uuid).collect())
            }
            Verb::Rebuild { .. } | Verb::Recover => Done::Nothing,
        })
    }

    /// What has to happen before a manifest can be rebuilt.
    pub(super) fn lose_manifest(&self, verb: Verb) {
        match verb {
            Verb::Rebuild { lost: true } => {
                self.world.disk.remove(FileName::MANIFEST).expect("remove the manifest");
                self.world.disk.sync_folder().expect("sync the folder");
            }
            Verb::Rebuild { lost: false } => {
                self.world.disk.tamper(FileName::MANIFEST, |bytes| bytes[200] = 0);
            }
            _ => {}
        }
    }

    /// Whether this refusal is right.
    pub(super) fn may_refuse(&self, verb: Verb, error: &Error) -> bool {
        verb == Verb::Import
            && error.kind() == ErrorKind::Specification
            && !self.world.expected.is_empty()
    }

    /// Which revisions maintenance has to delete now.
    pub(super) fn expiring(&self, keep: u8) -> Vec<RevisionId> {
        let archive = world::open(&self.world.disk).expect("open");
        let plan = archive.plan_maintenance(&options(keep)).expect("a plan");
        plan.verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.uuid).collect()
    }

    /// Checks that the effects of a command are there, and nothing else.
    pub(super) fn done(&mut self, verb: Verb, done: Done) {
        let expected = &mut self.world.expected;
        let is_durable = done.is_durable();
        match done {
            Done::Nothing | Done::Found(_) | Done::Noted | Done::Failed(_) => {}
            Done::Made(uuid) => {
                expected.insert(0, Expected { uuid, bytes: self.source.clone() });
                self.going.clear();
            }
            Done::Gone(gone) => {
                check_keeps(expected, &gone, &verb);
                expected.retain(|expected| !gone.contains(&expected.uuid));
                self.going.clear();
            }
            Done::Imported(uuids) => {
                let contents = sample_contents();
                assert_eq!(uuids.len(), contents.len(), "the revisions of the sample");
                let all = uuids.into_iter().zip(contents);
                *expected = all.map(|(uuid, bytes)| Expected { uuid, bytes }).collect();
            }
            Done::Rebuilt(revisions) => {
                self.unlisted |= !self.otherwise.is_empty();
                self.rebuilt(&revisions);
            }
        }
        if is_durable {
            self.otherwise.clear();
        }
        self.remember();
        self.check(&format!("{verb:?}"));
    }
}

/// What a scrub has found that is still damaged, without what a rebuild could not identify.
pub(super) fn flaws(report: ScrubReport) -> Vec<Finding> {
    let is_flaw = |finding: &Finding| {
        !finding.repaired && !finding.message.contains("set aside by a rebuild")
    };
    report.findings.into_iter().filter(is_flaw).collect()
}

/// The newest stays whatever the schedule says.
fn check_keeps(expected: &[Expected], gone: &[RevisionId], verb: &Verb) {
    if let (Some(newest), Verb::Maintain { .. }) = (expected.first(), verb) {
        assert!(!gone.contains(&newest.uuid), "maintenance let the newest go");
    }
}

/// Every other one by somebody who has confirmed all alarms and damage.
fn options(keep: u8) -> MaintenanceOptions {
    let (keep, confirm) = (u32::from(keep % 6), keep < 128);
    MaintenanceOptions { keep: (keep > 0).then_some(keep), confirm, threads: Some(1) }
}

fn tag_of(tag: u8) -> Tag {
    TAGS[usize::from(tag) % TAGS.len()].parse().expect("a tag")
}

fn gone(report: MaintenanceReport) -> Done {
    let plan = &report.plan;
    let stays = plan.verdicts.iter().all(|v| v.keep && v.expired_tags.is_empty());
    assert!(
        plan.frozen.is_empty() || stays,
        "what is not confirmed holds everything back: {plan:?}"
    );
    let gone = report.plan.verdicts.iter().filter(|verdict| !verdict.keep);
    Done::Gone(gone.map(|verdict| verdict.uuid).collect())
}
