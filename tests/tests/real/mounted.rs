//! An archive that is mounted, and unmounted with the value, whatever happens in the test.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use backy_lib::RevisionId;
use backy_tests::qemu::skipped;
use rustix::fs::Advice;
use tempfile::TempDir;

use crate::site::{Site, text, unmounts, works};

/// Whether FUSE works here. Prints `SKIPPED` when not.
pub(crate) fn fuse_available() -> bool {
    let found = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !found {
        skipped("/dev/fuse cannot be opened here");
    }
    found
}

/// A folder to mount on, on which nothing is left mounted.
pub(crate) struct Mountpoint {
    pub(crate) path: PathBuf,
    // Dropped after it was unmounted.
    _temp: TempDir,
}

impl Mountpoint {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let path = temp.path().join("mnt");
        fs::create_dir(&path).expect("make the mountpoint");
        Mountpoint { path, _temp: temp }
    }

    /// Whether anything is mounted there.
    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("list what is mounted");
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(text(&self.path)))
    }

    /// Mounts a device or file that is on a mounted revision.
    pub(crate) fn mount(&self, options: &str, what: &Path) {
        works(Command::new("mount").args(["-o", options]).arg(what).arg(&self.path));
    }

    /// `umount`, which has to work.
    pub(crate) fn unmount(&self) {
        unmounts(Command::new("umount").arg(&self.path));
    }

    /// The background processes that serve it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let folders = fs::read_dir("/proc").expect("list processes").flatten();
        let numbers = folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let serves = |process: &u32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let mut words = line.split(|&byte| byte == 0);
            words.any(|word| word == b"--background-half")
                && words.any(|word| word == text(&self.path).as_bytes())
        };
        numbers.filter(serves).collect()
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        // It does not matter if it is unmounted already. Twice, for what is mounted over something.
        for _ in 0..2 {
            let mut umount = Command::new("umount");
            let _ = umount.arg("--lazy").arg(&self.path).stderr(Stdio::null()).status();
        }
    }
}

/// An archive, mounted.
pub(crate) struct Mount {
    pub(crate) on: Mountpoint,
}

impl Mount {
    /// `backy mount ARGS` on a new folder, which has to work silently. Prints a message and returns nothing where
    /// there is no FUSE.
    pub(crate) fn make(site: &Site, args: &[&str]) -> Option<Self> {
        if !fuse_available() {
            return None;
        }
        let on = Mountpoint::new();
        let mut command = site.backy(&["mount"]);
        let said = works(command.args(args).arg(&on.path));
        assert_eq!(said, b"", "a mount that works says nothing");
        assert!(on.is_mounted(), "it has returned and is not mounted");
        Some(Mount { on })
    }

    /// Something in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.on.path.join(name)
    }

    /// The file of a revision.
    pub(crate) fn file(&self, revision: RevisionId) -> PathBuf {
        self.path(&revision.to_string())
    }

    /// Unmounts. The process ends soon after.
    pub(crate) fn unmount(self) {
        self.on.unmount();
        until("its process has ended", || self.on.processes().is_empty());
    }
}

/// Waits until a condition holds. The limit is long, as a disk that is busy with something else can hold a daemon up
/// for many seconds; only what never comes about takes so long.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never comes about that {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Drops what the kernel has cached of a file, so that it has to read again.
pub(crate) fn forget_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("fadvise");
}

/// All bytes of an open file, read again.
pub(crate) fn read_anew(file: &File) -> Vec<u8> {
    forget_pages(file);
    let size = file.metadata().expect("look up an open file").len();
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0).expect("read an open file");
    bytes
}

/// The digests of all files of a folder, by another program.
pub(crate) fn digests(folder: &Path) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "cd \"$1\" && find . -type f | sort | xargs -d '\\n' sha256sum", "sh"]);
    String::from_utf8(works(command.arg(folder))).expect("digests")
}

/// `backy mount -f`, which is killed with the value if it has not ended.
pub(crate) struct Front {
    child: Option<Child>,
    pub(crate) on: Mountpoint,
}

impl Front {
    /// Starts it and waits until it is mounted.
    pub(crate) fn start(site: &Site, args: &[&str]) -> Self {
        let on = Mountpoint::new();
        let backy = site.backy(&["mount", "-f"]);
        // The test may itself run with signals ignored.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM,HUP").arg(backy.get_program());
        command.args(backy.get_args()).args(args).arg(&on.path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = Some(command.spawn().expect("start backy"));
        let front = Front { child, on };
        until("it is mounted", || front.on.path.join("by-number").exists());
        front
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().expect("a process").id()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.process(), name);
    }

    /// Waits until it has ended. Returns its exit status, its output, and where it was mounted.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().expect("a process");
        until("it has ended", || child.try_wait().expect("look after it").is_some());
        let output = child.wait_with_output().expect("wait for it");
        assert!(!self.on.is_mounted(), "it has ended and is still mounted");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Where all went well, it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(process: u32, name: &str) {
    works(Command::new("kill").args(["-s", name, &process.to_string()]));
}
