//! The reports on exports.

use crate::report::report;

report! {
    /// What an export did.
    ExportReport of backy_lib::ExportReport {
        /// UUID of the revision.
        revision(r) = r.revision;
        /// The file that was made.
        file(r) = r.file;
        /// Size of the revision in bytes.
        size_bytes(r) = r.size_bytes;
        /// Bytes that the file takes on disk.
        stored_bytes(r) = r.stored_bytes;
        /// Seconds that it took.
        seconds(r) = r.seconds;
    }
}

report! {
    /// What was exported for Ceph.
    RbdDiffReport of backy_lib::export::RbdDiffReport {
        /// UUID of the revision, and the name of the snapshot that `rbd import-diff` makes.
        revision(r) = r.revision;
        /// UUID of the revision that the image has to have already, or None.
        since(r) = r.since;
        /// The file that was made; "-" for a file object.
        file(r) = r.file;
        /// Size of the revision in bytes.
        size_bytes(r) = r.size_bytes;
        /// Bytes that were written.
        stream_bytes(r) = r.stream_bytes;
        /// Bytes of the revision that are among them.
        data_bytes(r) = r.data_bytes;
        /// Bytes that become zero.
        zero_bytes(r) = r.zero_bytes;
        /// SHA-256 of what was written, 64 hex digits.
        sha256(r) = r.sha256;
        /// Seconds that it took.
        seconds(r) = r.seconds;
    }
}
