//! The health of archives: status, the verdict, and what is behind it.

use std::path::Path;

use backy_lib::Level;
use backy_lib::check::Checked as LibChecked;
use backy_lib::monitoring::{nagios, nagios_host, prometheus};

use crate::report::{report, word};

report! {
    /// What was backed up.
    SourceIdentity of backy_lib::format::manifest::SourceIdentity {
        /// Its path, or its name when it has no path.
        path(r) = r.path;
        /// As in the manifest, such as "file", "block device" or "qcow2 image".
        kind(r) = r.kind;
        /// World wide name of the disk, if it is known.
        wwid(r) = r.wwid;
        /// Serial number of the disk, if it is known.
        serial(r) = r.serial;
        /// What the device mapper calls the volume, if it is one.
        dm_uuid(r) = r.dm_uuid;
        /// The file that a loop device shows.
        loop_file(r) = r.loop_file;
        /// Of the partition, if it is one.
        partition_uuid(r) = r.partition_uuid;
        /// Of the partition table that it begins with.
        partition_table_uuid(r) = r.partition_table_uuid;
        /// Of the file system, encrypted volume or physical volume that it begins with.
        file_system_uuid(r) = r.file_system_uuid;
        /// Inode number of a file.
        inode(r) = r.inode;
        /// When the file was made, with zone UTC.
        born(r) = r.born;
        /// The format of a disk image that it is, such as "qcow2".
        container(r) = r.container;
        /// The file that this image needs, which is not backed up with it.
        backing_file(r) = r.backing_file;
    }
}

report! {
    /// An operation that is under way, or was interrupted.
    InProgress of backy_lib::format::manifest::InProgress {
        /// "backup", "remove" or "merge".
        operation(r) = word(&r.operation);
        /// UUID of the revision that is made, removed or appended to.
        revision(r) = r.revision;
        /// When it began, with zone UTC.
        started(r) = r.started;
    }
}

report! {
    /// One revision, as status sees it. Has every name that a `Revision` has.
    RevisionStatus of backy_lib::status::RevisionStatus {
        /// 0 is the newest.
        number(r) = r.number;
        /// Its name.
        uuid(r) = r.uuid;
        /// When its backup began, with zone UTC.
        started(r) = r.started;
        /// When its backup was committed, with zone UTC.
        finished(r) = r.finished;
        /// Exact size of the image in bytes.
        size_bytes(r) = r.size_bytes;
        /// Digest of the revision, 64 hex digits.
        digest(r) = r.digest;
        /// The file that holds it, within the archive's folder.
        file(r) = Path::new(&r.file);
        /// UUID of the next newer revision, which it reads through to, or None.
        base(r) = r.base;
        /// Its tags, sorted.
        tags(r) = r.tags;
        /// Those that were given by hand, sorted.
        pinned_tags(r) = r.pinned_tags;
        /// Bytes that its backup read from the source.
        read_bytes(r) = r.read_bytes;
        /// Bytes in blocks that differed from the revision before.
        changed_bytes(r) = r.changed_bytes;
        /// Bytes that its backup added on disk; may be negative.
        stored_bytes(r) = r.stored_bytes;
        /// Seconds that its backup took.
        seconds(r) = r.seconds;
        /// Stretches that cannot be read from it.
        damaged(r) = r.damaged;
        /// Blocks of its own file that are known to be bad; `damaged` has what that costs, in bytes.
        bad_blocks(r) = r.bad_blocks;
        /// What its backup did not read, because the source reported no change; None if the source reports none.
        hints(r) = r.hints;
        /// The mark at the source that stands for it, or None.
        bookmark(r) = r.bookmark;
    }
    also {
        /// The same as `started`, as an older name of `Revision`.
        timestamp(r) = r.started;
        /// The same as `size_bytes`, as an older name of `Revision`.
        size(r) = r.size_bytes;
    }
}

report! {
    /// A problem, and what to do about it.
    Problem of backy_lib::Problem {
        /// What it is about, a word that does not change: "overdue", "damage", "space" and so on.
        kind(r) = r.kind.as_str();
        /// "warning" or "critical"; of an archive that cannot be opened "unknown".
        level(r) = word(&r.level);
        /// The problem, as a sentence.
        message(r) = r.message;
        /// What to do.
        advice(r) = r.advice;
    }
}

report! {
    /// The verdict on the backups, with what is behind it.
    Health of backy_lib::Health {
        /// "ok", "warning" or "critical": the worst of the problems. Of an archive that cannot be opened "unknown".
        level(r) = word(&r.level);
        /// One line: the verdict and the most important reason.
        summary(r) = r.summary;
        /// The problems, worst first.
        problems(r) = r.problems;
    }
}

