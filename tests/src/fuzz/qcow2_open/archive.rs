//! A delta made of any bytes in an archive of three revisions whose digests fit it, as far as it can be read.

use std::path::Path;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::digest::{RevisionHasher, TableEntry};
use backy_lib::export::{ExportOptions, export};
use backy_lib::extent::Extent;
use backy_lib::format::digests::DigestsHeader;
use backy_lib::format::manifest::Statistics;
use backy_lib::format::qcow2::{Backing, Cluster, Compressor, Decompressor};
use backy_lib::image::delta::{Delta, DeltaWriter, OldBlock, StoredBlock};
use backy_lib::image::digests::DigestWriter;
use backy_lib::image::reader::ReadCache;
use backy_lib::progress::Silent;
use backy_lib::restore::RestoreOptions;
use backy_lib::storage::sim::SimStorage;
use backy_lib::storage::{DigestsKind, FileName, Storage};
use backy_lib::units::BlockIndex;
use backy_lib::{Manifest, Revision, RevisionId};
use jiff::Timestamp;

use crate::fuzz::OneFile;
use crate::memory::MemoryTarget;
use crate::{qemu, world};

/// Larger images do nothing new.
const MAX_BLOCKS: u64 = 64;
const MAX_BYTES: u64 = 4 << 20;

/// A block as a revision has it. None when it cannot be read.
type Block = Option<Vec<u8>>;

/// Which of the revisions the input is, counted from the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// The deleted one.
    Middle = 1,
    /// The one that takes over its blocks.
    Oldest = 2,
}

/// Revisions of one content each, newest first.
struct Model {
    revisions: Vec<Revision>,
    images: Vec<Vec<Block>>,
    disk: SimStorage,
}

/// Reads an archive with the delta in every way, merges, and exports.
///
/// # Panics
/// When one way returns other bytes than another.
pub(super) fn check(delta: &Delta, data: &[u8], position: Position, folder: &Path) {
    let size = delta.header().cluster_size;
    let bytes = delta.header().virtual_bytes;
    if size.count(bytes) > MAX_BLOCKS || bytes > MAX_BYTES || bytes == 0 {
        return;
    }
    // An odd size now and then, which the virtual size rounds up.
    let size_bytes = if data.len() % 2 == 1 { bytes - 100 } else { bytes };
    let Some(held) = held(delta, size.count(bytes)) else { return };
    let mut model = Model::new(delta, size_bytes, position, held);
    model.disk.tamper(FileName::Delta(model.revisions[position as usize].uuid), |file| {
        *file = data.to_vec();
    });
    (0..3).for_each(|number| model.check_reads(number));
    model.check_exports(folder);
    // The remaining ones read as before, whether it worked or not.
    let removed = model.writer().and_then(|mut writer| world::remove_by(&mut writer, &[1]));
    if removed.is_ok() {
        model.revisions.remove(1);
        model.images.remove(1);
    }
    let count = model.archive().revisions().len();
    assert_eq!(count, model.revisions.len());
    for number in 0..count {
        model.check_reads(number);
    }
}

/// What the delta has for each block: not held, or held with what can be read of it. None when its tables cannot be
/// read.
fn held(delta: &Delta, blocks: u64) -> Option<Vec<Option<Block>>> {
    let clusters = delta.clusters(BlockIndex(0), blocks).ok()?;
    let mut decompressor = Decompressor::new().expect("memory");
    let mut read = |cluster: Cluster| {
        let mut buffer = vec![0; delta.header().cluster_size.len()];
        delta.read_cluster(cluster, &mut decompressor, &mut buffer).ok().map(|()| buffer)
    };
    let block = |cluster| (cluster != Cluster::Unallocated).then(|| read(cluster));
    Some(clusters.into_iter().map(block).collect())
}

impl Model {
    fn new(delta: &Delta, size_bytes: u64, position: Position, held: Vec<Option<Block>>) -> Self {
        let size = delta.header().cluster_size;
        let disk = SimStorage::new(false);
        let source = Some(Path::new("/memory"));
        Archive::init_on(std::sync::Arc::new(disk.clone()), source, size).expect("init");
        let other = other(size_bytes, size.count(size_bytes), size.len());
        let deltas = match position {
            Position::Middle => [held, other],
            Position::Oldest => [other, held],
        };
        // Where the end is that of a block, the image is longer than those that read through to it.
        let whole = size_bytes.is_multiple_of(size.bytes());
        let image_bytes = if whole { size_bytes + size.bytes() } else { size_bytes };
        let image = (0..size.count(image_bytes)).map(|number| {
            let len = size.extent(BlockIndex(number), image_bytes).len as usize;
            Some(if number % 3 == 2 { vec![0; len] } else { vec![number as u8 + 1; len] })
        });
        let mut model = Model { revisions: Vec::new(), images: vec![image.collect()], disk };
        for delta in &deltas {
            let below = model.images.last().expect("the image").clone();
            let blocks = delta.iter().zip(0..size.count(size_bytes));
            let image = blocks.map(|(own, number)| {
                let len = size.extent(BlockIndex(number), size_bytes).len as usize;
                let mut block = match own {
                    Some(block) => block.clone()?,
                    None => below.get(number as usize).cloned().unwrap_or_default()?,
                };
                block.resize(len, 0);
                Some(block)
            });
            let image = image.collect();
            model.images.push(image);
        }
        model.publish(&deltas, size, [image_bytes, size_bytes, size_bytes]);
        model
    }

