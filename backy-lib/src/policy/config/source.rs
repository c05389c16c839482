//! `source`: what to back up, as it is written in `backy.toml`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::base::error::{Error, Result};
use crate::format::libvirt_address::LibvirtAddress;
use crate::format::nbd_address::NbdAddress;
use crate::format::qmp_address::QmpAddress;
use crate::format::rbd_address::RbdAddress;
use crate::format::thin_address::ThinAddress;

/// An example of each kind that is no path.
const EXAMPLES: [&str; 8] = [
    "reflink:/srv/vm/mynode.img",
    "qcow2:/srv/vm/mynode.qcow2",
    "libvirt:mynode/vda",
    "qmp:/run/mynode.qmp/virtio0",
    "rbd:pool/mynode",
    "lvm-thin:vg0/mynode",
    "nbd://host/mynode",
    "nbd+unix:///mynode?socket=/run/mynode.sock",
];

/// What to back up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceAddress {
    /// An absolute path: a block device or a file, which is read as a whole.
    Path(PathBuf),
    /// `reflink:PATH`: a file on XFS or btrfs. Backups read a clone of it, and find out from the file system what has
    /// changed.
    Reflink(PathBuf),
    /// `qcow2:PATH`: the guest's disk in an image file. Backups read it through `qemu-nbd`, and only what has changed.
    Qcow2(PathBuf),
    /// `libvirt:DOMAIN/DISK`: a disk of a libvirt domain, as it is at one moment, and only what has changed.
    Libvirt(LibvirtAddress),
    /// `qmp:SOCKET/DISK`: a disk of a virtual machine that runs, as it is at one moment, and only what has changed.
    Qmp(QmpAddress),
    /// An export of an NBD server.
    Nbd(NbdAddress),
    /// An image of Ceph RBD. Backups read a snapshot of it, and only what has changed.
    Rbd(RbdAddress),
    /// A thin volume of LVM. Backups read a snapshot of it, and only what has changed.
    Thin(ThinAddress),
}

impl SourceAddress {
    /// Reads what is written in `backy.toml`.
    ///
    /// # Errors
    /// A sentence: what was found, and what was expected.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let Some((scheme, rest)) = scheme(text) else { return absolute(text).map(Self::Path) };
        match scheme {
            "reflink" => absolute(rest).map(Self::Reflink),
            "qcow2" => absolute(rest).map(Self::Qcow2),
            "libvirt" => LibvirtAddress::parse(rest).map(Self::Libvirt),
            "qmp" => QmpAddress::parse(rest).map(Self::Qmp),
            "rbd" => RbdAddress::parse(text).map(Self::Rbd),
            "lvm-thin" => ThinAddress::parse(text).map(Self::Thin),
            _ if NbdAddress::is_meant(text) => NbdAddress::parse(text).map(Self::Nbd),
            _ => Err(unknown_scheme(text)),
        }
    }

    /// The virtual machine whose disk it is, where one backup point can have several disks of it.
    pub(crate) fn machine(&self) -> Option<String> {
        match self {
            SourceAddress::Libvirt(address) => Some(format!("libvirt:{}", address.domain())),
            _ => None,
        }
    }

    /// Reads what somebody has typed: a relative path begins in the current folder.
    ///
    /// # Errors
    /// [`Error::Specification`] for an unknown scheme; [`Error::Io`] when the current folder cannot be found.
    pub fn typed(path: &Path) -> Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(Error::io(path, "find the folder of"));
        match path.to_str().and_then(scheme) {
            Some(_) if path.to_str().is_some_and(NbdAddress::is_meant) => {
                path.to_string_lossy().parse().map(Self::Nbd)
            }
            Some(("reflink", rest)) => absolute(Path::new(rest)).map(Self::Reflink),
            Some(("qcow2", rest)) => absolute(Path::new(rest)).map(Self::Qcow2),
            Some(("libvirt", rest)) => of_source(LibvirtAddress::parse(rest).map(Self::Libvirt)),
            Some(("qmp", rest)) => of_source(QmpAddress::parse(rest).map(Self::Qmp)),
            Some(("rbd", _)) => {
                of_source(RbdAddress::parse(&path.to_string_lossy()).map(Self::Rbd))
            }
            Some(("lvm-thin", _)) => {
                of_source(ThinAddress::parse(&path.to_string_lossy()).map(Self::Thin))
            }
            // A file may have such a name.
            Some(_) if !path.exists() => of_source(Err(unknown_scheme(&path.to_string_lossy()))),
            _ => absolute(path).map(Self::Path),
        }
    }

    /// The file or device that is backed up as it is, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) | Self::Reflink(path) => Some(path),
            Self::Qcow2(_)
            | Self::Libvirt(_)
            | Self::Qmp(_)
            | Self::Nbd(_)
            | Self::Rbd(_)
            | Self::Thin(_) => None,
        }
    }

    /// What hooks get as the source: the path if it has one, and otherwise what is written.
    pub(crate) fn hooked(&self) -> PathBuf {
        match self {
            Self::Path(path) | Self::Reflink(path) | Self::Qcow2(path) => path.clone(),
            Self::Libvirt(_) | Self::Qmp(_) | Self::Nbd(_) | Self::Rbd(_) | Self::Thin(_) => {
                self.written()
            }
        }
    }

    /// As it is written, whether or not it is UTF-8.
    pub fn written(&self) -> PathBuf {
        let with = |scheme: &str, path: &PathBuf| {
            let mut written = std::ffi::OsString::from(scheme);
            written.push(path);
            written.into()
        };
        match self {
            Self::Path(path) => path.clone(),
            Self::Reflink(path) => with("reflink:", path),
            Self::Qcow2(path) => with("qcow2:", path),
            Self::Libvirt(address) => address.to_string().into(),
            Self::Qmp(address) => address.to_string().into(),
            Self::Nbd(address) => address.to_string().into(),
            Self::Rbd(address) => address.to_string().into(),
            Self::Thin(address) => address.to_string().into(),
        }
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written().display().fmt(f)
    }
}

