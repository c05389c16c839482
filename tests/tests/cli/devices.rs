//! Block devices as source and target. Needs root, for loop devices.

use std::process::Command;

use backy_tests::qemu::skipped;

use super::harness::{SOURCE_BYTES, Scene, is_root, noise, tool};

/// A loop device, taken down at the end.
pub(super) struct Loop(pub(super) String);

impl Loop {
    /// Over a file of the scene.
    pub(super) fn over(scene: &Scene, name: &str) -> Option<Loop> {
        if !is_root() {
            skipped("loop devices need root");
            return None;
        }
        let run = tool("losetup", &["--find", "--show", &scene.text_path(name)]);
        match run.filter(|run| run.status == Some(0)) {
            Some(run) => Some(Loop(run.text().trim().to_owned())),
            None => {
                skipped("losetup cannot make a loop device");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

const DEVICE_BYTES: usize = 2 << 20;

/// A block device is backed up, and a revision restored to one: first a blank one, then the same again.
#[test]
fn from_device_to_device() {
    let scene = Scene::new();
    let source = noise(3, DEVICE_BYTES);
    scene.write("disk", &source);
    scene.write("blank", &vec![0; DEVICE_BYTES + 4096]);
    let Some(disk) = Loop::over(&scene, "disk") else { return };
    let Some(blank) = Loop::over(&scene, "blank") else { return };
    scene.works(&["-b", "a", "init", &disk.0]);
    scene.works(&["-b", "a", "backup"]);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    assert_eq!(status["last_source"]["kind"], "block device");
    scene.works(&["-b", "a", "restore", &blank.0]);
    assert!(scene.read("blank")[..DEVICE_BYTES] == source);
    // Now it is no longer blank, and not the source.
    scene.refuses(&["-b", "a", "restore", &blank.0], &[&blank.0, "not blank", "--force"]);
    let again = scene.works(&["-b", "a", "restore", "--force", "--json", &blank.0]).json();
    assert_eq!(again["written_bytes"], 0);
    // The source needs no force.
    let before = scene.works(&["-b", "a", "restore", "--json"]).json();
    assert_eq!(before["written_bytes"], 0);
}

/// A device with data at its very end is not blank.
#[test]
fn one_byte_is_not_blank() {
    let (scene, _) = Scene::with_revisions(1);
    let mut content = vec![0; DEVICE_BYTES];
    content[DEVICE_BYTES - 3] = 1;
    scene.write("disk", &content);
    let Some(disk) = Loop::over(&scene, "disk") else { return };
    let offset = (DEVICE_BYTES - 3).to_string();
    scene.refuses(&["-b", "a", "restore", &disk.0], &[&disk.0, "not blank", &offset, "--force"]);
}

/// A device that is too small is refused, also with --force.
#[test]
fn too_small() {
    let (scene, _) = Scene::with_revisions(1);
    scene.write("disk", &vec![0; 1 << 20]);
    let Some(disk) = Loop::over(&scene, "disk") else { return };
    for force in [&[][..], &["--force"]] {
        let args: Vec<&str> =
            ["-b", "a", "restore"].iter().chain(force).chain([&disk.0.as_str()]).copied().collect();
        let size = SOURCE_BYTES.to_string();
        scene.refuses(&args, &[&disk.0, "too small", "1048576", &size, "another target"]);
    }
}

/// A mounted device is refused with its mount point, also with --force; so is a file that a loop device uses.
#[test]
fn mounted_or_in_use() {
    let (scene, _) = Scene::with_revisions(1);
    scene.write("disk", &vec![0; 8 << 20]);
    let made = tool("mkfs.ext4", &["-q", &scene.text_path("disk")]);
    if made.is_none_or(|run| run.status != Some(0)) {
        return skipped("mkfs.ext4 is not installed");
    }
    let Some(disk) = Loop::over(&scene, "disk") else { return };
    std::fs::create_dir(scene.path("mnt")).unwrap();
    let mountpoint = scene.text_path("mnt");
    let run = tool("mount", &["-o", "ro", &disk.0, &mountpoint]).unwrap();
    if run.status != Some(0) {
        return skipped("mount is not allowed here");
    }
    let _mounted = Mounted(mountpoint.clone());
    for force in [&[][..], &["--force"]] {
        let args: Vec<&str> =
            ["-b", "a", "restore"].iter().chain(force).chain([&disk.0.as_str()]).copied().collect();
        scene.refuses(&args, &[&disk.0, "mounted", &mountpoint, "unmount"]);
        let args: Vec<&str> =
            ["-b", "a", "restore"].iter().chain(force).chain([&"disk"]).copied().collect();
        scene.refuses(&args, &["disk", "in use", &disk.0, "another target"]);
    }
}

/// A restore to a device with --undo leaves an archive that restores it, including what the revision does not reach.
#[test]
fn a_restore_to_a_device_is_undone() {
    let (scene, states) = Scene::with_revisions(1);
    let former = noise(8, DEVICE_BYTES);
    scene.write("device.img", &former);
    let Some(device) = Loop::over(&scene, "device.img") else { return };
    scene.works(&["-b", "a", "restore", "--force", "--undo", "u", &device.0]);
    let restored = scene.read("device.img");
    assert!(restored[..SOURCE_BYTES] == states[0]);
    assert!(restored[SOURCE_BYTES..] == former[SOURCE_BYTES..]);
    scene.works(&["-b", "u", "restore"]);
    assert!(scene.read("device.img") == former);
}
