//! Open files: a revision, or a window of it, that stays readable until it is closed.

use std::fs::File;
use std::sync::Arc;

use rustix::io::Errno;

use super::findings::Findings;
use super::holding::Hold;
use super::writable::Layer;
use crate::base::error::Error;
use crate::base::extent::Extent;
use crate::image::reader::RevisionReader;

/// An open revision, shared by everyone who has it open.
pub(super) struct OpenRevision {
    pub(super) reader: RevisionReader,
    /// What was written to it, in a writable mount.
    pub(super) layer: Option<Arc<Layer>>,
}

impl OpenRevision {
    /// Fills `buffer`, which lies within the image, with the backed-up content.
    pub(super) fn read_original(
        &self,
        buffer: &mut [u8],
        offset: u64,
        findings: &Findings,
    ) -> Result<(), Errno> {
        match self.reader.read_at(buffer, offset) {
            Ok(read) if read == buffer.len() => Ok(()),
            Ok(_) => Err(Errno::IO),
            Err(error) => {
                findings.report(self.reader.revision().uuid, &error);
                Err(errno_of(&error))
            }
        }
    }
}

/// The error number for a program that reads through the mount. If the process of the mount lacks something,
/// that is the system's own error, so that it is not taken for a bad disk.
pub(super) fn errno_of(error: &Error) -> Errno {
    let of_process = error.system_number().filter(|_| error.is_of_process());
    match of_process.map(Errno::from_raw_os_error) {
        // The program that reads does not have too many files open itself.
        Some(Errno::MFILE) => Errno::NFILE,
        Some(errno) => errno,
        None => Errno::IO,
    }
}

/// One open image or partition.
pub(super) struct OpenFile {
    pub(super) revision: Arc<OpenRevision>,
    /// The part of the image that it covers.
    pub(super) window: Extent,
    /// Whether it was opened for writing.
    pub(super) writing: bool,
    /// Dropped after the revision, which belongs to the archive that it holds open.
    pub(super) _hold: Hold,
}

impl OpenFile {
    /// Reads until `buffer` is full or the file ends, and returns the number of bytes. Everything that was
    /// requested, or an error.
    pub(super) fn read_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
        findings: &Findings,
    ) -> Result<usize, Errno> {
        let extent = self.within(offset, buffer.len() as u64);
        let Some(buffer) = buffer.get_mut(..extent.len as usize) else { return Ok(0) };
        let original = |part: &mut [u8], at: u64| self.revision.read_original(part, at, findings);
        match &self.revision.layer {
            _ if buffer.is_empty() => {}
            Some(layer) => layer.read_at(buffer, extent.offset, &original)?,
            None => original(buffer, extent.offset)?,
        }
        Ok(buffer.len())
    }

    /// The first byte at or after `offset` that may not be zero, or, with `hole`, the start of the next run
    /// of zeros. The end of the file is a hole.
    ///
    /// # Errors
    /// `NXIO` if `offset` is past the end or there is no such byte; `NOSYS` if this is unknown.
    pub(super) fn seek(&self, offset: u64, hole: bool, findings: &Findings) -> Result<u64, Errno> {
        if self.revision.layer.is_some() {
            return Err(Errno::NOSYS);
        }
        if offset >= self.window.len {
            return Err(Errno::NXIO);
        }
        let reader = &self.revision.reader;
        let at = self.window.offset + offset;
        let found = if hole { reader.next_hole(at).map(Some) } else { reader.next_data(at) };
        let found = found.map_err(|error| {
            findings.report(reader.revision().uuid, &error);
            errno_of(&error)
        })?;
        match found {
            Some(found) if found < self.window.end() => Ok(found - self.window.offset),
            _ if hole => Ok(self.window.len),
            _ => Err(Errno::NXIO),
        }
    }

    /// A file with the same bytes that nothing writes to, if there is one.
    pub(super) fn whole_file(&self) -> Option<&File> {
        let whole = self.window == Extent::new(0, self.revision.reader.size_bytes());
        if whole && self.revision.layer.is_none() {
            self.revision.reader.whole_file()
        } else {
            None
        }
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// `FBIG` if it does not fit into the file; nothing was written then.
    pub(super) fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        findings: &Findings,
    ) -> Result<(), Errno> {
        let layer = self.layer()?;
        let extent = self.within(offset, data.len() as u64);
        if extent.len < data.len() as u64 {
            return Err(Errno::FBIG);
        }
        layer.write_at(data, extent.offset, &|part: &mut [u8], at: u64| {
            self.revision.read_original(part, at, findings)
        })
    }

    /// Makes an extent read as zeros, up to the end of the file.
    pub(super) fn zero(&self, extent: Extent, findings: &Findings) -> Result<(), Errno> {
        let layer = self.layer()?;
        layer.zero(self.within(extent.offset, extent.len), &|part: &mut [u8], at: u64| {
            self.revision.read_original(part, at, findings)
        })
    }

    fn layer(&self) -> Result<&Layer, Errno> {
        if !self.writing {
            return Err(Errno::BADF);
        }
        self.revision.layer.as_deref().ok_or(Errno::ROFS)
    }

    /// An extent of the file as one of the image, cut at the end of the file.
    fn within(&self, offset: u64, len: u64) -> Extent {
        let offset = offset.min(self.window.len);
        Extent::new(self.window.offset + offset, len.min(self.window.len - offset))
    }
}
