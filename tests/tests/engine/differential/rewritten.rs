//! Archives whose deltas QEMU has written to without changing their content.

use std::fs;
use std::path::Path;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::format::qcow2::{Cluster, HEADER_BYTES, Header, MAX_HEADER_BYTES};
use backy_lib::image::delta::Delta;
use backy_lib::progress::Silent;
use backy_lib::storage::FileName;
use backy_lib::storage::dir::DirStorage;
use backy_lib::storage::sim::Random;
use backy_lib::units::{BlockIndex, BlockSize};
use backy_lib::{MaintenanceOptions, Result, ScrubOptions};
use backy_tests::memory::MemorySource;
use backy_tests::qemu;
use backy_tests::world::{self, Expected};

use super::ours::{empty, later};
use super::tools::{Case, noise, qemu_img, qemu_io};

const BLOCK_BYTES: u64 = 4096;

/// The blocks of the first state: what the others have at the same place decides which blocks a delta holds.
const BLOCKS: usize = 30;

/// A way in which QEMU writes to a delta.
#[derive(Debug, Clone, Copy)]
enum Way {
    Amend,
    RebaseUnsafe,
    Rebase,
    /// Rebuilt the lost reference counts.
    CheckAndRepair,
    /// Wrote its blocks again as they are, with zeros as clusters that keep their data.
    WriteAgain,
    /// Rebuilt with `qemu-img convert`, which uses another layout.
    Convert(&'static str),
}

const WAYS: [Way; 8] = [
    Way::Amend,
    Way::RebaseUnsafe,
    Way::Rebase,
    Way::CheckAndRepair,
    Way::WriteAgain,
    Way::Convert("plain"),
    Way::Convert("zstd"),
    Way::Convert("zlib"),
];

/// What is done to the archive afterwards.
#[derive(Debug, Clone, Copy)]
enum Next {
    Scrub,
    Backup,
    /// The revision whose blocks move to the delta is deleted.
    MergeInto,
    /// The revision of the delta is deleted.
    MergeFrom,
    Standalone,
}

const NEXT: [Next; 5] =
    [Next::Scrub, Next::Backup, Next::MergeInto, Next::MergeFrom, Next::Standalone];

struct Site<'a> {
    folder: &'a Path,
    expected: Vec<Expected>,
}

