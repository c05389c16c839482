//! The simulated disk against real ones: the same calls in the same order have the same results. What the other tests
//! conclude from the simulation holds as far as this does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use backy_lib::RevisionId;
use backy_lib::extent::Extent;
use backy_lib::storage::dir::DirStorage;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::storage::{
    Access, DigestsKind, FileName, Storage, StorageFile, StorageLock, staged,
};
use backy_lib::{ErrorKind, Result};
use backy_tests::qemu;

use crate::disks::Disk;
use crate::holeless::HoleLess;
use crate::mounted::Mountpoint;

/// Calls in one life of a folder.
const CALLS: usize = 250;
/// No file becomes longer; a few pages, so that calls meet each other.
const LIMIT_BYTES: u64 = 40 << 10;

/// A call, with all its arguments.
#[derive(Debug, Clone)]
enum Call {
    Open(FileName, Access),
    Create(FileName),
    /// The last: bytes at the beginning that are left out.
    Clone(FileName, FileName, u64),
    Rename(FileName, FileName),
    Remove(FileName),
    List,
    SyncFolder,
    Publish(Vec<u8>),
    StoredBytes(FileName),
    Lock,
    LockAgain,
    Unlock,
    LockHolder,
    /// Of the open file with this number.
    Len(usize),
    IsInPlace(usize),
    Read(usize, u64, usize),
    Bypass(usize),
    Write(usize, u64, Vec<u8>),
    SetLen(usize, u64),
    Allocate(usize, u64),
    Punch(usize, Extent),
    NextData(usize, u64),
    Sync(usize),
    Close(usize),
}

/// A folder and the files in it that are open.
struct Hand<'a> {
    storage: &'a dyn Storage,
    files: Vec<Option<Box<dyn StorageFile>>>,
    lock: Option<Box<dyn StorageLock>>,
}

/// The part of a call's result that has to be the same.
type Outcome = std::result::Result<String, ErrorKind>;

