//! A file that is open stays readable, whatever maintenance does.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use backy_tests::world::Expected;

use crate::disks::Disk;
use crate::mounted::{Mount, forget_pages, read_anew, until};
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
        works(&mut site.backy(&["maintenance", "-k", "1", "--confirm"]));
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

/// Revisions that were opened give their own bytes after ten backups of a changing source that grows and
/// shrinks, and after all of them were removed, where backups change the image in place.
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

/// The newest is removed by hand while it is open, and the image becomes that of the one before: whoever has it
/// open gets its bytes or an error, and only where there are clones always its bytes.
fn the_newest_goes(place: &Path, has_clones: bool) {
    let states = states(450, &[20 * BLOCK_BYTES; 3]);
    let mut site = Site::with_backups(place, &states);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let newest = site.expected.remove(0);
    let file = File::open(mount.file(newest.uuid)).expect("open the newest");
    let mut block = vec![0; BLOCK_BYTES];
    file.read_exact_at(&mut block, 0).expect("read the first block");
    works(&mut site.backy(&["rm", "0"]));
    forget_pages(&file);
    for (number, expected) in newest.bytes.chunks(BLOCK_BYTES).enumerate() {
        match file.read_exact_at(&mut block, (number * BLOCK_BYTES) as u64) {
            Ok(()) => assert!(block == expected, "wrong bytes in block {number}"),
            Err(error) => assert!(!has_clones, "block {number}: {error}"),
        }
    }
    drop(file);
    let bytes = std::fs::read(mount.path("latest")).expect("read the one before");
    assert!(bytes == site.expected[0].bytes);
    site.check_at_rest();
    mount.unmount();
}

/// In place.
#[test]
fn the_newest_goes_while_it_is_open() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    the_newest_goes(temp.path(), false);
}

/// With clones.
#[test]
fn the_newest_goes_while_it_is_open_with_clones() {
    let Some(disk) = Disk::make("xfs", 320 << 20) else { return };
    the_newest_goes(disk.path(), true);
}