report! {
    /// How a tag of the schedule stands.
    TagStatus of backy_lib::health::TagStatus {
        /// The tag.
        tag(r) = r.tag;
        /// Seconds from one revision with it to the next.
        interval_seconds(r) = r.interval_seconds;
        /// How many revisions keep it.
        keep(r) = u64::from(r.keep);
        /// How many have it.
        revisions(r) = r.revisions;
        /// When the last one with it began, or None.
        last(r) = r.last;
        /// From when on it is due; None when it is due because no revision has it, and in a copy.
        due_at(r) = r.due_at;
        /// From when on it is overdue, or None.
        overdue_at(r) = r.overdue_at;
        /// From when on that is critical, or None.
        critical_at(r) = r.critical_at;
        /// "ok", "warning" or "critical".
        level(r) = word(&r.level);
    }
}

report! {
    /// Where a copy comes from, and whether it is up to date.
    OriginStatus of backy_lib::health::OriginStatus {
        /// The path or URL of the origin.
        url(r) = r.url;
        /// Seconds from one pull to the next.
        interval_seconds(r) = r.interval_seconds;
        /// When the last successful pull began, or None.
        last_pull(r) = r.last_pull;
        /// How many revisions it left out that are newer than the newest one here; None if not known.
        left_out(r) = r.left_out;
        /// Seconds since the newest revision began; None without revisions.
        behind_seconds(r) = r.behind_seconds;
        /// From when on a pull is due; None when it is due because there was none.
        due_at(r) = r.due_at;
        /// From when on it is overdue, or None.
        overdue_at(r) = r.overdue_at;
        /// From when on that is critical, or None.
        critical_at(r) = r.critical_at;
        /// "ok", "warning" or "critical".
        level(r) = word(&r.level);
    }
}

report! {
    /// A command that has ended, from the history.
    Run of backy_lib::health::Run {
        /// "backup", "maintenance", "scrub" or "pull".
        operation(r) = r.operation;
        /// When it began, with zone UTC.
        started(r) = r.started;
        /// When it ended, with zone UTC.
        finished(r) = r.finished;
        /// "ok", "failed" or "interrupted".
        result(r) = r.result;
        /// Why it failed, or None.
        error(r) = r.error;
    }
}

report! {
    /// Space on the archive's file system.
    Space of backy_lib::health::Space {
        /// Bytes that the archive's files take on disk.
        used_bytes(r) = r.used_bytes;
        /// Bytes that may still be written there.
        free_bytes(r) = r.free_bytes;
        /// All that fits into the file system.
        size_bytes(r) = r.size_bytes;
        /// Bytes by which the archive grows a day; None when too little is known.
        growth_bytes_per_day(r) = r.growth_bytes_per_day;
        /// When the file system will be full at this rate, or None.
        full_at(r) = r.full_at;
    }
}

report! {
    /// How much had changed in the newest revision, and how much is usual.
    Change of backy_lib::health::Change {
        /// Share of the image, from 0 to 1.
        share(r) = r.share;
        /// The median of the earlier ones.
        usual_share(r) = r.usual_share;
        /// Above this it is unusual.
        limit_share(r) = r.limit_share;
    }
}

report! {
    /// A revision of which far more had changed than usual.
    Alarm of backy_lib::format::manifest::Alarm {
        /// UUID of the revision.
        revision(r) = r.revision;
        /// When it was noticed, with zone UTC.
        raised(r) = r.raised;
        /// Bytes in blocks that differed from the revision before.
        changed_bytes(r) = r.changed_bytes;
        /// As many would have been usual.
        usual_bytes(r) = r.usual_bytes;
        /// When somebody confirmed that it is in order, or None.
        confirmed(r) = r.confirmed;
        /// Bytes of data of the revision before that are gone, where these are most of it.
        lost_bytes(r) = r.lost_bytes;
        /// Bytes of data that the revision before had, where lost_bytes is known.
        had_bytes(r) = r.had_bytes;
        /// How the source differs from the one that was backed up before, where it is another one.
        other_source(r) = r.other_source;
        /// Size in bytes of the revision before, where the source has become shorter.
        shrunk_from_bytes(r) = r.shrunk_from_bytes;
        /// Changes that the source had not reported, where there are any.
        unreported(r) = r.unreported;
    }
}

report! {
    /// Changes that a source did not report. The revision of the alarm is right there; earlier ones may not be.
    Unreported of backy_lib::format::manifest::Unreported {
        /// The blocks.
        blocks(r) = r.blocks;
        /// When they were last compared: revisions made later may hold older content there.
        since(r) = r.since;
    }
}

report! {
    /// What keeps anything from expiring.
    Freeze of backy_lib::health::Freeze {
        /// "unusual-change" or "damage".
        kind(r) = r.kind.as_str();
        /// UUID of the revision that it is about.
        revision(r) = r.revision;
        /// One sentence.
        message(r) = r.message;
    }
}