impl Hand<'_> {
    fn new(storage: &dyn Storage) -> Hand<'_> {
        Hand { storage, files: Vec::new(), lock: None }
    }

    fn file(&self, number: usize) -> &dyn StorageFile {
        self.files[number].as_deref().expect("a file that is open")
    }

    /// Makes a call. A file that it opens gets the next number. One that could not be opened leaves its number free.
    fn make(&mut self, call: &Call) -> Outcome {
        let kind = |error: backy_lib::Error| error.kind();
        let unit = |done: Result<()>| done.map(|()| String::new()).map_err(kind);
        let mut keep = |opened: Result<Box<dyn StorageFile>>| match opened {
            Ok(file) => {
                self.files.push(Some(file));
                Ok(String::new())
            }
            Err(error) => Err(error.kind()),
        };
        match *call {
            Call::Open(name, access) => keep(self.storage.open(name, access)),
            Call::Create(name) => keep(self.storage.create(name)),
            Call::Rename(from, to) => unit(self.storage.rename(from, to)),
            Call::Remove(name) => unit(self.storage.remove(name)),
            Call::List => {
                let names = self.storage.list().map_err(kind)?;
                // The real lock is a file.
                let names = names.iter().filter(|name| **name != FileName::Lock);
                Ok(names.map(|name| format!("{name} ")).collect())
            }
            Call::SyncFolder => unit(self.storage.sync_folder()),
            Call::Publish(ref content) => {
                let published = backy_lib::storage::Published::Manifest;
                let token = backy_lib::storage::StagingToken::FIRST;
                unit(staged::publish(self.storage, published, token, content))
            }
            Call::StoredBytes(name) => {
                self.storage.stored_bytes(name).map(|_| String::new()).map_err(kind)
            }
            Call::Clone(from, to, skip_bytes) => {
                let made = self.storage.clone_file(from, to, skip_bytes).map_err(kind)?;
                // Where the copy is possible, it is used; where it is not, there is none.
                let Some(copy) = made else { return Ok("no clones".to_owned()) };
                let content = whole(&*copy).map_err(kind)?;
                self.files.push(Some(copy));
                Ok(format!("{content:?}"))
            }
            Call::Lock | Call::LockAgain => {
                let mut locked = self.storage.lock("a test");
                // A command that another test is starting has a copy of the open files until it runs, also
                // of those closed since.
                for _ in 0..100 {
                    if locked.is_ok() || self.lock.is_some() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    locked = self.storage.lock("a test");
                }
                let lock = locked.map_err(kind)?;
                self.lock.get_or_insert(lock);
                Ok(String::new())
            }
            Call::Unlock => {
                self.lock = None;
                Ok(String::new())
            }
            Call::LockHolder => {
                let holder = self.storage.lock_holder().map_err(kind)?;
                Ok(holder.is_some().to_string())
            }
            Call::Len(file) => self.file(file).len().map(|len| len.to_string()).map_err(kind),
            Call::IsInPlace(file) => {
                self.file(file).is_in_place().map(|is| is.to_string()).map_err(kind)
            }
            Call::Read(file, offset, len) => {
                let mut buffer = vec![0xee; len];
                let found = self.file(file).read_at(&mut buffer, offset).map_err(kind)?;
                Ok(format!("{:?}", &buffer[..found]))
            }
            Call::Bypass(file) => {
                self.file(file).bypass_cache();
                Ok(String::new())
            }
            Call::Write(file, offset, ref data) => unit(self.file(file).write_at(data, offset)),
            Call::SetLen(file, len) => unit(self.file(file).set_len(len)),
            Call::Allocate(file, bytes) => unit(self.file(file).allocate(bytes)),
            Call::Punch(file, extent) => unit(self.file(file).punch_hole(extent)),
            // More may be reported as data than there is; `check_data` checks that.
            Call::NextData(file, offset) => {
                self.check_data(file, offset);
                Ok(String::new())
            }
            Call::Sync(file) => unit(self.file(file).sync()),
            Call::Close(file) => {
                self.files[file] = None;
                Ok(String::new())
            }
        }
    }

    /// Extents of data from an offset on are in order, within the file, and have all bytes that are not zero.
    fn check_data(&self, number: usize, offset: u64) {
        let file = self.file(number);
        let content = whole(file).expect("read a file");
        let mut at = offset;
        while let Some(data) = file.next_data(at).expect("seek data") {
            assert!(data.offset >= at && data.len > 0, "from {at}: {data:?}");
            assert!(data.end() <= content.len() as u64, "past the end: {data:?}");
            check_zero(&content, at, data.offset);
            at = data.end();
        }
        check_zero(&content, at, content.len() as u64);
    }
}

fn check_zero(content: &[u8], from: u64, to: u64) {
    let hole = content.get(from as usize..to as usize).unwrap_or_default();
    assert!(hole.iter().all(|&byte| byte == 0), "data in the hole from {from} to {to}");
}

fn whole(file: &dyn StorageFile) -> Result<Vec<u8>> {
    let mut content = vec![0; file.len()? as usize];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}

fn names() -> Vec<FileName> {
    let uuid = |last: u32| -> RevisionId {
        format!("01a1f6ae-9900-7652-8027-00000000000{last}").parse().expect("a UUID")
    };
    vec![
        FileName::IMAGE,
        FileName::STAGED_IMAGE,
        FileName::MANIFEST,
        FileName::Delta(uuid(1)),
        FileName::Digests(uuid(1), DigestsKind::Image),
        FileName::History,
    ]
}

