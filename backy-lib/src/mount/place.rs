//! The mountpoint: which folders qualify, and how to mount and unmount.
//!
//! Users with the permission mount by a system call, others through `fusermount3`, which returns the device
//! that connects to the kernel. A mount whose process was killed is a folder on which every access fails;
//! such a mount is detached first.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, major, minor, statx};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use rustix::process::{getegid, geteuid};

use crate::base::error::{Error, Result, describe_io, is_limit};
use crate::storage::mounts::{Mount, mounts};

const DEVICE: &str = "/dev/fuse";

/// The type of our mounts, as the system lists it.
const TYPE: &str = "fuse.backy";

/// Makes the kernel check the modes of files and folders. Without it, every admitted user may do everything.
const BY_MODE: &str = "default_permissions";

/// Mounts for users without the permission.
const HELPER: &str = "fusermount3";

/// Environment variable with the descriptor of the helper's socket.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// How far the kernel reads ahead of a sequential reader.
const READ_AHEAD_KIB: u32 = 1024;

/// Requests the number of a mount that is never reused. Since Linux 6.8. Source: `statx(2)`, `STATX_MNT_ID_UNIQUE`.
const UNIQUE_MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// More dead mounts on top of each other than anyone would leave.
const DEAD_LIMIT: usize = 64;

/// How to mount a file system.
pub(super) struct Wishes {
    /// The source in the system's list of mounts.
    pub(super) name: PathBuf,
    pub(super) read_only: bool,
    pub(super) allow_other: bool,
}

/// A folder to mount on.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// The device number of our file system, to tell it from others in the same place.
    number: OnceLock<u64>,
    /// The number of our mount that is never reused, if the kernel supports that.
    unique: OnceLock<u64>,
}

impl Place {
    /// Finds the folder, and detaches dead mounts of ours.
    pub(super) fn prepare(mountpoint: &Path) -> Result<Self> {
        let absolute = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
        let place = Place::at(absolute);
        let place = place.without_dead()?;
        let metadata = std::fs::metadata(&place.path).map_err(|error| place.unusable(error))?;
        if !metadata.is_dir() {
            return Err(place.error("it is not a folder; name an empty one".to_owned()));
        }
        let real = place.path.canonicalize().map_err(|error| place.unusable(error))?;
        let place = Place::at(real);
        if place.top().is_some_and(|mount| mount.kind == TYPE) {
            let message = "an archive is mounted here already; unmount it, or choose another";
            return Err(place.error(message.to_owned()));
        }
        Ok(place)
    }

    fn at(path: PathBuf) -> Self {
        Place { path, number: OnceLock::new(), unique: OnceLock::new() }
    }

    /// The folder, without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// [`Error::Mount`] with this place.
    pub(super) fn error(&self, message: String) -> Error {
        Error::Mount { path: self.path.clone(), message }
    }

    /// That an action failed. A limit of this process says nothing about the mountpoint.
    pub(super) fn failed(&self, action: &str, error: io::Error) -> Error {
        match is_limit(&error) {
            true => Error::io(&self.path, action)(error),
            false => self.error(format!("cannot {action}: {}", describe_io(&error))),
        }
    }

    fn unusable(&self, error: io::Error) -> Error {
        match error.kind() {
            _ if is_limit(&error) => self.failed("use it", error),
            io::ErrorKind::NotFound => {
                self.error("there is no such folder; make it first".to_owned())
            }
            _ => self.error(format!("it cannot be used: {}", describe_io(&error))),
        }
    }

    fn is_dead(&self) -> bool {
        matches!(rustix::fs::stat(&self.path), Err(Errno::NOTCONN | Errno::CONNABORTED))
    }

    /// Detaches our mount if it is no longer served, and nothing else.
    pub(super) fn clear(&self) {
        // Accessing a new mount in the same place would keep it in use for a moment, and its `umount` would fail.
        if self.unique.get().is_some_and(|own| self.unique_number() != Some(*own)) {
            return;
        }
        if self.is_dead() && self.top().is_some_and(|mount| mount.kind == TYPE) {
            // If that fails, the next mount in this place does it.
            let _ = self.remove(UnmountFlags::DETACH);
        }
    }

    /// Detaches mounts left by killed processes.
    fn without_dead(mut self) -> Result<Self> {
        for _ in 0..DEAD_LIMIT {
            if !self.is_dead() {
                return Ok(self);
            }
            // The folder above it works, and is needed without symbolic links to find the mount in the list.
            if let (Some(above), Some(name)) = (self.path.parent(), self.path.file_name())
                && let Ok(above) = above.canonicalize()
            {
                self.path = above.join(name);
            }
            self.check_dead(self.top().as_ref())?;
            self.remove(UnmountFlags::DETACH)?;
        }
        Ok(self)
    }

