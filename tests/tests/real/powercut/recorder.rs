//! A file system on a device whose writes are logged: `qemu-storage-daemon` with `blklogwrites`, exported as a file
//! by FUSE, a loop device on that, and the file system on it. Everything is removed with its value, whatever happens
//! in the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use backy_tests::qemu::skipped;
use tempfile::TempDir;

use super::log::Log;
use crate::disks::{LoopDevice, loops_available};
use crate::site::works;

/// A file system and how it is made.
#[derive(Clone, Copy)]
pub(crate) struct FileSystem {
    pub(crate) kind: &'static str,
    bytes: u64,
    mkfs: &'static [&'static str],
}

impl FileSystem {
    /// Its tables are written at once, so that nothing in the background does it later.
    pub(crate) const EXT4: FileSystem = FileSystem {
        kind: "ext4",
        bytes: 160 << 20,
        mkfs: &["-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    };
    /// The smallest that `mkfs.xfs` makes, and a little.
    pub(crate) const XFS: FileSystem =
        FileSystem { kind: "xfs", bytes: 320 << 20, mkfs: &["-m", "reflink=1"] };

    fn make(self, image: &Path) -> bool {
        File::create(image).and_then(|file| file.set_len(self.bytes)).expect("make the image");
        let mut mkfs = Command::new(format!("mkfs.{}", self.kind));
        mkfs.arg("-q").args(self.mkfs).arg(image).stdout(Stdio::null()).stderr(Stdio::null());
        mkfs.status().is_ok_and(|status| status.success())
    }
}

/// A file system that is mounted.
pub(crate) struct Mounted {
    mountpoint: PathBuf,
    /// Detached after it was unmounted.
    _device: LoopDevice,
}

impl Mounted {
    /// Mounts an image, replaying its journal, or says why that is impossible.
    pub(crate) fn mount(kind: &str, image: &Path, mountpoint: &Path) -> Result<Self, String> {
        fs::create_dir_all(mountpoint).expect("make the mount point");
        let device = LoopDevice::attach(image, &[]);
        let mut mount = Command::new("mount");
        mount.args(["-t", kind]).arg(&device.path).arg(mountpoint);
        if kind == "xfs" {
            // The disk before may still be mounted in the namespace of some other process, and has the same name.
            mount.args(["-o", "nouuid"]);
        }
        let output = mount.output().map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(Mounted { mountpoint: mountpoint.to_owned(), _device: device }),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for options in [&[][..], &["--lazy"]] {
            let mut umount = Command::new("umount");
            umount.args(options).arg(&self.mountpoint).stderr(Stdio::null());
            // A test that already panics must not abort.
            if umount.status().is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

/// The daemon that logs.
struct Daemon {
    child: Child,
    export: PathBuf,
}

impl Daemon {
    /// Serves `folder/disk` as `folder/export`, with its log in `folder/log`. Returns the reason when it cannot.
    fn start(folder: &Path) -> Result<Self, String> {
        let export = folder.join("export");
        for name in ["export", "log"] {
            File::create(folder.join(name)).expect("make a file");
        }
        let file = |name: &str| {
            let path = folder.join(name);
            format!("driver=file,node-name={name},filename={}", path.display())
        };
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &file("disk"), "--blockdev", &file("log")]);
        command.args(["--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log"]);
        let target = format!("mountpoint={},writable=on", export.display());
        command.args(["--export", &format!("type=fuse,id=export,node-name=logged,{target}")]);
        let words = File::create(folder.join("words")).expect("make a file");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
        let child = command.spawn().map_err(|error| format!("qemu-storage-daemon: {error}"))?;
        let mut daemon = Daemon { child, export };
        let began = Instant::now();
        while fs::metadata(&daemon.export).is_ok_and(|found| found.len() == 0) {
            let ended = daemon.child.try_wait().expect("look after the daemon").is_some();
            if ended || began.elapsed() > Duration::from_secs(30) {
                let words = fs::read_to_string(folder.join("words")).unwrap_or_default();
                return Err(format!("qemu-storage-daemon exports nothing: {words}"));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn end(&mut self) -> bool {
        // `Child::kill` would leave no time to write the log's superblock.
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").arg(pid).status().is_ok_and(|status| status.success());
        let began = Instant::now();
        while asked && began.elapsed() < Duration::from_secs(30) {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.success(),
                _ => sleep(Duration::from_millis(20)),
            }
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) && !self.end() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // It unmounts by itself, unless it was killed.
        let mut umount = Command::new("umount");
        let _ = umount.arg("--lazy").arg(&self.export).stderr(Stdio::null()).status();
    }
}

/// A file system that is being written to and logged.
pub(crate) struct Recorder {
    file_system: FileSystem,
    // In the order of removal.
    mounted: Mounted,
    daemon: Daemon,
    folder: TempDir,
}

/// What was logged.
pub(crate) struct Recorded {
    pub(crate) kind: &'static str,
    pub(crate) log: Log,
    /// With the disk as it was when the log began, `start`, and space for the disks to come.
    pub(crate) folder: TempDir,
}

impl Recorder {
    /// Makes the file system. Prints `SKIPPED` and returns nothing where that is impossible.
    pub(crate) fn start(file_system: FileSystem) -> Option<Self> {
        if !loops_available() || !backy_tests::qemu::available() {
            return None;
        }
        let folder = scratch();
        let disk = folder.path().join("disk");
        if !file_system.make(&disk) {
            skipped(&format!("mkfs.{} is not installed", file_system.kind));
            return None;
        }
        let start = folder.path().join("start");
        works(Command::new("cp").arg("--sparse=always").arg(&disk).arg(start));
        let daemon = match Daemon::start(folder.path()) {
            Ok(daemon) => daemon,
            Err(why) => {
                skipped(&why);
                return None;
            }
        };
        let mountpoint = folder.path().join("mnt");
        let mounted = match Mounted::mount(file_system.kind, &daemon.export, &mountpoint) {
            Ok(mounted) => mounted,
            Err(why) => {
                skipped(&format!("{} cannot be mounted here: {why}", file_system.kind));
                return None;
            }
        };
        Some(Recorder { file_system, mounted, daemon, folder })
    }

    /// Where the file system is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// A folder that is not on it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How long the log is now: it contains everything that was reported durable.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(self.folder.path().join("log")).expect("look up the log").len()
    }

    /// Unmounts it and ends the log.
    pub(crate) fn finish(self) -> Recorded {
        let Recorder { file_system, mounted, mut daemon, folder } = self;
        drop(mounted);
        assert!(daemon.end(), "the daemon does not end");
        let log = Log::read(&folder.path().join("log"));
        fs::remove_file(folder.path().join("disk")).expect("remove the disk");
        Recorded { kind: file_system.kind, log, folder }
    }
}

/// A folder in memory where there is space, so that a moment costs less than a second.
fn scratch() -> TempDir {
    const ROOM: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize > ROOM);
    let folder = match has_room {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.expect("a temporary folder")
}
