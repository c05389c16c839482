//! The reports of copies: what a pull did, or would do. A push returns the report of the copy that pulled.

use crate::report::report;

report! {
    /// What a pull did.
    PullReport of backy_lib::PullReport {
        /// The origin: a path or a URL.
        origin(r) = r.origin;
        /// The revisions that were pulled, oldest first.
        pulled(r) = r.pulled;
        /// How many revisions of the origin the copy had already.
        present(r) = r.present;
        /// Revisions that the copy does not have and that were not pulled, oldest first.
        left_out(r) = r.left_out;
        /// Other observations, as sentences.
        notes(r) = r.notes;
        /// Whether nothing is missing: every revision that `revisions` names is in the copy, and the origin had every
        /// block of those that were pulled.
        is_complete(r) = r.is_complete();
    }
}

report! {
    /// A revision that was pulled.
    Pulled of backy_lib::pull::Pulled {
        /// Its name, the same as at the origin.
        uuid(r) = r.uuid;
        /// When its backup began, with zone UTC.
        started(r) = r.started;
        /// Size of its image in bytes.
        size_bytes(r) = r.size_bytes;
        /// Bytes of blocks that the origin sent.
        received_bytes(r) = r.received_bytes;
        /// Bytes of blocks that had arrived with an earlier pull, which was interrupted.
        reused_bytes(r) = r.reused_bytes;
        /// How many more bytes the files of the copy take on disk than before; negative when they take fewer.
        stored_bytes(r) = r.stored_bytes;
        /// Seconds that it took.
        seconds(r) = r.seconds;
        /// Stretches of it that the origin has lost. Nobody can read them in the copy either.
        damaged(r) = r.damaged;
    }
}

report! {
    /// A revision of the origin that a pull leaves out.
    LeftOut of backy_lib::pull::LeftOut {
        /// Its name.
        uuid(r) = r.uuid;
        /// When its backup began, with zone UTC.
        started(r) = r.started;
        /// The reason.
        why(r) = r.why;
        /// Whether `revisions` names it, so that the copy is not complete without it.
        requested(r) = r.requested;
    }
}

report! {
    /// What a pull would do now.
    PullPlan of backy_lib::PullPlan {
        /// The origin: a path or a URL.
        origin(r) = r.origin;
        /// The revisions to pull, oldest first.
        pull(r) = r.pull;
        /// How many revisions of the origin the copy has already.
        present(r) = r.present;
        /// Revisions that the copy does not have and that would not be pulled, oldest first.
        left_out(r) = r.left_out;
        /// Other observations, as sentences.
        notes(r) = r.notes;
    }
}

report! {
    /// A revision to pull.
    Wanted of backy_lib::pull::Wanted {
        /// Its name.
        uuid(r) = r.uuid;
        /// When its backup began, with zone UTC.
        started(r) = r.started;
        /// Size of its image in bytes.
        size_bytes(r) = r.size_bytes;
    }
}
