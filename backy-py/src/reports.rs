//! The reports: which classes there are, and what their properties show.

use std::path::Path;

use backy_lib::RevisionId;
use backy_lib::plan::Step as LibStep;

use crate::report::{report, word};
use crate::seen::Seen;

report! {
    /// A stretch of bytes.
    Extent of backy_lib::extent::Extent {
        /// Position of the first byte.
        offset(r) = r.offset;
        /// Number of bytes.
        len(r) = r.len;
    }
}

report! {
    /// A stretch of blocks of a file.
    BlockRange of backy_lib::format::manifest::BlockRange {
        /// Number of the first block.
        first(r) = r.first;
        /// How many blocks.
        count(r) = r.count;
    }
}

report! {
    /// The state of the source at one time. Equal to another that has the same UUID.
    ///
    /// `started` and `size_bytes` are what `RevisionStatus` and JSON call them; `timestamp` and `size` are older
    /// names for them, which both classes have as well.
    Revision of Seen {
        /// Its name, in lower case with hyphens.
        uuid(r) = r.revision.uuid;
        /// When its backup began, with zone UTC.
        started(r) = r.revision.started;
        /// When its backup was committed, with zone UTC.
        finished(r) = r.revision.finished;
        /// Size of the image in bytes.
        size_bytes(r) = r.revision.size_bytes;
        /// Why it exists, sorted: schedules that were due, and words given by hand.
        tags(r) = r.revision.tags;
        /// The tags that were given by hand, and stay until they are removed by hand.
        pinned_tags(r) = r.revision.pinned_tags;
        /// SHA-256 over the SHA-256s of its blocks, 64 hex digits; the README in the archive explains how to check it.
        digest(r) = r.revision.digest;
        /// UUID of the next newer revision, which it reads through to; None for the newest and for a standalone one.
        base(r) = r.revision.base;
        /// The file that holds it, within the archive's folder.
        file(r) = Path::new(&r.revision.file().to_string());
        /// Bytes that its backup read from the source.
        read_bytes(r) = r.revision.statistics.read_bytes;
        /// Bytes in blocks that differed from the revision before.
        changed_bytes(r) = r.revision.statistics.changed_bytes;
        /// Bytes that its backup added on disk; may be negative.
        stored_bytes(r) = r.revision.statistics.stored_bytes;
        /// Seconds that its backup took.
        seconds(r) = r.revision.statistics.seconds;
        /// What its backup did not read, because the source reported no change; None if the source reports none.
        hints(r) = r.revision.hints;
        /// The mark at the source that stands for it, or None.
        bookmark(r) = r.revision.bookmark;
        /// Blocks of its own file that are known to be bad; `damaged` has what that costs, in bytes.
        bad_blocks(r) = r.revision.findings.bad_blocks.to_vec();
        /// Its number when the archive was read, 0 being the newest; None when it was read from JSON.
        number(r) = r.number;
        /// Stretches that could not be read from it when the archive was read. None when that is not known: when it
        /// was read from JSON, or when the files could not be looked at.
        damaged(r) = r.damaged;
    }
    also {
        /// The older name of `started`.
        timestamp(r) = r.revision.started;
        /// The older name of `size_bytes`.
        size(r) = r.revision.size_bytes;
    }
    identity(r) = r.revision.uuid.to_string();
    repr(r) = {
        let r = &r.revision;
        let tags: Vec<&str> = r.tags.iter().map(backy_lib::Tag::as_str).collect();
        format!(
            "<backy.Revision {} of {:.0}, {} bytes, tags: {}>",
            r.uuid,
            r.started,
            r.size_bytes,
            tags.join(", ")
        )
    };
}

report! {
    /// A mark at the source: there the source was what the revision holds.
    Bookmark of backy_lib::format::manifest::Bookmark {
        /// What keeps it: "python" for an object, "reflink" for a clone, "rbd" and "lvm-thin" for a snapshot, "libvirt"
        /// for a checkpoint, "qcow2" and "qmp" for a bitmap, "command" for a program of the config.
        tracker(r) = r.tracker;
        /// What distinguishes it from another mark with the same name; of an object what `mark` returned.
        id(r) = r.id;
        /// What distinguishes the source from another one; of an object what `identity` returned.
        identity(r) = r.identity;
        /// Changes are reported in units of so many bytes.
        granularity(r) = r.granularity;
    }
}

