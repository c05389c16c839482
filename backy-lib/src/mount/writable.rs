//! Data written to a mounted revision: kept separately until the mount ends, then discarded.
//!
//! A [`Layer`] covers one revision, and everyone who has the image or one of its partitions open shares it.
//! It is a file without a name, created at the first write, as long as the image and with holes where nothing
//! was written, plus one bit per 4 KiB page that says whether the file has that page. A partly written page
//! is first copied from the revision. The size never changes.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, ftruncate};
use rustix::io::{Errno, retry_on_intr};
use uuid::{NoContext, Uuid};

use crate::base::extent::Extent;
use crate::base::revision::RevisionId;

/// The unit in which data is copied from the revision.
const PAGE_BYTES: u64 = 4096;

/// The length of writes of zeros, if the file system cannot make holes.
const ZEROS_BYTES: usize = 64 << 10;

/// Reads the revision: fills the buffer from the offset, or fails.
pub(super) type ReadImage<'a> = &'a dyn Fn(&mut [u8], u64) -> Result<(), Errno>;

/// The layers of an archive's revisions.
pub(super) struct Layers {
    folder: PathBuf,
    by_revision: Mutex<HashMap<RevisionId, Arc<Layer>>>,
}

impl Layers {
    /// Their files will be in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Layers { folder: folder.to_owned(), by_revision: Mutex::default() }
    }

    /// The layer of a revision of this size.
    pub(super) fn of(&self, revision: RevisionId, size_bytes: u64) -> Arc<Layer> {
        let mut layers = self.by_revision.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Layer::new(&self.folder, size_bytes));
        Arc::clone(layers.entry(revision).or_insert_with(new))
    }

    /// Drops the layers of revisions that are not open and can no longer be opened.
    pub(super) fn drop_unused(&self, has: impl Fn(RevisionId) -> bool) {
        let mut layers = self.by_revision.lock().unwrap_or_else(PoisonError::into_inner);
        // One owner besides this map: the revision is open.
        layers.retain(|id, layer| Arc::strong_count(layer) > 1 || has(*id));
    }
}

/// What was written over one revision.
pub(super) struct Layer {
    folder: PathBuf,
    size_bytes: u64,
    file: OnceLock<File>,
    written: RwLock<Pages>,
    /// Only one writer at a time: two could copy the same page, one of them undoing the other's write.
    writing: Mutex<()>,
}

impl Layer {
    /// A layer over a revision of this size, with its file in `folder`.
    pub(super) fn new(folder: &Path, size_bytes: u64) -> Self {
        Layer {
            folder: folder.to_owned(),
            size_bytes,
            file: OnceLock::new(),
            written: RwLock::default(),
            writing: Mutex::default(),
        }
    }

    /// Fills `buffer`, which lies within the image; `original` reads the revision.
    pub(super) fn read_at(
        &self,
        buffer: &mut [u8],
        offset: u64,
        original: ReadImage,
    ) -> Result<(), Errno> {
        let Some(file) = self.file.get() else { return original(buffer, offset) };
        let runs = {
            let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
            written.runs(Extent::new(offset, buffer.len() as u64))
        };
        let mut rest = buffer;
        for (run, written) in runs {
            let (part, after) = rest.split_at_mut_checked(run.len as usize).ok_or(Errno::IO)?;
            match written {
                true => file.read_exact_at(part, run.offset).map_err(|error| errno(&error))?,
                false => original(part, run.offset)?,
            }
            rest = after;
        }
        Ok(())
    }

