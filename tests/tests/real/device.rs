//! Block devices as sources and as targets.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::disks::{Disk, LoopDevice, loops_available};
use crate::site::{Site, fails, noise, states, text, works};

const MIB: usize = 1 << 20;

/// Makes a file of zeros.
fn blank_file(place: &Path, name: &str, bytes: usize) -> PathBuf {
    let path = place.join(name);
    let file = File::create(&path).expect("make a file");
    file.set_len(bytes as u64).expect("make it long enough");
    path
}

/// A loop device over a new file of zeros.
fn blank_device(place: &Path, name: &str, bytes: usize) -> LoopDevice {
    LoopDevice::attach(&blank_file(place, name, bytes), &[])
}

/// Shrinks or grows a loop device and gives it new content.
fn change(device: &LoopDevice, file: &Path, state: &[u8]) {
    let handle = File::options().write(true).open(file).expect("open the file below");
    handle.set_len(state.len() as u64).expect("change its length");
    device.resized();
    device.write(state, 0);
}

fn place() -> Option<TempDir> {
    loops_available().then(|| tempfile::tempdir().expect("a temporary folder"))
}

/// A block device that grows and shrinks, of any number of sectors, is backed up, and each state is restored to a file
/// and to the device itself, without `--force`, if the device is large enough.
#[test]
fn a_block_device_that_grows_and_shrinks() {
    let Some(temp) = place() else { return };
    let states = states(21, &[MIB + 1536, 2 * MIB + 512, MIB - 3 * 512, MIB + 512 * 7]);
    let file = blank_file(temp.path(), "disk", states[0].len());
    let device = LoopDevice::attach(&file, &[]);
    let mut site = Site::init(temp.path(), &device.path);
    for state in &states {
        change(&device, &file, state);
        let report = site.backup_source(state);
        assert_eq!(report["revision"]["size_bytes"], state.len());
        site.check_at_rest();
    }
    let target = temp.path().join("restored");
    works(&mut site.backy(&["restore", "-r", "first", text(&target)]));
    assert!(fs::read(&target).expect("read the target") == states[0]);
    // To the source, which has 1 MiB and 7 sectors: the larger state does not fit, the others do.
    let message = fails(&mut site.backy(&["restore", "-r", "2"]));
    assert!(message.contains("too small"), "{message}");
    assert!(device.read() == states[3], "a refused restore changed the source");
    for number in [3, 1, 0] {
        works(&mut site.backy(&["restore", "-r", &number.to_string()]));
        let state = &states[3 - number];
        assert!(device.read()[..state.len()] == state[..], "revision {number} in the source");
    }
    site.check_at_rest();
}

/// A block device that cannot be written to works as a source, and not as a target.
#[test]
fn a_read_only_block_device() {
    let Some(temp) = place() else { return };
    let state = noise(22, MIB + 512);
    let file = temp.path().join("disk");
    fs::write(&file, &state).expect("write the disk");
    let device = LoopDevice::attach(&file, &["--read-only"]);
    let mut site = Site::init(temp.path(), &device.path);
    site.backup_source(&state);
    site.backup_source(&state);
    site.check_at_rest();
    fs::create_dir(temp.path().join("other")).expect("make a folder");
    let other = Site::with_backups(&temp.path().join("other"), &[noise(30, MIB)]);
    let message = fails(&mut other.backy(&["restore", "--force", text(&device.path)]));
    assert!(message.contains("it is read-only"), "{message}");
    assert!(device.read() == state, "a refused restore changed the target");
}

/// A larger blank device takes a revision, and keeps what is past its end.
#[test]
fn a_restore_to_a_larger_blank_device() {
    let Some(temp) = place() else { return };
    let state = states(23, &[MIB + 777]).remove(0);
    let site = Site::with_backups(temp.path(), std::slice::from_ref(&state));
    let device = blank_device(temp.path(), "target", 3 * MIB);
    works(&mut site.backy(&["restore", text(&device.path)]));
    let found = device.read();
    assert!(found[..state.len()] == state[..], "the revision");
    assert!(found[state.len()..].iter().all(|&byte| byte == 0), "what is past its end");
}