impl Site<'_> {
    fn file(&self, number: usize) -> String {
        match number {
            0 => FileName::IMAGE.to_string(),
            _ => FileName::Delta(self.expected[number].uuid).to_string(),
        }
    }

    fn block_size(&self) -> BlockSize {
        BlockSize::new(BLOCK_BYTES).expect("a block size")
    }

    /// Has QEMU write to the delta of revision `number`.
    fn rewrite(&self, number: usize, way: Way) {
        let (file, base) = (self.file(number), self.file(number - 1));
        let format = if number == 1 { "raw" } else { "qcow2" };
        match way {
            Way::Amend => {
                qemu_img(
                    self.folder,
                    &["amend", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", &file],
                );
            }
            Way::RebaseUnsafe => {
                let args = ["rebase", "-q", "-u", "-f", "qcow2", "-b", &base, "-F", format, &file];
                qemu_img(self.folder, &args);
            }
            Way::Rebase => {
                let args = ["rebase", "-q", "-f", "qcow2", "-b", &base, "-F", format, &file];
                qemu_img(self.folder, &args);
            }
            Way::CheckAndRepair => {
                let path = self.folder.join(&file);
                let mut bytes = fs::read(&path).expect("read the delta");
                let header = Header::parse(&bytes[..HEADER_BYTES]).expect("its header");
                let table = header.refcount_table_offset as usize;
                bytes[table..table + 4096].fill(0);
                fs::write(&path, bytes).expect("write the delta");
                qemu_img(self.folder, &["check", "-q", "-r", "all", "-f", "qcow2", &file]);
            }
            Way::WriteAgain => self.write_again(number),
            Way::Convert(how) => {
                let compression = if how == "zlib" { "zlib" } else { "zstd" };
                let options = format!("cluster_size={BLOCK_BYTES},compression_type={compression}");
                let mut args = vec!["convert", "-q", "-f", "qcow2", "-O", "qcow2", "-B", &base];
                args.extend(["-F", format, "-o", &options]);
                args.extend((how != "plain").then_some("-c"));
                args.extend([file.as_str(), "new"]);
                qemu_img(self.folder, &args);
                fs::rename(self.folder.join("new"), self.folder.join(&file)).expect("rename it");
            }
        }
    }

    fn write_again(&self, number: usize) {
        let storage = DirStorage::open(self.folder).expect("the folder");
        let revision = &self.expected[number];
        let delta = Delta::open_any_size(&storage, revision.uuid, self.block_size());
        let blocks = self.block_size().count(revision.bytes.len() as u64);
        let clusters = delta.and_then(|delta| delta.clusters(BlockIndex(0), blocks));
        let mut commands = Vec::new();
        for (cluster, block) in clusters.expect("its clusters").into_iter().zip(0..) {
            let offset = block * BLOCK_BYTES;
            let rest = revision.bytes[offset as usize..].chunks(BLOCK_BYTES as usize).next();
            let mut content = rest.unwrap_or_default().to_vec();
            content.resize(content.len().next_multiple_of(512), 0);
            let bytes = content.len();
            match cluster {
                Cluster::Unallocated => {}
                Cluster::Zero => {
                    commands.push(format!("write -q -P 1 {offset} {bytes}"));
                    commands.push(format!("write -q -z {offset} {bytes}"));
                }
                Cluster::Plain { .. } | Cluster::Compressed { .. } => {
                    let name = format!("content-{block}");
                    fs::write(self.folder.join(&name), content).expect("write content");
                    commands.push(format!("write -q -s {name} {offset} {bytes}"));
                }
            }
        }
        assert!(commands.len() > 4, "the delta holds hardly anything");
        qemu_io(self.folder, &self.file(number), "qcow2", &commands);
    }

    fn archive(&self) -> Archive {
        Archive::open(self.folder).expect("the archive")
    }

    fn writer(&self) -> ArchiveWriter {
        ArchiveWriter::open(self.archive(), "a test", &Silent).expect("the lock")
    }

    fn remove(&mut self, number: usize) -> Result<()> {
        world::remove_by(&mut self.writer(), &[number])?;
        self.expected.remove(number);
        Ok(())
    }

    /// Does what comes next. An error comes from an operation that writes to the delta.
    fn go_on(&mut self, number: usize, next: Next) -> Result<()> {
        match next {
            Next::Scrub => {}
            Next::Backup => {
                let mut random = Random(number as u64);
                let state = later(&mut random, &self.expected[0].bytes, BLOCK_BYTES);
                let source = MemorySource::new(&state);
                let made =
                    self.writer().backup(&source, &world::options(), &world::clock(), &Silent);
                let uuid = made?.expect("a forced one").revision.uuid;
                self.expected.insert(0, Expected { uuid, bytes: state });
            }
            Next::MergeInto => self.remove(number - 1)?,
            Next::MergeFrom => self.remove(number)?,
            Next::Standalone => {
                let config = "source = \"/memory\"\nmax_chain = 1\n";
                fs::write(self.folder.join("backy.toml"), config).expect("write the config");
                let options = MaintenanceOptions { keep: Some(9), confirm: true, threads: Some(1) };
                self.writer().maintain(&options, &world::clock(), &Silent)?;
            }
        }
        Ok(())
    }

    /// Checks that all revisions read right, by QEMU as well, and that nothing is lost or reported as lost.
    fn check(&self, when: &str) {
        let archive = self.archive();
        assert_eq!(archive.revisions().len(), self.expected.len(), "{when}: revisions");
        for (number, revision) in self.expected.iter().enumerate() {
            let found = world::read_revision(&archive, number);
            let found = found.unwrap_or_else(|error| panic!("{when}: revision {number}: {error}"));
            assert!(found == revision.bytes, "{when}: revision {number} has wrong bytes");
        }
        qemu::check(self.folder, &self.expected, 0, true)
            .unwrap_or_else(|error| panic!("{when}: {error}"));
        let found = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
        assert_eq!(found.expect("a check").findings, [], "{when}");
    }

    fn scrub(&self) {
        let report = self.writer().scrub(&ScrubOptions::default(), &world::clock(), &Silent);
        assert_eq!(report.expect("a scrub").findings, []);
    }
}

