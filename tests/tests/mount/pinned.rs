//! A file that is open stays readable, whatever maintenance does.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use backy_tests::world::Expected;

use crate::disks::Disk;
use crate::mounted::{Mount, read_anew, until};
use crate::site::{BLOCK_BYTES, Site, states, works};

const SIZES: [usize; 14] = {
    let mut sizes = [20 * BLOCK_BYTES; 14];
    sizes[1] += 4099;
    sizes[2] = 24 * BLOCK_BYTES;
    sizes[6] = 9 * BLOCK_BYTES - 3;
    sizes[10] = 30 * BLOCK_BYTES + 1;
    sizes
};

fn stays_readable(place: &Path) {
    let states = states(440, &SIZES);
    let mut site = Site::with_backups(place, &states[..4]);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let opened = site.expected.clone();
    let open = |revision: &Expected| File::open(mount.file(revision.uuid)).expect("open it");
    let files: Vec<File> = opened.iter().map(open).collect();
    for state in &states[4..] {
        site.backup(state);
        works(&mut site.backy(&["maintenance", "-k", "1"]));
        site.expected.truncate(1);
        for (file, revision) in files.iter().zip(&opened) {
            assert!(read_anew(file) == revision.bytes, "{} has changed", revision.uuid);
        }
    }
    site.check_at_rest();
    for revision in &opened {
        until("its name has gone", || {
            File::open(mount.file(revision.uuid))
                .is_err_and(|error| error.kind() == ErrorKind::NotFound)
        });
    }
    drop(files);
    mount.unmount();
}

/// Revisions that were opened give their own bytes after ten backups of a changing source that grows and shrinks, and after
/// all of them were removed, where backups change the image in place.
#[test]
fn an_open_file_stays_readable_in_place() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    stays_readable(temp.path());
}

/// The same where backups are made on clones.
#[test]
fn an_open_file_stays_readable_with_clones() {
    let Some(disk) = Disk::make("xfs", 320 << 20) else { return };
    stays_readable(disk.path());
}