    /// Writes the files of the three revisions.
    fn publish(
        &mut self,
        deltas: &[Vec<Option<Block>>; 2],
        size: backy_lib::BlockSize,
        sizes: [u64; 3],
    ) {
        let mut manifest = Manifest::new(size);
        for number in (0..3).rev() {
            let mut hasher = RevisionHasher::new(size, sizes[number]);
            self.images[number].iter().for_each(|block| hasher.push(entry(block.as_deref())));
            let time = Timestamp::from_second(2_000_000 - number as i64).expect("a time");
            let id = RevisionId::from(uuid::Uuid::from_u128(0x0193_f000 + number as u128));
            let digest = hasher.finish();
            let statistics = Statistics::default();
            manifest.push_newest(Revision::newest(
                id,
                time,
                time,
                sizes[number],
                digest,
                statistics,
            ));
        }
        self.revisions.clone_from(&manifest.revisions);
        let mut raw = Vec::new();
        self.images[0]
            .iter()
            .for_each(|block| raw.extend_from_slice(block.as_deref().expect("whole")));
        self.create(FileName::IMAGE, &raw);
        for (number, &size_bytes) in sizes.iter().enumerate() {
            let id = self.revisions[number].uuid;
            if let Some(delta) = number.checked_sub(1).map(|at| &deltas[at]) {
                let base = match number {
                    1 => Backing::IMAGE,
                    _ => Backing::delta(self.revisions[1].uuid),
                };
                write_delta(&self.disk, id, size, size_bytes, delta, base);
            }
            self.write_digests(number, number.checked_sub(1).map(|at| &deltas[at]), size);
        }
        let encoded = manifest.encode().expect("a JSON form");
        self.disk.tamper(FileName::MANIFEST, |content| *content = encoded);
    }

    fn create(&self, name: FileName, content: &[u8]) {
        let file = self.disk.create(name).expect("a file");
        file.write_at(content, 0).expect("a write");
        file.sync().expect("a sync");
    }

    fn write_digests(
        &self,
        number: usize,
        delta: Option<&Vec<Option<Block>>>,
        size: backy_lib::BlockSize,
    ) {
        let revision = &self.revisions[number];
        let kind = if number == 0 { DigestsKind::Image } else { DigestsKind::Delta };
        let blocks = size.count(revision.size_bytes);
        let name = (revision.uuid, kind);
        let mut digests = DigestWriter::create(&self.disk, name, blocks).expect("a file");
        for (block, at) in self.images[number].iter().zip(0..) {
            if delta.is_none_or(|delta| delta[at as usize].is_some()) {
                digests.push(BlockIndex(at), entry(block.as_deref())).expect("an entry");
            }
        }
        digests.finish(&DigestsHeader::new(kind, revision, size)).expect("a digest file");
    }

    fn archive(&self) -> Archive {
        world::open(&self.disk).expect("an archive")
    }

    fn writer(&self) -> backy_lib::Result<ArchiveWriter> {
        ArchiveWriter::open(self.archive(), "a fuzzer", &Silent)
    }

    /// A whole restore, one with `--keep-going`, and a reader at random offsets return the same.
    fn check_reads(&self, number: usize) {
        let (archive, image) = (self.archive(), &self.images[number]);
        let size = archive.manifest().block_size;
        let strict = world::read_revision(&archive, number);
        let whole: Option<Vec<Vec<u8>>> = image.iter().cloned().collect();
        match (strict, whole) {
            (Ok(found), Some(whole)) => assert!(found == whole.concat(), "{number} is wrong"),
            (Err(error), Some(_)) => panic!("{number} cannot be read: {error}"),
            (Ok(_), None) => panic!("{number} reads, but not block by block"),
            (Err(_), None) => {}
        }
        let target = MemoryTarget::absent();
        let options =
            RestoreOptions { keep_going: true, threads: Some(1), ..RestoreOptions::default() };
        let going = archive
            .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
            .expect("what there is");
        let written = target.content();
        let reader = archive
            .open_reader(archive.id(number).unwrap(), &ReadCache::new(1 << 20))
            .expect("a reader");
        let mut buffer = vec![0; size.len()];
        for (block, at) in image.iter().zip(0..) {
            let extent = size.extent(BlockIndex(at), archive.revisions()[number].size_bytes);
            match (block, reader.read_at(&mut buffer, extent.offset)) {
                (Some(block), Ok(count)) => assert!(buffer[..count] == **block, "block {at}"),
                (Some(_), Err(error)) => panic!("{number}, block {at}: {error}"),
                (None, Ok(_)) => panic!("{number}, block {at} reads"),
                (None, Err(_)) => {}
            }
            let overlaps =
                |other: &Extent| other.offset < extent.end() && extent.offset < other.end();
            let named = going.unreadable.iter().any(overlaps);
            let part = &written[extent.offset as usize..extent.end() as usize];
            let right = block.as_ref().is_some_and(|block| part == block.as_slice());
            assert!(named || right, "{number}, block {at} is wrong, and it is not said");
            assert!(block.is_none() || !named, "{number}, block {at} is given up");
        }
    }