    /// Only mounts that backy made for this user may be detached: another user may still need theirs.
    fn check_dead(&self, mount: Option<&Mount>) -> Result<()> {
        let user = geteuid().as_raw().to_string();
        let what = match mount {
            Some(mount) if mount.kind == TYPE && mount.option("user_id") == Some(&user) => {
                return Ok(());
            }
            Some(mount) if mount.kind == TYPE => {
                let other = mount.option("user_id").unwrap_or("unknown");
                format!("an archive that user {other} has mounted")
            }
            Some(mount) => format!("a file system of type {}", mount.kind),
            None => "a file system".to_owned(),
        };
        Err(self.error(format!(
            "{what} is here, and the process that served it has ended; unmount it first, with \
             'umount -l' or 'fusermount3 -u -z'"
        )))
    }

    /// Mounts, and returns the device to serve the file system with.
    pub(super) fn take(&self, wishes: &Wishes) -> Result<OwnedFd> {
        let device = match self.take_directly(wishes) {
            Err(Refusal::NotAllowed) => self.take_by_helper(wishes)?,
            Err(Refusal::Other(error)) => return Err(error),
            Ok(device) => device,
        };
        if let Some(mount) = self.top().filter(|mount| mount.kind == TYPE) {
            let _ = self.number.set(mount.device);
        }
        if let Some(number) = self.unique_number() {
            let _ = self.unique.set(number);
        }
        Ok(device)
    }

