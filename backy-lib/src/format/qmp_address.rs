//! The address of a disk of a virtual machine: the socket of QEMU's monitor, and a name.

use std::fmt;
use std::path::{Path, PathBuf};

/// A disk of a QEMU: `SOCKET/DISK`, as it stands behind `qmp:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QmpAddress {
    monitor: PathBuf,
    disk: String,
}

impl QmpAddress {
    /// Reads what follows `qmp:`.
    ///
    /// # Errors
    /// A sentence: what was found, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once('/').filter(|(path, disk)| {
            Path::new(path).is_absolute() && path.len() > 1 && !disk.is_empty()
        });
        let (monitor, disk) = parts.ok_or_else(|| {
            format!(
                "found {text:?}, expected the absolute path of the socket of QEMU's monitor and a disk, as in \
                 qmp:/run/mynode.qmp/virtio0"
            )
        })?;
        Ok(QmpAddress { monitor: monitor.into(), disk: disk.to_owned() })
    }

    /// The socket of the monitor.
    pub fn monitor(&self) -> &Path {
        &self.monitor
    }

    /// The name of the disk: of a device or of a node.
    pub fn disk(&self) -> &str {
        &self.disk
    }
}

impl fmt::Display for QmpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qmp:{}/{}", self.monitor.display(), self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last part is the disk; what is before it is a path.
    #[test]
    fn an_address_has_a_socket_and_a_disk() {
        let address = QmpAddress::parse("/run/my node.qmp/drive-scsi0").unwrap();
        assert_eq!(address.monitor(), Path::new("/run/my node.qmp"));
        assert_eq!(address.disk(), "drive-scsi0");
        assert_eq!(address.to_string(), "qmp:/run/my node.qmp/drive-scsi0");
        for wrong in ["", "/", "/x", "run/x/virtio0", "/run/x.qmp/", "virtio0"] {
            let why = QmpAddress::parse(wrong).unwrap_err();
            assert!(why.contains("qmp:/run/mynode.qmp/virtio0"), "{wrong}: {why}");
        }
    }
}