report! {
    /// How much of the source a backup did not read, because the source reported no change.
    Hints of backy_lib::format::manifest::Hints {
        /// UUID of the revision since which the source reported changes; None when everything was read.
        since(r) = r.since;
        /// Bytes that were not read, apart from holes.
        skipped_bytes(r) = r.skipped_bytes;
        /// Bytes that were read and compared although the source reported no change.
        compared_bytes(r) = r.compared_bytes;
        /// Why everything was read, or None.
        reason(r) = r.reason;
    }
}

report! {
    /// What a backup did.
    BackupReport of backy_lib::BackupReport {
        /// The new revision.
        revision(r) = Seen::newest(&r.revision);
        /// Whether the image was updated on a clone.
        cloned(r) = r.cloned;
        /// Blocks of the revision before that were found to be rotten.
        bad_blocks(r) = r.bad_blocks;
        /// Blocks that were known to be bad and that the source still had; they are right again.
        healed_blocks(r) = r.healed_blocks;
    }
}

report! {
    /// What a backup would do now.
    BackupPlan of backy_lib::BackupPlan {
        /// Whether a revision would be made.
        due(r) = r.due;
        /// The tags that it would get, sorted.
        tags(r) = r.tags;
        /// The space that it would take; None when none is due.
        room(r) = r.room;
        /// When the next one is due, if none is made now; None without a schedule.
        next_due(r) = r.next_due;
        /// The tag that is due then.
        next_tag(r) = r.next_tag;
    }
}

report! {
    /// How much space a backup takes while it is made.
    Estimate of backy_lib::room::Estimate {
        /// Expected bytes; None when there is nothing to estimate them from.
        expected_bytes(r) = r.expected_bytes;
        /// The most that it can be.
        most_bytes(r) = r.most_bytes;
        /// What is free; None where nobody can say.
        free_bytes(r) = r.free_bytes;
    }
}

report! {
    /// Where what a restore has overwritten is kept.
    UndoReport of backy_lib::restore::UndoReport {
        /// Folder of the archive with it; restoring from that brings it back.
        archive(r) = r.archive;
        /// UUID of its only revision.
        revision(r) = r.revision;
        /// Bytes in the blocks that were saved.
        saved_bytes(r) = r.saved_bytes;
        /// Seconds that it took.
        seconds(r) = r.seconds;
    }
}

report! {
    /// What a restore did, or a dry run would have done.
    RestoreReport of backy_lib::RestoreReport {
        /// UUID of the revision.
        revision(r) = r.revision;
        /// Where it was written; Path("-") for a stream.
        target(r) = r.target;
        /// What the target was: "new-file", "file", "block-device" or "stream".
        target_kind(r) = word(&r.target_kind);
        /// Whether nothing was written.
        dry_run(r) = r.dry_run;
        /// Size of the revision in bytes.
        size_bytes(r) = r.size_bytes;
        /// Bytes that were written; the others were right already.
        written_bytes(r) = r.written_bytes;
        /// Stretches in which they are.
        written_extents(r) = r.written_extents;
        /// Stretches that could not be read right and are zero, ascending; only with keep_going.
        unreadable(r) = r.unreadable;
        /// Whether the digests of the revision were right as a whole. If not, more than `unreadable` may be wrong.
        digests_checked(r) = r.digests_checked;
        /// Whether the target has become exactly the revision; only with keep_going, or from an undo archive, can it
        /// be False.
        is_exact(r) = r.is_exact();
        /// Whether all that the archive has of the revision is in the target now; only with keep_going can it be False.
        is_complete(r) = r.is_complete();
        /// Stretches that an undo archive does not hold and that somebody has changed since; they stay as they are.
        /// Ascending.
        changed_since(r) = r.changed_since;
        /// Where what was overwritten is kept, or None.
        undo(r) = r.undo;
        /// Seconds that it took.
        seconds(r) = r.seconds;
    }
}

report! {
    /// What a restore would overwrite.
    TargetLook of backy_lib::restore::TargetLook {
        /// Where it is.
        target(r) = r.target;
        /// What it is: "file" or "block-device".
        target_kind(r) = word(&r.target_kind);
        /// Whether it is the configured source of an archive that can be trusted.
        is_source(r) = r.is_source;
        /// Why only `force` overwrites it; None when it is the source that was backed up, and nobody else has it open.
        objection(r) = r.objection;
        /// How long it is, in bytes.
        size_bytes(r) = r.size_bytes;
        /// When a file was last written to, or the file system of a device, if that notes it; else None.
        changed(r) = r.changed;
        /// The file systems on it.
        contents(r) = r.contents;
        /// Bytes of the revision that were compared with it: all, or samples from everywhere.
        compared_bytes(r) = r.compared_bytes;
        /// Those of them that differ, in whole blocks.
        differing_bytes(r) = r.differing_bytes;
    }
}

