//! An open file stays readable, whatever maintenance does.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use backy_tests::world::Expected;

use crate::mounted::{Mount, forget_pages, read_anew, until};
use crate::site::{BLOCK_BYTES, Site, states, works};
use crate::ways::{Way, both_ways};

const SIZES: [usize; 14] = {
    let mut sizes = [20 * BLOCK_BYTES; 14];
    sizes[1] += 4099;
    sizes[2] = 24 * BLOCK_BYTES;
    sizes[6] = 9 * BLOCK_BYTES - 3;
    sizes[10] = 30 * BLOCK_BYTES + 1;
    sizes
};

/// An open revision has its own bytes after ten backups of a changing source that grows and shrinks, and after all of
/// them were deleted.
fn open_file_stays_readable(place: &Path) {
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
both_ways!(open_file_stays_readable(place));

/// Deleting the newest revision while it is open turns the image into the previous one: the open file returns its own
/// bytes or an error, and always its bytes where backups are made on clones.
fn newest_revision_is_deleted_while_open(place: &Path, way: Way) {
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
            Err(error) => assert!(way == Way::InPlace, "block {number}: {error}"),
        }
    }
    drop(file);
    let bytes = std::fs::read(mount.path("latest")).expect("read the one before");
    assert!(bytes == site.expected[0].bytes);
    site.check_at_rest();
    mount.unmount();
}
both_ways!(newest_revision_is_deleted_while_open(place, way));