/// States that each hold zero blocks, text and noise of their own, and that grow and shrink.
fn states() -> Vec<Vec<u8>> {
    let mut random = Random(77);
    let mut states = vec![noise(&mut random, BLOCKS * BLOCK_BYTES as usize)];
    for blocks in [BLOCKS + 5, BLOCKS - 4, BLOCKS + 2] {
        let mut state = states.last().cloned().unwrap_or_default();
        state.resize(blocks * BLOCK_BYTES as usize - 300, 7);
        for block in state.chunks_mut(BLOCK_BYTES as usize) {
            if random.flip() {
                world::fill_block(&mut random, block);
            }
        }
        states.push(state);
    }
    states
}

/// A delta that QEMU has amended, rebased, repaired, written to or rebuilt reads right and does not count as damaged.
/// It is right after whatever backy does next: a scrub, a backup, a merge to or from it, or making it standalone.
/// backy writes nothing to one with QEMU's own layout, and says so.
#[test]
fn revisions_stay_right_after_qemu_wrote_to_them() {
    if !qemu::available() {
        return;
    }
    let mut made = empty(BlockSize::new(BLOCK_BYTES).expect("a block size"));
    for state in states() {
        made.backup(&state);
    }
    for way in WAYS {
        for number in [1, 2] {
            for next in NEXT {
                // A merge into the nearest delta would delete the newest revision, which is no merge.
                if number == 1 && matches!(next, Next::MergeInto) {
                    continue;
                }
                let _case = Case(format!("revision {number}: {way:?}, then {next:?}"));
                let folder = tempfile::tempdir().expect("a temporary folder");
                qemu::write_out(&made.disk, folder.path());
                let mut site = Site { folder: folder.path(), expected: made.expected.clone() };
                site.rewrite(number, way);
                if matches!(next, Next::Scrub) {
                    site.check("before");
                    site.scrub();
                }
                if let Err(error) = site.go_on(number, next) {
                    let writes = matches!(next, Next::MergeInto | Next::Standalone);
                    let moves = matches!(way, Way::Convert(_) | Way::CheckAndRepair);
                    assert!(moves && writes, "{error}");
                    assert!(error.to_string().contains("it is not written to"), "{error}");
                }
                site.check("after");
            }
        }
    }
}

/// A scrub that finds damage in a delta of QEMU does not write tables over it where backy would have them: what can
/// be read of it stays.
#[test]
fn scrub_does_not_overwrite_clusters_that_qemu_allocated() {
    if !qemu::available() {
        return;
    }
    let mut made = empty(BlockSize::new(BLOCK_BYTES).expect("a block size"));
    for state in states() {
        made.backup(&state);
    }
    for what in ["header", "L2 entry"] {
        let _case = Case(format!("a damaged {what}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&made.disk, folder.path());
        let site = Site { folder: folder.path(), expected: made.expected.clone() };
        site.rewrite(2, Way::Convert("zstd"));
        let path = folder.path().join(site.file(2));
        let mut bytes = fs::read(&path).expect("read the delta");
        let header = Header::parse(&bytes[..MAX_HEADER_BYTES]).expect("its header");
        let number_at = |bytes: &[u8], at: usize| {
            let raw = bytes[at..].first_chunk().expect("eight bytes");
            (u64::from_be_bytes(*raw) & 0x00ff_ffff_ffff_fe00) as usize
        };
        let at = match what {
            "header" => 0,
            _ => number_at(&bytes, header.l1_offset as usize),
        };
        // No magic number, and an entry with a reserved bit.
        bytes[at..at + 8].copy_from_slice(&2u64.to_be_bytes());
        fs::write(&path, &bytes).expect("damage it");
        let report = site.writer().scrub(&ScrubOptions::default(), &world::clock(), &Silent);
        let findings = report.expect("a scrub").findings;
        assert!(findings.iter().any(|finding| finding.file == site.file(2)), "{findings:?}");
        assert!(fs::read(&path).expect("read the delta") == bytes, "the delta was written to");
        for number in 0..2 {
            let found = world::read_revision(&site.archive(), number).expect("a newer revision");
            assert!(found == site.expected[number].bytes, "revision {number} has wrong bytes");
        }
    }
}