/// The next call. `open`: the numbers of the open files, and whether they are writable.
fn next_call(random: &mut Random, open: &BTreeMap<usize, bool>, locked: bool) -> Call {
    let names = names();
    let mut name = || names[random.below(names.len() as u64) as usize];
    let (one, other) = (name(), name());
    let any = (!open.is_empty())
        .then(|| open.iter().nth(random.below(open.len() as u64) as usize))
        .flatten();
    let (Some((&file, &writable)), true) = (any, random.below(4) > 0) else {
        return match random.below(12) {
            0..=2 => Call::Create(one),
            3 => Call::Open(one, Access::Read),
            // On a real disk, image locks refuse a second writer of the same file.
            4 if one != FileName::IMAGE => Call::Open(one, Access::Write),
            5 if one != other => Call::Clone(one, other, random.below(3) * 4096),
            6 if one != other => Call::Rename(one, other),
            7 => Call::Remove(one),
            8 => Call::List,
            9 => Call::StoredBytes(one),
            10 => Call::Publish(vec![7; random.below(9000) as usize]),
            _ => match (locked, random.below(4)) {
                (_, 0) => Call::SyncFolder,
                (_, 1) => Call::LockHolder,
                (true, 2) => Call::LockAgain,
                (true, _) => Call::Unlock,
                (false, _) => Call::Lock,
            },
        };
    };
    let offset = random.below(LIMIT_BYTES);
    let len = random.below(2 + (LIMIT_BYTES - offset).min(13_000));
    // The real one checks for permission. Nobody writes to a file that he opened for reading.
    match random.below(if writable { 14 } else { 6 }) {
        0 | 1 => Call::Read(file, offset, len as usize),
        2 => Call::NextData(file, offset),
        3 => Call::Len(file),
        4 => Call::IsInPlace(file),
        5 if random.below(3) == 0 => Call::Close(file),
        5 => Call::Bypass(file),
        6..=8 => Call::Write(file, offset, vec![1 + (offset % 200) as u8; len as usize]),
        9 => Call::SetLen(file, offset),
        10 => Call::Allocate(file, 1 + offset),
        11 | 12 => Call::Punch(file, Extent::new(offset, len)),
        _ => Call::Sync(file),
    }
}

/// One life of a folder in both. `may_lack`: calls that a file system need not support.
fn live(seed: u64, folder: &Path, clones: bool, may_lack: fn(&Call) -> bool) {
    let real = DirStorage::open(folder).expect("open a folder");
    let simulated = SimStorage::new(clones);
    let (mut real, mut simulated) = (Hand::new(&real), Hand::new(&simulated));
    let mut random = Random(seed);
    let mut open = BTreeMap::new();
    let mut made: Vec<String> = Vec::new();
    for _ in 0..CALLS {
        let call = next_call(&mut random, &open, simulated.lock.is_some());
        made.push(format!("{call:?}").chars().take(120).collect());
        // The inode number alone, which the real one checks, does not show whether somebody else has the lock.
        let nobody = matches!(call, Call::LockHolder) && simulated.lock.is_none();
        if may_lack(&call) || nobody {
            continue;
        }
        let opened = simulated.files.len();
        let told = || format!("seed {seed} in {}:\n{}", folder.display(), made.join("\n"));
        let (expected, found) = (simulated.make(&call), real.make(&call));
        assert!(found == expected, "{found:?} instead of {expected:?}: {}", told());
        assert_eq!(real.files.len(), simulated.files.len(), "{}", told());
        if simulated.files.len() > opened {
            open.insert(opened, !matches!(call, Call::Open(_, Access::Read)));
        }
        if let Call::Close(file) = call {
            open.remove(&file);
        }
        for &file in open.keys() {
            let [expected, found] = [&simulated, &real].map(|hand| whole(hand.file(file)));
            let [expected, found] = [expected, found].map(|content| content.expect("a file"));
            assert!(expected == found, "file {file} is another one: {}", told());
        }
    }
    for file in open.keys() {
        real.check_data(*file, 0);
        simulated.check_data(*file, 0);
    }
}

fn lives(place: &Path, seeds: std::ops::Range<u64>, clones: bool, may_lack: fn(&Call) -> bool) {
    for seed in seeds {
        let folder = place.join(format!("life-{seed}"));
        std::fs::create_dir(&folder).expect("make a folder");
        live(seed, &folder, clones, may_lack);
    }
}

fn can_all(_: &Call) -> bool {
    false
}