    /// Exports both deltas out of a real folder, since an export looks for its target beside the archive.
    fn check_exports(&self, folder: &Path) {
        let real = folder.join("archive");
        std::fs::create_dir_all(&real).expect("a folder");
        qemu::write_out(&self.disk, &real);
        let archive = Archive::open(&real).expect("the same archive");
        [1, 2].into_iter().for_each(|number| self.check_export(&archive, number, folder));
    }

    /// What can be read in full can be exported, and reads the same by itself. What cannot leaves no file.
    fn check_export(&self, archive: &Archive, number: usize, folder: &Path) {
        let path = folder.join(format!("{number}.qcow2"));
        let options = ExportOptions { level: Some(1), threads: Some(1) };
        let whole: Option<Vec<Vec<u8>>> = self.images[number].iter().cloned().collect();
        let done = export(archive, archive.id(number).unwrap(), &path, &options, &Silent);
        let Some(whole) = whole else {
            assert!(done.is_err() && !path.exists(), "an export of what cannot be read");
            return;
        };
        done.unwrap_or_else(|error| panic!("{number} is not exported: {error}"));
        #[expect(clippy::disallowed_methods, reason = "not a file of the archive")]
        let (content, removed) = (std::fs::read(&path), std::fs::remove_file(&path));
        removed.expect("it is there");
        let storage = OneFile(content.expect("the export"));
        let size = archive.manifest().block_size;
        let (revision, bytes) = (self.revisions[number].uuid, self.revisions[number].size_bytes);
        let delta = Delta::open(&storage, revision, size, bytes).expect("the export");
        assert_eq!(delta.header().backing, None);
        let blocks = held(&delta, size.count(bytes)).expect("its tables");
        for (found, mut expected) in blocks.into_iter().zip(whole) {
            expected.resize(size.len(), 0);
            let found = found.unwrap_or_else(|| Some(vec![0; size.len()]));
            assert!(found.as_ref() == Some(&expected), "the export of {number} is wrong");
        }
    }
}

/// The digest of a block. For one that cannot be read, a digest that matches nothing.
fn entry(block: Option<&[u8]>) -> TableEntry {
    block.map_or(TableEntry([1; 32]), TableEntry::of_block)
}

/// Blocks for the other delta: some zero, some compressed, some plain, some not held.
fn other(size_bytes: u64, blocks: u64, len: usize) -> Vec<Option<Block>> {
    let mut random = backy_lib::storage::sim::Random(size_bytes);
    let block = |number: u64| match number % 5 {
        0 => Some(Some(vec![0; len])),
        1 => Some(Some(vec![number as u8; len])),
        2 => Some(Some((0..len).map(|_| random.number() as u8).collect())),
        _ => None,
    };
    (0..blocks).map(block).collect()
}

fn write_delta(
    disk: &SimStorage,
    revision: RevisionId,
    size: backy_lib::BlockSize,
    size_bytes: u64,
    blocks: &[Option<Block>],
    backing: Backing,
) {
    let file = disk.create(FileName::Delta(revision)).expect("a file");
    let writer = DeltaWriter::create_in(file, size, size_bytes, Some(backing));
    let mut writer = writer.expect("a delta");
    let mut compressor = Compressor::new(1).expect("memory");
    let old = blocks.iter().zip(0..).filter_map(|(block, number)| {
        let bytes = block.as_ref()?.as_ref()?;
        let content = match bytes.iter().all(|&byte| byte == 0) {
            true => StoredBlock::Zero,
            false => compressor.store(bytes),
        };
        Some(OldBlock { block: BlockIndex(number), content })
    });
    let old: Vec<OldBlock> = old.collect();
    writer.append(&old).expect("an append");
    writer.enter().expect("entries");
    writer.finish().expect("an end");
}