report! {
    /// Inventory and health of an archive.
    Status of backy_lib::StatusReport {
        /// Version of to_dict(): fields may be added within a version, never removed or changed.
        schema(r) = u64::from(r.schema);
        /// The archive's folder.
        archive(r) = r.archive;
        /// What is backed up, as configured; None when the config cannot be read or names none.
        source(r) = r.source;
        /// What was backed up last, or None.
        last_source(r) = r.last_source;
        /// Of a copy: where it comes from, and whether it is up to date; or None.
        origin(r) = r.origin;
        /// Block size in bytes.
        block_size(r) = r.block_size;
        /// The operation that is under way, or was interrupted if there is no lock_holder; or None.
        in_progress(r) = r.in_progress;
        /// Who changes the archive at this moment, or None.
        lock_holder(r) = r.lock_holder;
        /// When that one last made progress, to about ten seconds, with zone UTC; None without a lock_holder.
        progress_at(r) = r.progress_at;
        /// What scrubs have checked.
        coverage(r) = r.coverage;
        /// The last test restore, or None.
        drill(r) = r.drill;
        /// The revisions that were asked for, newest first.
        revisions(r) = r.revisions;
        /// Whether the backups are healthy, and why not.
        health(r) = r.health;
        /// Whether there is no problem: the level of the health is "ok".
        healthy(r) = r.health.level == Level::Ok;
        /// When all this was so, with zone UTC.
        checked(r) = r.checked;
        /// How many revisions there are, whichever were asked for.
        revision_count(r) = r.revision_count;
        /// How many of them cannot be read in full.
        damaged_count(r) = r.damaged_count;
        /// The newest of them, or None.
        newest(r) = r.newest;
        /// How each tag of the schedule stands, that with the shortest interval first.
        schedule(r) = r.schedule;
        /// The last run of backup, of maintenance and of scrub, as far as the history knows.
        last_runs(r) = r.last_runs;
        /// When a scrub last read anything of what there is now, or None.
        last_scrub(r) = r.last_scrub;
        /// Since when something stored has not been checked, or None.
        unchecked_since(r) = r.unchecked_since;
        /// The most deltas on each other that a revision is read through.
        chain_length(r) = u64::from(r.chain_length);
        /// As many are not too many.
        long_chain(r) = u64::from(r.long_chain);
        /// Space on the file system, or None.
        space(r) = r.space;
        /// How much had changed in the newest revision; None when too little is known of what is usual.
        change(r) = r.change;
        /// Revisions of which unusually much had changed, confirmed or not.
        alarms(r) = r.alarms;
        /// What keeps anything from expiring.
        frozen(r) = r.frozen;
        /// The line of a Nagios plugin, as status --check prints it.
        nagios(r) = nagios(r);
        /// The figures in the text format of Prometheus, as status --prometheus prints them.
        prometheus(r) = prometheus([&LibChecked::of(r.clone())]);
    }
}

report! {
    /// A file system with all archives on it that were looked at.
    SharedSpace of backy_lib::health::SharedSpace {
        /// How many they are.
        archives(r) = r.archives;
        /// Bytes that their files take on disk.
        used_bytes(r) = r.used_bytes;
        /// Bytes that may still be written there.
        free_bytes(r) = r.free_bytes;
        /// All that fits into it.
        size_bytes(r) = r.size_bytes;
        /// Bytes by which they grow a day; None when that is known of none.
        growth_bytes_per_day(r) = r.growth_bytes_per_day;
        /// When it will be full at this rate, or None.
        full_at(r) = r.full_at;
    }
}

report! {
    /// The verdict on one of many archives.
    Checked of backy_lib::check::Checked {
        /// Its folder.
        archive(r) = r.archive;
        /// The verdict; its level is "unknown" when the archive cannot be opened.
        health(r) = r.health;
        /// What is behind it, without the revisions; None when the archive cannot be opened.
        status(r) = r.status;
    }
}

report! {
    /// The verdicts on many archives.
    HostReport of backy_lib::HostReport {
        /// Version of to_dict(): fields may be added within a version, never removed or changed.
        schema(r) = u64::from(r.schema);
        /// When all this was so, with zone UTC.
        checked(r) = r.checked;
        /// "ok", "warning", "unknown" or "critical": the worst there is.
        level(r) = word(&r.level);
        /// One line.
        summary(r) = r.summary;
        /// The archives, worst first, then by folder.
        archives(r) = r.archives;
        /// The file systems that they are on.
        file_systems(r) = r.file_systems;
        /// Problems that several of them share.
        problems(r) = r.problems;
        /// Whether there is no problem: the level is "ok".
        healthy(r) = r.level == Level::Ok;
        /// The line of a Nagios plugin, as check --nagios prints it.
        nagios(r) = nagios_host(r);
        /// The figures in the text format of Prometheus, as check --prometheus prints them.
        prometheus(r) = prometheus(&r.archives);
    }
}
