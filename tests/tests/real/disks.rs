//! Loop devices and small file systems, which are removed with their value, whatever happens in the test.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backy_tests::qemu;
use tempfile::TempDir;

use crate::site::works;

/// Whether loop devices are possible here. Prints `SKIPPED` when not.
pub(crate) fn loops_available() -> bool {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(1 << 20).expect("make it long enough");
    let found = LoopDevice::try_attach(file.path(), &[]).is_some();
    if !found {
        qemu::skipped("no loop device can be made here: that needs root and /dev/loop-control");
    }
    found
}

/// A loop device.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    /// A loop device over a file, with more options for `losetup`.
    pub(crate) fn attach(file: &Path, options: &[&str]) -> Self {
        Self::try_attach(file, options).expect("losetup")
    }

    fn try_attach(file: &Path, options: &[&str]) -> Option<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).args(options).arg(file);
        let output = command.stderr(Stdio::null()).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?.trim_end().to_owned();
        (output.status.success() && !path.is_empty()).then(|| LoopDevice { path: path.into() })
    }

    /// Applies the new length of the file.
    pub(crate) fn resized(&self) {
        works(Command::new("losetup").arg("--set-capacity").arg(&self.path));
    }

    /// Writes through the device, so that no cache has other content.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) {
        let device = File::options().write(true).open(&self.path).expect("open the loop device");
        device.write_all_at(bytes, offset).expect("write to the loop device");
        device.sync_all().expect("sync the loop device");
    }

    /// All that is on the device.
    pub(crate) fn read(&self) -> Vec<u8> {
        fs::read(&self.path).expect("read the loop device")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A test that already panics must not abort. The device is busy at worst.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// A file system in a file, mounted.
pub(crate) struct Disk {
    mountpoint: PathBuf,
    // Dropped after the others: holds both the image and the mount point.
    _temp: TempDir,
    pub(crate) device: LoopDevice,
}

impl Disk {
    /// A new file system of `bytes`. Prints `SKIPPED` and returns nothing where that is impossible.
    pub(crate) fn make(kind: &str, bytes: u64) -> Option<Self> {
        if !loops_available() {
            return None;
        }
        let temp = tempfile::tempdir().expect("a temporary folder");
        let image = temp.path().join("disk");
        let file = File::create(&image).expect("make the image");
        file.set_len(bytes).expect("make the image long enough");
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        mkfs.arg("-q").arg(&image).stdout(Stdio::null()).stderr(Stdio::null());
        if kind == "ext4" {
            // No reserve for root: full is full.
            mkfs.args(["-m", "0"]);
        }
        if !mkfs.status().is_ok_and(|status| status.success()) {
            qemu::skipped(&format!("mkfs.{kind} is not installed"));
            return None;
        }
        let mountpoint = temp.path().join("mnt");
        fs::create_dir(&mountpoint).expect("make the mount point");
        let device = LoopDevice::attach(&image, &[]);
        let mut mount = Command::new("mount");
        mount.args(["-t", kind]).arg(&device.path).arg(&mountpoint);
        if !mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            qemu::skipped(&format!("{kind} cannot be mounted here"));
            return None;
        }
        Some(Disk { mountpoint, _temp: temp, device })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Bytes that can still be written.
    pub(crate) fn free_bytes(&self) -> u64 {
        works(Command::new("sync").arg("-f").arg(&self.mountpoint));
        let mut df = Command::new("df");
        let output = works(df.args(["--output=avail", "-B1"]).arg(&self.mountpoint));
        let text = String::from_utf8(output).expect("df prints text");
        text.lines().last().and_then(|line| line.trim().parse().ok()).expect("df prints a number")
    }

    /// Fills it with a file, but for `left` bytes.
    pub(crate) fn fill(&self, left: u64) -> Ballast {
        let ballast = Ballast { path: self.mountpoint.join("ballast") };
        File::create(&ballast.path).expect("make the ballast");
        // The file system keeps some space for its own tables, so one step does not fill it.
        let mut most = u64::MAX;
        while most >= 4096 {
            let free = self.free_bytes();
            if free <= left {
                break;
            }
            let step = (free - left).min(most);
            if !ballast.grow(step) {
                most = step / 2;
            }
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmount = |options: &[&str]| {
            let mut umount = Command::new("umount");
            umount.args(options).arg(&self.mountpoint).stderr(Stdio::null()).status()
        };
        if !unmount(&[]).is_ok_and(|status| status.success()) {
            // A test that already panics must not abort. A lazy unmount completes when the last user has ended.
            let _ = unmount(&["--lazy"]);
        }
    }
}

/// A file that takes up space.
pub(crate) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    fn grow(&self, bytes: u64) -> bool {
        let len = fs::metadata(&self.path).expect("look up the ballast").len().to_string();
        let mut fallocate = Command::new("fallocate");
        fallocate.args(["-o", &len, "-l", &bytes.to_string()]).arg(&self.path);
        fallocate.stderr(Stdio::null()).status().expect("run fallocate").success()
    }

    /// Frees space.
    pub(crate) fn remove(self) {
        fs::remove_file(self.path).expect("remove the ballast");
    }
}
