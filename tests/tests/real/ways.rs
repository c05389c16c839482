//! The two ways in which a backup updates the image: in place, and on a clone where the file system can make one.

use std::path::Path;

use crate::disks::Disk;

/// Space for any of these tests, and more than the smallest XFS. What is not written takes none.
const XFS_BYTES: u64 = 400 << 20;

/// How image updates are made in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    InPlace,
    OnClones,
}

/// Makes a test of a function for each way: `NAME::in_place` in a temporary folder, `NAME::on_clones` on an XFS. The
/// function takes the folder, and the way if it wants to know.
macro_rules! both_ways {
    ($name:ident(place)) => {
        $crate::ways::both_ways!($name, |place, _| super::$name(place));
    };
    ($name:ident(place, way)) => {
        $crate::ways::both_ways!($name, |place, way| super::$name(place, way));
    };
    ($name:ident, $test:expr) => {
        mod $name {
            #[test]
            fn in_place() {
                $crate::ways::in_place($test);
            }

            #[test]
            fn on_clones() {
                $crate::ways::on_clones($test);
            }
        }
    };
}
pub(crate) use both_ways;

pub(crate) fn in_place(test: impl FnOnce(&Path, Way)) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    test(temp.path(), Way::InPlace);
}

pub(crate) fn on_clones(test: impl FnOnce(&Path, Way)) {
    if let Some(disk) = Disk::make("xfs", XFS_BYTES) {
        test(disk.path(), Way::OnClones);
    }
}