/// Every call of a file works behind 4 GiB, past the page cache and through it, and leaves what is 4 GiB before as it
/// is.
#[test]
fn a_file_may_be_longer_than_4_gib() {
    backy_tests::canary::plant();
    let temp = tempfile::tempdir().expect("a temporary folder");
    let storage = DirStorage::open(temp.path()).expect("open a folder");
    let border = 1_u64 << 32;
    for (name, bypass) in names().into_iter().zip([false, true]) {
        let file = storage.create(name).expect("create a file");
        if bypass {
            file.bypass_cache();
        }
        file.set_len(border + 300_000).expect("set its length");
        assert_eq!(file.len().expect("a length"), border + 300_000);
        let places = [0, 100_000, border - 50, border + 100_000, border + 299_000];
        for (seed, place) in (1..).zip(places) {
            let bytes = crate::site::noise(seed, 1000);
            file.write_at(&bytes, place).expect("write");
        }
        let mut buffer = vec![0; 1000];
        for (seed, place) in (1..).zip(places) {
            assert_eq!(file.read_at(&mut buffer, place).expect("read"), 1000);
            assert!(buffer == crate::site::noise(seed, 1000), "{bypass}: at {place}");
        }
        assert_eq!(file.len().expect("a length"), border + 300_000);
        file.sync().expect("sync");
        let data = file.next_data(border + 50_000).expect("seek").expect("data");
        assert!(data.end() > border + 100_000, "{data:?}");
        file.punch_hole(Extent::new(border + 100_000, 1000)).expect("punch");
        file.read_at(&mut buffer, border + 100_000).expect("read");
        assert!(buffer.iter().all(|&byte| byte == 0), "{bypass}: it is not cleared");
        file.read_at(&mut buffer, 100_000).expect("read");
        assert!(buffer == crate::site::noise(2, 1000), "{bypass}: it is cleared elsewhere");
        assert_eq!(file.read_at(&mut buffer, border + 299_500).expect("read"), 500);
        assert!(file.allocated_bytes().expect("what it takes") < 1 << 20);
        assert!(storage.stored_bytes(name).expect("what it takes") < 1 << 20);
    }
}

/// In a temporary folder.
#[test]
fn a_temporary_folder_behaves_like_the_simulation() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    // The file system there may or may not be able to clone.
    lives(temp.path(), 0..60, false, |call| matches!(call, Call::Clone(..)));
}

/// On ext4 and in memory, which cannot clone.
#[test]
fn file_systems_without_clones_behave_like_the_simulation() {
    if let Some(disk) = Disk::make("ext4", 64 << 20) {
        lives(disk.path(), 100..130, false, can_all);
    }
    let memory = Mountpoint::new();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "none"]).arg(&memory.path);
    match mount.status().is_ok_and(|status| status.success()) {
        true => lives(&memory.path, 200..230, false, can_all),
        false => qemu::skipped("tmpfs cannot be mounted here"),
    }
}

/// On XFS and btrfs, which can.
#[test]
fn file_systems_with_clones_behave_like_the_simulation() {
    for (kind, bytes, seed) in [("xfs", 320 << 20, 300), ("btrfs", 256 << 20, 400)] {
        if let Some(disk) = Disk::make(kind, bytes) {
            lives(disk.path(), seed..seed + 30, true, can_all);
        }
    }
}

/// On a file system that supports less, and that does only a part of each request.
#[test]
fn limited_file_systems_behave_like_the_simulation() {
    let lacks = |call: &Call| matches!(call, Call::Allocate(..));
    if let Some(disk) = HoleLess::make(1 << 30) {
        lives(disk.path(), 500..520, false, lacks);
    }
    if let Some(disk) = HoleLess::make_short() {
        lives(disk.path(), 600..620, false, lacks);
    }
}

/// On one whose calls are interrupted.
#[test]
fn interrupted_file_systems_behave_like_the_simulation() {
    if let Some(disk) = HoleLess::make_interrupted() {
        lives(disk.path(), 700..720, false, |call| matches!(call, Call::Allocate(..)));
    }
}