report! {
    /// A file system on the target of a restore.
    TargetContent of backy_lib::restore::Content {
        /// The number of the partition that it is in, or None when there are no partitions.
        partition(r) = r.partition.map(u64::from);
        /// What it is, such as "ext4".
        kind(r) = *r.file_system.kind;
        /// The name that somebody gave it, or None.
        label(r) = r.file_system.label;
        /// When it was last written to, if it notes that; else None.
        written(r) = r.file_system.written;
    }
}

report! {
    /// A revision that a finding costs something.
    Affected of backy_lib::scrub::Affected {
        /// UUID of the revision.
        revision(r) = r.revision;
        /// Its number, 0 being the newest.
        number(r) = r.number;
        /// What of it cannot be read.
        extents(r) = r.extents;
    }
}

report! {
    /// Something that is not as it was written.
    Finding of backy_lib::scrub::Finding {
        /// The file, within the archive's folder.
        file(r) = Path::new(&r.file);
        /// The blocks in it that are bad, or None when it is not about blocks.
        blocks(r) = r.blocks;
        /// What was found, and what was expected.
        message(r) = r.message;
        /// Which revisions cannot be read in full because of it.
        affected(r) = r.affected;
        /// Whether it has been repaired.
        repaired(r) = r.repaired;
    }
}

report! {
    /// How much of what is stored has been verified by scrubs, and since when.
    Coverage of backy_lib::scrub::Coverage {
        /// Share of the blocks of all files that were ever verified, from 0 to 1.
        verified_share(r) = r.verified_share;
        /// The longest time ago that a block was last verified; None when some never were.
        oldest(r) = r.oldest;
    }
}

report! {
    /// What a scrub found and did.
    ScrubReport of backy_lib::ScrubReport {
        /// All findings: old ones that remain, new ones, and those that were repaired.
        findings(r) = r.findings;
        /// Names of files with a name that an archive uses, of which the manifest knows nothing. They are kept.
        unknown_files(r) = r.unknown_files;
        /// Whether every finding has been repaired.
        is_clean(r) = r.is_clean();
        /// Bytes of content that were read and checked.
        read_bytes(r) = r.read_bytes;
        /// Stored bytes that a budget which is a share allowed to be read; None without one.
        budget_bytes(r) = r.budget_bytes;
        /// How much of what is stored has been verified.
        coverage(r) = r.coverage;
        /// Seconds that it took.
        seconds(r) = r.seconds;
    }
}

report! {
    /// What a new manifest has, and what it lacks.
    RebuildReport of backy_lib::RebuildReport {
        /// UUIDs of the revisions in it, newest first.
        revisions(r) = r.revisions;
        /// What could not be known, in sentences.
        unknown(r) = r.unknown;
    }
}

report! {
    /// What is to become of one revision, and why.
    Verdict of backy_lib::retention::Verdict {
        /// Its number before anything is done; 0 is the newest.
        number(r) = r.number;
        /// Its name.
        uuid(r) = r.uuid;
        /// Whether it stays.
        keep(r) = r.keep;
        /// What keeps it, or what has expired.
        reason(r) = r.reason;
        /// Tags that it loses, also when it stays.
        expired_tags(r) = r.expired_tags;
    }
}

report! {
    /// A step of a plan. What is not part of such a step is None.
    Step of LibStep {
        /// "remove", "merge", "roll-back" or "standalone".
        step(r) = kind(r);
        /// remove, merge: UUIDs of the revisions to delete.
        revisions(r) = several(r);
        /// roll-back: UUID of the newest, which is deleted. standalone: of the one that becomes independent of all
        /// others.
        revision(r) = one(r);
        /// merge: UUID of the one that takes over what it reads from those that are deleted.
        into(r) = into(r);
        /// roll-back: UUID of the one that is the newest then.
        to(r) = to(r);
        /// standalone: why.
        reason(r) = reason(r);
    }
}

fn kind(step: &LibStep) -> &'static str {
    match step {
        LibStep::Remove { .. } => "remove",
        LibStep::Merge { .. } => "merge",
        LibStep::RollBack { .. } => "roll-back",
        LibStep::Standalone { .. } => "standalone",
    }
}