/// A device that is not blank is refused without `--force`. With it, the device holds the revision, and past its end
/// what it held before. This includes revisions with zero blocks and a last block that is not whole.
#[test]
fn a_restore_to_a_device_that_is_not_blank() {
    let Some(temp) = place() else { return };
    let mut state = noise(24, 2 * MIB + 100);
    // All of the last block, which ends in the middle of a sector, and some others.
    state[MIB..MIB + 300_000].fill(0);
    state[2 * MIB..].fill(0);
    let site = Site::with_backups(temp.path(), std::slice::from_ref(&state));
    for sector in ["512", "4096"] {
        let file = blank_file(temp.path(), &format!("target-{sector}"), 3 * MIB);
        let device = LoopDevice::attach(&file, &["--sector-size", sector]);
        let junk = noise(25, 3 * MIB);
        device.write(&junk, 0);
        let message = fails(&mut site.backy(&["restore", text(&device.path)]));
        assert!(message.contains("not blank") && message.contains("--force"), "{message}");
        assert!(device.read() == junk, "a refused restore changed the target");
        works(&mut site.backy(&["restore", "--force", text(&device.path)]));
        let found = device.read();
        assert!(found[..state.len()] == state[..], "sectors of {sector}: the revision");
        assert!(found[state.len()..] == junk[state.len()..], "sectors of {sector}: past its end");
    }
}

/// One byte other than zero, anywhere, makes a device not blank.
#[test]
fn a_device_with_one_byte_on_it_is_not_blank() {
    let Some(temp) = place() else { return };
    let site = Site::with_backups(temp.path(), &[noise(26, MIB)]);
    let device = blank_device(temp.path(), "target", 3 * MIB);
    device.write(&[1], 3 * MIB as u64 - 1);
    let message = fails(&mut site.backy(&["restore", text(&device.path)]));
    assert!(message.contains(&format!("data at offset {}", 3 * MIB - 1)), "{message}");
}

/// A device that is too small is refused, `--force` or not.
#[test]
fn a_restore_to_a_device_that_is_too_small() {
    let Some(temp) = place() else { return };
    let site = Site::with_backups(temp.path(), &[noise(27, MIB + 1)]);
    let device = blank_device(temp.path(), "target", MIB);
    for force in [&[][..], &["--force"]] {
        let message = fails(site.backy(&["restore", text(&device.path)]).args(force));
        assert!(message.contains("too small"), "{message}");
    }
    assert!(device.read().iter().all(|&byte| byte == 0), "a refused restore wrote something");
}

/// A mounted device is refused, `--force` or not, whatever the file system; so is the file below a loop device.
#[test]
fn a_restore_to_a_device_in_use() {
    let Some(temp) = place() else { return };
    let site = Site::with_backups(temp.path(), &[noise(28, MIB)]);
    for kind in ["ext4", "btrfs"] {
        let Some(disk) = Disk::make(kind, 128 << 20) else { continue };
        for force in [&[][..], &["--force"]] {
            let message = fails(site.backy(&["restore", text(&disk.device.path)]).args(force));
            assert!(message.contains("mounted"), "{kind}: {message}");
        }
        fs::write(disk.path().join("file"), "still alive").expect("write to the mounted disk");
    }
    let file = blank_file(temp.path(), "below", 2 * MIB);
    let device = LoopDevice::attach(&file, &[]);
    for force in [&[][..], &["--force"]] {
        let message = fails(site.backy(&["restore", text(&file)]).args(force));
        let user = format!("in use as the loop device {}", device.path.display());
        assert!(message.contains(&user), "{message}");
    }
}

/// A source that shrinks during the backup is an error that says so, and the archive is as it was.
#[test]
fn a_block_device_that_shrinks_while_it_is_read() {
    let Some(temp) = place() else { return };
    let state = noise(29, 4 * MIB);
    let file = blank_file(temp.path(), "disk", state.len());
    let device = LoopDevice::attach(&file, &[]);
    change(&device, &file, &state);
    let mut site = Site::init(temp.path(), &device.path);
    site.backup_source(&state);
    let mut slow = site.backy(&["backup", "--force", "--limit-rate", "4M"]);
    let message = std::thread::scope(|scope| {
        let backup = scope.spawn(move || fails(&mut slow));
        std::thread::sleep(std::time::Duration::from_millis(400));
        change(&device, &file, &state[..2 * MIB]);
        backup.join().expect("the backup fails as it should")
    });
    assert!(message.contains("its size changed while it was read"), "{message}");
    site.check_at_rest();
    site.backup_source(&state[..2 * MIB]);
    site.check_at_rest();
}
