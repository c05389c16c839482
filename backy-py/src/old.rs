//! What the modules for scripts of 2014 need besides `backy.Archive`: old archives, and chunks of today's revisions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use backy_lib::format::legacy::OldKind;
use backy_lib::image::reader::ReadCache;
use backy_lib::import::{OldEntry, OldReader};
use backy_lib::{BlockSize, Error, RevisionId};
use jiff::Timestamp;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::cancel::{Callback, Control};
use crate::error::exception;
use crate::watch::run;

/// Cache for the tables of the one revision whose chunks are listed.
const CACHE_BYTES: u64 = 4 << 20;

/// An archive of 2014, which is only read.
///
/// Raises BackyError where none is.
#[pyclass(module = "backy._backy", frozen)]
pub(crate) struct OldArchive {
    reader: OldReader,
}

/// A revision of 2014.
#[pyclass(module = "backy._backy", frozen)]
pub(crate) struct OldRevision {
    entry: OldEntry,
}

#[pymethods]
impl OldArchive {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let reader = run(py, Control::default(), |watch| OldReader::open(&path, watch))?.value()?;
        Ok(OldArchive { reader })
    }

    /// What was backed up, as it was written.
    #[getter]
    fn source(&self) -> Option<&str> {
        self.reader.source()
    }

    /// Size of a block in bytes.
    #[getter]
    fn block_size(&self) -> u64 {
        self.reader.block_bytes()
    }

    /// The revisions, oldest first.
    #[getter]
    fn revisions(&self) -> Vec<OldRevision> {
        let of = |entry: &OldEntry| OldRevision { entry: entry.clone() };
        self.reader.entries().iter().map(of).collect()
    }

    /// Files that cannot be used, each with the reason.
    #[getter]
    fn skipped(&self) -> Vec<(&str, &str)> {
        let skipped = self.reader.skipped().iter();
        skipped.map(|skipped| (skipped.what.as_str(), skipped.why.as_str())).collect()
    }

    /// What is recorded of the blocks in the revision's own file, by number, as it is written there.
    fn blocksums(&self, revision: &str) -> PyResult<BTreeMap<u64, String>> {
        let records = self.reader.records(parse(revision)?).map_err(exception)?;
        Ok(records.into_iter().map(|(number, record)| (number, record.to_string())).collect())
    }

    /// The block of a revision with this number; it has the MD5 that is recorded for it.
    fn read_block<'py>(
        &self,
        py: Python<'py>,
        revision: &str,
        number: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let uuid = parse(revision)?;
        let bytes = py.detach(|| self.reader.read_block(uuid, number)).map_err(exception)?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Writes a revision to a file or device, after all of it has been checked; its size in bytes.
    #[pyo3(signature = (revision, target, *, force = false, progress = None))]
    fn restore(
        &self,
        py: Python<'_>,
        revision: &str,
        target: PathBuf,
        force: bool,
        progress: Option<Callback>,
    ) -> PyResult<u64> {
        let uuid = parse(revision)?;
        let control = Control::new(progress, None);
        run(py, control, |watch| self.reader.restore(uuid, &target, force, watch))?.value()
    }
}

#[pymethods]
impl OldRevision {
    /// Its name.
    #[getter]
    fn uuid(&self) -> String {
        self.entry.uuid.to_string()
    }

    /// When it was made, with zone UTC.
    #[getter]
    fn timestamp(&self) -> Timestamp {
        self.entry.time
    }

    /// MD5 of its image in hex digits, where one is recorded.
    #[getter]
    fn checksum(&self) -> Option<String> {
        self.entry.checksum.map(|md5| md5.to_string())
    }

    /// The newer revision that a delta reads through to.
    #[getter]
    fn parent(&self) -> Option<String> {
        self.entry.parent.map(|uuid| uuid.to_string())
    }

    /// Whether its data file is its image.
    #[getter]
    fn full(&self) -> bool {
        self.entry.kind == OldKind::Full
    }

    /// How many blocks its image has.
    #[getter]
    fn blocks(&self) -> u64 {
        self.entry.blocks
    }

    /// Size of its image in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.entry.size_bytes
    }

    /// Numbers of the blocks in its own data file, ascending.
    #[getter]
    fn own_blocks(&self) -> Vec<u64> {
        self.entry.own_blocks.clone()
    }
}

/// Makes an archive of a source that need not be there yet, as was possible in 2014.
#[pyfunction]
pub(crate) fn init_unseen(py: Python<'_>, path: PathBuf, source: PathBuf) -> PyResult<()> {
    let init = || backy_lib::Archive::init(&path, Some(&source), BlockSize::DEFAULT);
    py.detach(init).map(|_| ()).map_err(exception)
}

/// Numbers of the chunks of a revision that its own file has something of, ascending: of the newest all, of an older
/// one those with what has changed since.
#[pyfunction]
pub(crate) fn own_chunks(
    py: Python<'_>,
    path: PathBuf,
    revision: &str,
    chunk_size: u64,
) -> PyResult<Vec<u64>> {
    let uuid = parse(revision)?;
    py.detach(|| {
        let archive = backy_lib::Archive::open(&path)?;
        let no_such = |_| {
            let message = format!("{}: there is no revision {uuid}", path.display());
            Error::NoSuchRevision { message }
        };
        archive.revision(uuid).map_err(no_such)?;
        let cache: Arc<ReadCache> = ReadCache::new(CACHE_BYTES);
        let reader = archive.open_reader(uuid, &cache)?;
        let chunk_size = chunk_size.max(1);
        let mut chunks = Vec::new();
        let mut offset = 0;
        while let Some(next) = reader.next_own(offset)? {
            let chunk = next / chunk_size;
            chunks.push(chunk);
            offset = (chunk + 1).saturating_mul(chunk_size);
        }
        Ok(chunks)
    })
    .map_err(exception)
}

fn parse(revision: &str) -> PyResult<RevisionId> {
    revision.parse().map_err(|message| exception(Error::Specification { message }))
}