    /// Writes all of `data`, which lies within the image.
    pub(super) fn write_at(
        &self,
        data: &[u8],
        offset: u64,
        original: ReadImage,
    ) -> Result<(), Errno> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let extent = Extent::new(offset, data.len() as u64);
        let file = self.file()?;
        self.take_over_edges(file, extent, original)?;
        file.write_all_at(data, offset).map_err(|error| errno(&error))?;
        self.mark(extent);
        Ok(())
    }

    /// Makes an extent within the image read as zeros.
    pub(super) fn zero(&self, extent: Extent, original: ReadImage) -> Result<(), Errno> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if extent.len == 0 {
            return Ok(());
        }
        let file = self.file()?;
        self.take_over_edges(file, extent, original)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(file, flags, extent.offset, extent.len)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, extent)?,
            result => result?,
        }
        self.mark(extent);
        Ok(())
    }

    /// Copies the pages that a write covers only in part.
    fn take_over_edges(
        &self,
        file: &File,
        extent: Extent,
        original: ReadImage,
    ) -> Result<(), Errno> {
        let last = extent.end().saturating_sub(1).max(extent.offset);
        for offset in [extent.offset, last] {
            let start = offset - offset % PAGE_BYTES;
            let page = Extent::between(start, (start + PAGE_BYTES).min(self.size_bytes));
            let covered = extent.offset <= page.offset && page.end() <= extent.end();
            if covered || self.has(page.offset) {
                continue;
            }
            let mut content = vec![0; page.len as usize];
            original(&mut content, page.offset)?;
            file.write_all_at(&content, page.offset).map_err(|error| errno(&error))?;
            self.mark(page);
        }
        Ok(())
    }

    fn has(&self, offset: u64) -> bool {
        let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
        written.has(offset / PAGE_BYTES)
    }

    /// Records that the file has these pages.
    fn mark(&self, extent: Extent) {
        let pages = extent.offset / PAGE_BYTES..extent.end().div_ceil(PAGE_BYTES);
        self.written.write().unwrap_or_else(PoisonError::into_inner).set(pages.start, pages.end);
    }

    /// The file, created on first use. Only for the thread that writes.
    fn file(&self) -> Result<&File, Errno> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = nameless(&self.folder)?;
        ftruncate(&file, self.size_bytes)?;
        Ok(self.file.get_or_init(|| file))
    }
}

/// Creates a file in a folder that has no name and disappears when it is closed.
pub(super) fn nameless(folder: &Path) -> Result<File, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags | OFlags::TMPFILE, mode) {
        Ok(fd) => Ok(File::from(fd)),
        // The file system or the kernel does not support files without names.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let random = Uuid::new_v7(uuid::Timestamp::from_unix(NoContext, 0, 0));
            let path = folder.join(format!(".backy-{random}"));
            let fd = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            rustix::fs::unlink(&path)?;
            Ok(File::from(fd))
        }
        Err(errno) => Err(errno),
    }
}

fn write_zeros(file: &File, extent: Extent) -> Result<(), Errno> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = extent.offset;
    while offset < extent.end() {
        let len = (extent.end() - offset).min(ZEROS_BYTES as u64);
        let piece = zeros.get(..len as usize).unwrap_or_default();
        file.write_all_at(piece, offset).map_err(|error| errno(&error))?;
        offset += len;
    }
    Ok(())
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A set of pages: one bit each, in pieces that exist only if they contain a page.
#[derive(Default)]
struct Pages {
    pieces: HashMap<u64, Box<[u64; WORDS]>>,
}

/// Words of 64 bits in a piece; together 32768 pages, or 128 MiB of an image.
const WORDS: usize = 512;