    /// The number, never reused, of the mount in this place. Does not ask the process that serves it.
    fn unique_number(&self) -> Option<u64> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
        let found = statx(CWD, &self.path, flags, UNIQUE_MOUNT).ok()?;
        let told = StatxFlags::from_bits_retain(found.stx_mask).contains(UNIQUE_MOUNT);
        told.then_some(found.stx_mnt_id)
    }

    fn take_directly(&self, wishes: &Wishes) -> std::result::Result<OwnedFd, Refusal> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = match rustix::fs::open(DEVICE, flags, Mode::empty()) {
            Ok(device) => device,
            Err(Errno::ACCESS | Errno::PERM) => return Err(Refusal::NotAllowed),
            Err(errno) if is_limit(&errno.into()) => {
                let action = format!("open {DEVICE}");
                return Err(Refusal::Other(self.failed(&action, errno.into())));
            }
            Err(errno) => {
                let why = describe_io(&errno.into());
                return Err(Refusal::Other(self.error(format!(
                    "cannot open {DEVICE}: {why}; the kernel's module 'fuse' has to be loaded"
                ))));
            }
        };
        let mut options = format!(
            "fd={},rootmode=40000,user_id={},group_id={},{BY_MODE}",
            device.as_raw_fd(),
            geteuid().as_raw(),
            getegid().as_raw()
        );
        if wishes.allow_other {
            options.push_str(",allow_other");
        }
        let options = std::ffi::CString::new(options).map_err(|_| Refusal::NotAllowed)?;
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        flags.set(MountFlags::RDONLY, wishes.read_only);
        match rustix::mount::mount(&wishes.name, &self.path, TYPE, flags, &*options) {
            Ok(()) => Ok(device),
            Err(Errno::PERM) => Err(Refusal::NotAllowed),
            Err(Errno::NODEV) => Err(Refusal::Other(
                self.error("this kernel does not support FUSE; load its module 'fuse'".to_owned()),
            )),
            Err(errno) => Err(Refusal::Other(self.unusable(errno.into()))),
        }
    }

    fn take_by_helper(&self, wishes: &Wishes) -> Result<OwnedFd> {
        let failed = |error: io::Error| self.failed(&format!("run {HELPER}"), error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut name = Vec::new();
        for byte in wishes.name.as_os_str().as_bytes() {
            if b",\\".contains(byte) {
                name.push(b'\\');
            }
            name.push(*byte);
        }
        let access = if wishes.read_only { "ro" } else { "rw" };
        let other = if wishes.allow_other { ",allow_other" } else { "" };
        let mut options =
            format!("{access},nosuid,nodev,noexec,{BY_MODE}{other},subtype=backy,fsname=")
                .into_bytes();
        options.append(&mut name);
        // The socket is its standard input, which a child inherits without extra work.
        let output = Command::new(HELPER)
            .arg("-o")
            .arg(OsStr::from_bytes(&options))
            .arg("--")
            .arg(&self.path)
            .env(HELPER_SOCKET, "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .output();
        let output = output.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.error(format!(
                "only root may mount by itself, and there is no {HELPER}; install it (package fuse3), or mount as root"
            )),
            _ => failed(error),
        })?;
        match receive(&ours) {
            Some(device) if output.status.success() => Ok(device),
            _ => Err(self.error(refusal(&output))),
        }
    }

    /// Makes the kernel read further ahead than its default, so that several requests run at a time. Requires
    /// root; mounts of other users are slower.
    pub(super) fn read_far_ahead(&self) {
        let Some(number) = self.number.get() else { return };
        let (major, minor) = (major(*number), minor(*number));
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Ok(mut setting) = File::options().write(true).open(path) {
            let _ = write!(setting, "{READ_AHEAD_KIB}");
        }
    }

    /// Whether our file system is still mounted here.
    pub(super) fn is_ours(&self) -> bool {
        match (self.number.get(), mounts()) {
            (Some(number), Ok(mounts)) => mounts.iter().any(|mount| mount.device == *number),
            // Nothing shows that it is gone.
            _ => true,
        }
    }

    /// Unmounts our file system; no error if it is already unmounted.
    pub(super) fn unmount(&self) -> Result<()> {
        self.check_top()?.map_or(Ok(()), |()| self.remove(UnmountFlags::empty()))
    }

    /// The same, even if it is in use.
    pub(super) fn detach(&self) -> Result<()> {
        self.check_top()?.map_or(Ok(()), |()| self.remove(UnmountFlags::DETACH))
    }

    /// Whether unmounting would hit our file system; `None` if it is already unmounted.
    fn check_top(&self) -> Result<Option<()>> {
        if !self.is_ours() {
            return Ok(None);
        }
        match (self.top(), self.number.get()) {
            (Some(mount), Some(number)) if mount.device != *number => Err(self.error(
                "another file system is mounted over it; unmount that one first".to_owned(),
            )),
            _ => Ok(Some(())),
        }
    }

    fn remove(&self, flags: UnmountFlags) -> Result<()> {
        match rustix::mount::unmount(&self.path, flags) {
            Ok(()) => Ok(()),
            Err(Errno::PERM) => self.remove_by_helper(flags.contains(UnmountFlags::DETACH)),
            Err(Errno::BUSY) => Err(self.busy()),
            // Somebody else was faster.
            Err(Errno::INVAL) => Ok(()),
            Err(errno) => {
                Err(self.error(format!("cannot unmount it: {}", describe_io(&errno.into()))))
            }
        }
    }

    fn remove_by_helper(&self, detach: bool) -> Result<()> {
        let mut helper = Command::new(HELPER);
        helper.arg("-u");
        if detach {
            helper.arg("-z");
        }
        match helper.arg("--").arg(&self.path).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) if String::from_utf8_lossy(&output.stderr).contains("busy") => {
                Err(self.busy())
            }
            Ok(output) => Err(self.error(refusal(&output))),
            Err(error) => Err(self.error(format!("cannot run {HELPER}: {}", describe_io(&error)))),
        }
    }

    fn busy(&self) -> Error {
        let message = "it is in use; 'fuser -m' and 'losetup -a' show by whom";
        self.error(message.to_owned())
    }

    /// What is mounted here, and not hidden by another mount.
    fn top(&self) -> Option<Mount> {
        mounts().ok()?.into_iter().rfind(|mount| mount.path == self.path)
    }
}

/// Why mounting by a system call failed.
enum Refusal {
    /// The helper may have the permission.
    NotAllowed,
    Other(Error),
}

/// The helper's complaint, without its name.
fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix(HELPER).and_then(|line| line.strip_prefix(": ")).unwrap_or(line);
    if line.contains("user_allow_other") {
        let advice = "put a line 'user_allow_other' into /etc/fuse.conf, or mount as root";
        return format!("only root may let other users in here; {advice}");
    }
    match line {
        "" => format!("{HELPER} failed without a message; mount as root"),
        line => format!("{HELPER} refuses: {line}"),
    }
}

/// The descriptor sent through a socket.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut messages, flags).ok()?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return None;
    }
    messages.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_mountpoint_is_refused_with_a_reason() {
        let refused = |path: &str| Place::prepare(Path::new(path)).unwrap_err().to_string();
        assert_eq!(
            refused("/nowhere/at/all"),
            "mountpoint /nowhere/at/all: there is no such folder; make it first"
        );
        assert!(refused("/proc/self/status").ends_with("it is not a folder; name an empty one"));
    }
}