/// An address that somebody has typed.
fn of_source(parsed: std::result::Result<SourceAddress, String>) -> Result<SourceAddress> {
    parsed.map_err(|message| Error::Specification { message: format!("source: {message}") })
}

/// The part before a colon, if that is before any slash, and what follows.
fn scheme(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(scheme, _)| !scheme.is_empty() && !scheme.contains('/'))
}

/// # Errors
/// A sentence: what was found, and what was expected.
pub(super) fn absolute(text: &str) -> std::result::Result<PathBuf, String> {
    match Path::new(text).is_absolute() {
        true => Ok(text.into()),
        false => Err(format!(
            "found {text:?}, expected an absolute path, since cron and you start in different folders"
        )),
    }
}

fn unknown_scheme(text: &str) -> String {
    format!(
        "found {text:?}, an unknown kind of source; expected an absolute path or one of these: {}",
        EXAMPLES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source reads back as it is written; anything else is refused with the text and what is expected.
    #[test]
    fn sources_read_back_as_they_are_written() {
        for text in [
            "/dev/vg0/mynode",
            "/srv/a:b/c",
            "reflink:/srv/vm/my node.img",
            "reflink:/x:y",
            "qcow2:/srv/vm/my,node.qcow2",
            "libvirt:my node/vda",
            "qmp:/run/my node.qmp/drive-scsi0",
            "nbd://host/a",
            "nbd+unix:///?socket=/x",
            "rbd:vms/disk",
            "rbd:vms/a/disk:id=backy:conf=/etc/ceph/b.conf",
            "lvm-thin:vg-0/my.node",
        ] {
            let address = SourceAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(SourceAddress::typed(Path::new(text)).unwrap(), address);
            assert!(address.path().is_none_or(|path| text.ends_with(path.to_str().unwrap())));
        }
        for (wrong, part) in [
            ("vm.img", "expected an absolute path"),
            ("reflink:vm.img", "found \"vm.img\", expected an absolute path"),
            ("reflink:", "expected an absolute path"),
            ("qcow2:vm.qcow2", "found \"vm.qcow2\", expected an absolute path"),
            ("ceph:a/b", "unknown kind of source"),
            ("ceph:/a/b", "reflink:/srv/vm/mynode.img"),
            ("nbd+unix:///a", "socket"),
            ("libvirt:mynode", "libvirt:mynode/vda"),
            ("rbd:/vms/disk", "empty name"),
            ("lvm-thin:/dev/vg0/mynode", "empty name"),
            ("", "expected an absolute path"),
            (":/x", "expected an absolute path"),
        ] {
            let error = SourceAddress::parse(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        let relative = SourceAddress::typed(Path::new("reflink:x")).unwrap();
        let path = relative.path().unwrap();
        assert!(path.is_absolute() && path.ends_with("x"));
        let unknown = SourceAddress::typed(Path::new("ceph:x")).unwrap_err().to_string();
        assert!(unknown.contains("unknown kind"), "{unknown}");
    }
}