impl Pages {
    fn has(&self, page: u64) -> bool {
        let word = page / 64;
        let piece = self.pieces.get(&(word / WORDS as u64));
        let word = piece.and_then(|piece| piece.get((word % WORDS as u64) as usize));
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Adds the pages from `start` to `end`, exclusive.
    fn set(&mut self, start: u64, end: u64) {
        let mut page = start;
        while page < end {
            let word = page / 64;
            let next = ((word + 1) * 64).min(end);
            let mask = (u64::MAX >> (64 - (next - page))) << (page % 64);
            let piece = self.pieces.entry(word / WORDS as u64);
            let piece = piece.or_insert_with(|| Box::new([0; WORDS]));
            if let Some(bits) = piece.get_mut((word % WORDS as u64) as usize) {
                *bits |= mask;
            }
            page = next;
        }
    }

    /// An extent, split where pages in the set meet pages outside of it.
    fn runs(&self, extent: Extent) -> Vec<(Extent, bool)> {
        let mut runs: Vec<(Extent, bool)> = Vec::new();
        let mut offset = extent.offset;
        while offset < extent.end() {
            let page = offset / PAGE_BYTES;
            let end = ((page + 1) * PAGE_BYTES).min(extent.end());
            let set = self.has(page);
            match runs.last_mut() {
                Some((run, same)) if *same == set => run.len += end - offset,
                _ => runs.push((Extent::between(offset, end), set)),
            }
            offset = end;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 5 * 4096 + 123;

    /// An operation on an image, or on a window of it: offset, length, and the byte to write; `None` for zeros.
    type Step = (bool, usize, usize, Option<u8>);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step =
            (any::<bool>(), 0..SIZE, 0..3 * 4096_usize, prop::option::weighted(0.7, any::<u8>()));
        prop::collection::vec(step, 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// After any writes at any offsets, through the image and through a part of it, every extent reads as
        /// a plain copy would.
        #[test]
        fn a_layer_reads_like_a_copy(
            steps in steps(),
            reads in prop::collection::vec((0..SIZE, 0..SIZE), 1..10),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let original: Vec<u8> = (0..SIZE).map(|at| (at / 7) as u8 | 1).collect();
            let read = |buffer: &mut [u8], offset: u64| {
                buffer.copy_from_slice(&original[offset as usize..][..buffer.len()]);
                Ok(())
            };
            let layer = Layer::new(folder.path(), SIZE as u64);
            let mut model = original.clone();
            // The window of a partition at an odd offset.
            let window = 700..SIZE - 5000;
            for (windowed, offset, len, byte) in steps {
                let (start, end) = if windowed { (window.start, window.end) } else { (0, SIZE) };
                let from = (start + offset).min(end);
                let to = (from + len).min(end);
                let extent = Extent::between(from as u64, to as u64);
                match byte {
                    Some(byte) => layer.write_at(&vec![byte; to - from], from as u64, &read).unwrap(),
                    None => layer.zero(extent, &read).unwrap(),
                }
                model[from..to].fill(byte.unwrap_or(0));
            }
            for (from, len) in reads.into_iter().chain([(0, SIZE)]) {
                let to = (from + len).min(SIZE);
                let mut buffer = vec![0xee; to - from];
                layer.read_at(&mut buffer, from as u64, &read).unwrap();
                prop_assert!(buffer == model[from..to], "{from}..{to}");
            }
        }

        /// A set of pages contains what was added to it and nothing else, across words and pieces.
        #[test]
        fn pages_are_a_set(ranges in prop::collection::vec((0_u64..70_000, 0_u64..300), 1..8)) {
            let mut pages = Pages::default();
            for (start, len) in &ranges {
                pages.set(*start, start + len);
            }
            for (start, len) in &ranges {
                for page in start.saturating_sub(70)..start + len + 70 {
                    let expected = ranges.iter().any(|(s, l)| (*s..s + l).contains(&page));
                    prop_assert_eq!(pages.has(page), expected, "page {}", page);
                }
            }
        }
    }

    /// If a page cannot be copied, it is not half written: the write fails, and the page reads as before.
    #[test]
    fn a_write_into_a_page_that_cannot_be_read_fails() {
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::new(folder.path(), 8192);
        let read = |buffer: &mut [u8], offset: u64| {
            if offset + buffer.len() as u64 > 4096 {
                return Err(Errno::IO);
            }
            buffer.fill(7);
            Ok(())
        };
        assert_eq!(layer.write_at(&[1; 100], 4090, &read), Err(Errno::IO));
        let mut page = [0; 4096];
        layer.read_at(&mut page, 0, &read).unwrap();
        assert_eq!(page, [7; 4096]);
        assert_eq!(layer.read_at(&mut page, 4096, &read), Err(Errno::IO));
        // A write of the whole page needs none of its old content.
        layer.write_at(&[2; 4096], 4096, &read).unwrap();
        layer.read_at(&mut page, 4096, &read).unwrap();
        assert_eq!(page, [2; 4096]);
    }

    /// Zeros take no space.
    #[test]
    fn zeros_are_holes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let layer = Layer::new(folder.path(), 64 << 20);
        let read = |buffer: &mut [u8], _: u64| {
            buffer.fill(7);
            Ok(())
        };
        layer.write_at(&vec![1; 1 << 20], 0, &read).unwrap();
        layer.zero(Extent::new(0, 64 << 20), &read).unwrap();
        assert_eq!(layer.file().unwrap().metadata().unwrap().blocks(), 0);
    }
}
