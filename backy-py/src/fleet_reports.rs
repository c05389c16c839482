//! What a run over many archives would do, and what it did.

use std::collections::BTreeMap;

use backy_lib::config::Group;

use crate::report::{report, word};

report! {
    /// What a run would do now.
    FleetPlan of backy_lib::fleet::FleetPlan {
        /// Version of to_dict(): fields may be added within a version, never removed or changed.
        schema(r) = u64::from(r.schema);
        /// When it was made, with zone UTC.
        planned(r) = r.planned;
        /// Nothing starts later; None without a limit.
        until(r) = r.until;
        /// How many jobs run at a time.
        limits(r) = r.limits;
        /// The jobs, in the order in which they would start.
        jobs(r) = r.jobs;
        /// Archives in which nothing is due.
        idle(r) = r.idle;
        /// What cannot be worked on, and expectations of fleet.toml that are not met.
        problems(r) = r.problems;
    }
}

report! {
    /// How many jobs of a run may run at a time.
    FleetLimits of backy_lib::fleet::Limits {
        /// Of all archives together.
        jobs(r) = r.jobs.get();
        /// Of the archives of each group, by its name. A group without an entry has one job at a time.
        groups(r) = r.groups.iter().map(|(name, most)| (name.as_str(), most.get())).collect::<BTreeMap<_, _>>();
    }
}

report! {
    /// One operation that is due on one archive.
    FleetJob of backy_lib::fleet::Job {
        /// The archive's folder, without symbolic links.
        archive(r) = r.archive;
        /// "init", "backup", "maintenance" or "scrub".
        operation(r) = word(&r.operation);
        /// Why it is due.
        why(r) = r.why;
        /// Since when it has been due, with zone UTC; None if it has never been done.
        due_since(r) = r.due_since;
        /// How late it is, in units of its interval; None if it has never been done.
        overdue(r) = r.overdue;
        /// The group in the archive's backy.toml, whose archives share a limit; or None.
        group(r) = r.group.as_ref().map(Group::as_str);
        /// The virtual machine whose disk is backed up, as "libvirt:DOMAIN". Its disks that are due at once, and of one
        /// group, have one backup point. None for anything else.
        machine(r) = r.machine;
        /// How many seconds it is expected to take; None if nothing is known.
        expected_seconds(r) = r.expected_seconds;
        /// The words of the command that does it, for programs that start it themselves.
        command(r) = r.command.iter().map(|word| word.as_path().as_os_str()).collect::<Vec<_>>();
    }
}

report! {
    /// An archive in which nothing is due.
    IdleArchive of backy_lib::fleet::Idle {
        /// Its folder, without symbolic links.
        archive(r) = r.archive;
        /// Why nothing is due.
        why(r) = r.why;
        /// When the next backup is due, with zone UTC; None if none is scheduled.
        next_due(r) = r.next_due;
    }
}

report! {
    /// Something that keeps a run from its work on one archive, or from a whole list of them.
    Obstacle of backy_lib::fleet::Obstacle {
        /// The archive's folder, or what else is concerned, such as a pattern or fleet.toml.
        archive(r) = r.archive;
        /// What was found, in one line.
        message(r) = r.message;
    }
}

report! {
    /// What a run did.
    FleetReport of backy_lib::fleet::FleetReport {
        /// Version of to_dict(): fields may be added within a version, never removed or changed.
        schema(r) = u64::from(r.schema);
        /// When it began, with zone UTC.
        started(r) = r.started;
        /// When it ended, with zone UTC.
        finished(r) = r.finished;
        /// How many archives it checked.
        archives(r) = r.archives;
        /// The jobs, in the order in which they ended.
        jobs(r) = r.jobs;
        /// What it could not work on, and expectations of fleet.toml that are not met.
        problems(r) = r.problems;
        /// Whether it was stopped on request.
        interrupted(r) = r.interrupted;
        /// Whether no job failed, there is no problem, and nobody stopped it.
        is_ok(r) = r.is_ok();
    }
}

report! {
    /// How one job of a run ended.
    JobReport of backy_lib::fleet::JobReport {
        /// The archive's folder.
        archive(r) = r.archive;
        /// "init", "backup", "maintenance" or "scrub".
        operation(r) = word(&r.operation);
        /// "ok", "failed", "skipped", "interrupted" or "not-started".
        result(r) = word(&r.result);
        /// How often it was tried.
        attempts(r) = r.attempts;
        /// Why it failed or was skipped, in one line; or None.
        message(r) = r.message;
        /// How many seconds the last attempt took.
        seconds(r) = r.seconds;
        /// UUID of the revision that it made, or None.
        revision(r) = r.revision;
        /// Bytes that it read, of the source or of stored data; or None.
        read_bytes(r) = r.read_bytes;
        /// Bytes on disk that it added, negative if it freed some; or None.
        stored_bytes(r) = r.stored_bytes;
    }
}