fn several(step: &LibStep) -> Option<&[RevisionId]> {
    match step {
        LibStep::Remove { revisions } | LibStep::Merge { revisions, .. } => Some(revisions),
        _ => None,
    }
}

fn one(step: &LibStep) -> Option<RevisionId> {
    match step {
        LibStep::RollBack { revision, .. } | LibStep::Standalone { revision, .. } => {
            Some(*revision)
        }
        _ => None,
    }
}

fn into(step: &LibStep) -> Option<RevisionId> {
    if let LibStep::Merge { into, .. } = step { Some(*into) } else { None }
}

fn to(step: &LibStep) -> Option<RevisionId> {
    if let LibStep::RollBack { to, .. } = step { Some(*to) } else { None }
}

fn reason(step: &LibStep) -> Option<&str> {
    if let LibStep::Standalone { reason, .. } = step { Some(reason) } else { None }
}

report! {
    /// What maintenance, or the removal of revisions, would do.
    MaintenancePlan of backy_lib::MaintenancePlan {
        /// For each revision, newest first, whether it stays, and why.
        verdicts(r) = r.verdicts;
        /// What is done, in order.
        steps(r) = r.steps;
        /// Estimate of the bytes on disk that come free; negative when more are needed.
        frees_bytes(r) = r.frees_bytes;
        /// Why nothing expires, although the schedule would let it.
        frozen(r) = r.frozen;
        /// Why far more revisions stay than the schedule keeps, as a sentence; None when they do not.
        excess(r) = r.excess;
    }
}

report! {
    /// What maintenance, or the removal of revisions, did.
    MaintenanceReport of backy_lib::MaintenanceReport {
        /// For each revision that there was, newest first, whether it stayed, and why.
        verdicts(r) = r.plan.verdicts;
        /// What was done, in order.
        steps(r) = r.plan.steps;
        /// Bytes that the plan expected to free.
        frees_bytes(r) = r.plan.frees_bytes;
        /// Bytes on disk that came free.
        freed_bytes(r) = r.freed_bytes;
        /// Why nothing expired, although the schedule would let it.
        frozen(r) = r.plan.frozen;
        /// Why far more revisions stay than the schedule keeps, as a sentence; None when they do not.
        excess(r) = r.plan.excess;
        /// What was confirmed before.
        confirmed(r) = r.confirmed;
        /// Seconds that it took.
        seconds(r) = r.seconds;
    }
}

report! {
    /// What a test restore found.
    DrillReport of backy_lib::DrillReport {
        /// UUID of the revision.
        revision(r) = r.revision;
        /// When it began, with zone UTC.
        started(r) = r.started;
        /// Seconds that reading or restoring took, without the command.
        seconds(r) = r.seconds;
        /// Size of the revision in bytes.
        size_bytes(r) = r.size_bytes;
        /// Bytes that were read and checked; zero blocks are not read.
        read_bytes(r) = r.read_bytes;
        /// Those a second.
        bytes_per_second(r) = r.bytes_per_second;
        /// What was run on the restored revision, or None.
        command(r) = r.command;
        /// Whether every byte was right and the command succeeded.
        passed(r) = r.passed;
        /// One sentence.
        message(r) = r.message;
    }
}

report! {
    /// A revision that was imported.
    Imported of backy_lib::import::Imported {
        /// Its name, the old one.
        uuid(r) = r.uuid;
        /// When it was made, with zone UTC.
        started(r) = r.started;
        /// Exact size of its image in bytes.
        size_bytes(r) = r.size_bytes;
        /// Stretches of the image whose right content is not known.
        damaged(r) = r.damaged;
    }
}

report! {
    /// Something of an archive of 2014 that was not imported.
    Skipped of backy_lib::import::Skipped {
        /// A file of the old archive.
        what(r) = r.what;
        /// The reason.
        why(r) = r.why;
    }
}

report! {
    /// What an import did.
    ImportReport of backy_lib::ImportReport {
        /// The revisions that were brought over, oldest first.
        imported(r) = r.imported;
        /// Those that an earlier import had brought over already, oldest first.
        present(r) = r.present;
        /// What was left out.
        skipped(r) = r.skipped;
        /// What else was found, as sentences.
        notes(r) = r.notes;
        /// Whether all that there was is in the archive now, and right.
        is_complete(r) = r.is_complete();
    }
}
