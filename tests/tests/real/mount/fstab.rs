//! Mounting by `mount(8)`: the line for fstab and the systemd unit of the documents, as they stand there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::namespace::Namespace;
use crate::mounted::{Mountpoint, fuse_available, until};
use crate::site::{BLOCK_BYTES, Site, noise, run, text, unmounts, words, works};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An archive, a place to mount it, and a view of the system in which backy is installed.
struct Scene {
    site: Site,
    on: Mountpoint,
    bin: PathBuf,
    view: Namespace,
    _temp: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Where all went well, nothing is mounted any more.
        let _ = run(self.view.command("umount").arg("--lazy").arg(&self.on.path));
    }
}

impl Scene {
    fn new() -> Option<Self> {
        if !fuse_available() {
            return None;
        }
        let view = Namespace::new()?;
        let temp = tempfile::tempdir().expect("a temporary folder");
        let site = Site::with_backups(temp.path(), &[noise(800, 2 * BLOCK_BYTES + 7)]);
        let bin = temp.path().join("bin");
        fs::create_dir(&bin).expect("make a folder");
        std::os::unix::fs::symlink(site.backy(&[]).get_program(), bin.join("backy"))
            .expect("make a link");
        // mount(8) does not pass on the PATH.
        view.bind(&bin, "/usr/local/bin");
        Some(Scene { site, on: Mountpoint::new(), bin, view, _temp: temp })
    }

    /// `mount ARGS`
    fn mount(&self, args: &[&str]) -> Command {
        let mut command = self.view.command("mount");
        command.args(args);
        command
    }

    /// Checks that it is mounted, and unmounts it.
    fn check(&self, what: &str) {
        let mounts = self.view.mounts();
        let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(text(&self.on.path)));
        let line = line.unwrap_or_else(|| panic!("{what}: not mounted"));
        let (_, kind) = line.split_once(" - ").expect("a kind");
        let expected = format!("fuse.backy {} ", text(&self.site.folder));
        assert!(kind.starts_with(&expected), "{what}: {line}");
        let bytes = works(self.view.command("cat").arg(self.on.path.join("latest")));
        assert!(bytes == self.site.expected[0].bytes, "{what}");
        self.unmount();
    }

    fn unmount(&self) {
        unmounts(self.view.command("umount").arg(&self.on.path));
        until("it has ended", || self.on.processes().is_empty());
    }

    fn is_mounted(&self) -> bool {
        self.view.mounts().contains(&format!(" {} ", text(&self.on.path)))
    }

    /// A document's example, with the places of this test.
    fn adapt(&self, text_of: &str) -> String {
        let adapted = text_of.replace("/srv/backup/mynode", text(&self.site.folder));
        let adapted = adapted.replace("/mnt/mynode", text(&self.on.path));
        let log = self.on.path.parent().expect("a folder").join("log");
        adapted.replace("/var/log/backy.log", text(&log))
    }
}

/// `mount -t fuse.backy ARCHIVE MOUNTPOINT` mounts, with the options of mount(8) and backy.
#[test]
fn by_type() {
    let Some(mut scene) = Scene::new() else { return };
    let (archive, on) = (text(&scene.site.folder), text(&scene.on.path));
    works(&mut scene.mount(&["-t", "fuse.backy", archive, on]));
    scene.check("no options");
    let log = scene.on.path.parent().expect("a folder").join("log");
    let options = format!("ro,allow_other,cache=1M,nosuid,noatime,log={}", text(&log));
    works(&mut scene.mount(&["-t", "fuse.backy", "-o", &options, archive, on]));
    scene.check(&options);
    assert!(fs::read_to_string(log).expect("read the log").contains(": mounted "));
    works(&mut scene.mount(&["-t", "fuse.backy", "-o", "writable", archive, on]));
    let latest = format!("of={}", text(&scene.on.path.join("latest")));
    let mut dd = scene.view.command("dd");
    works(dd.args(["if=/dev/zero", "bs=100", "count=1", "conv=notrunc", &latest]));
    scene.unmount();
    scene.site.check_at_rest();
}

/// A problem with the options, or with the archive, is reported, and nothing is mounted.
#[test]
fn errors_by_type() {
    let Some(scene) = Scene::new() else { return };
    let (archive, on) = (text(&scene.site.folder), text(&scene.on.path));
    for (archive, options, named) in [
        (archive, "alow_other", "'alow_other'"),
        (archive, "ro,writable", "'writable'"),
        (archive, "cache=much", "much"),
        ("/srv/nowhere", "rw", "/srv/nowhere"),
    ] {
        let output = run(&mut scene.mount(&["-t", "fuse.backy", "-o", options, archive, on]));
        let said = words(&output);
        assert!(!output.status.success() && said.contains(named), "{options}: {said}");
        assert!(!scene.is_mounted() && scene.on.processes().is_empty(), "{options}");
    }
}

/// The lines for fstab in the documents mount as they are, with other places.
#[test]
fn the_documented_fstab_lines() {
    let Some(scene) = Scene::new() else { return };
    let mut tried = 0;
    for name in ["README.md", "doc/mount.md"] {
        let text_of = document(name);
        let lines =
            text_of.lines().filter(|line| line.split_whitespace().nth(2) == Some("fuse.backy"));
        for line in lines {
            let fstab = scene.on.path.parent().expect("a folder").join("fstab");
            fs::write(&fstab, format!("{}\n", scene.adapt(line))).expect("write an fstab");
            works(&mut scene.mount(&["-T", text(&fstab), text(&scene.on.path)]));
            scene.check(line);
            tried += 1;
        }
    }
    assert!(tried >= 2, "only {tried} lines were found");
}

/// The systemd unit mounts as it is, with other places: systemd calls mount(8) with What, Where, Type and Options.
#[test]
fn the_systemd_unit() {
    let Some(scene) = Scene::new() else { return };
    let unit = document("dist/systemd/mnt-mynode.mount");
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        scene.adapt(line.unwrap_or_else(|| panic!("no {key}=")))
    };
    // The name of the unit has to be the path.
    assert_eq!(unit.lines().find_map(|line| line.strip_prefix("Where=")), Some("/mnt/mynode"));
    let (what, place) = (value("What"), value("Where"));
    let (kind, options) = (value("Type"), value("Options"));
    works(&mut scene.mount(&[&what, &place, "-t", &kind, "-o", &options]));
    scene.check("the unit");
}

/// Under the name that `mount` looks for, the command is a mount helper.
#[test]
fn under_the_name_of_the_helper() {
    let Some(scene) = Scene::new() else { return };
    let helper = scene.bin.join("mount.fuse.backy");
    std::os::unix::fs::symlink(scene.site.backy(&[]).get_program(), &helper).expect("a link");
    let (archive, on) = (text(&scene.site.folder), text(&scene.on.path));
    let mut command = scene.view.command(&helper);
    works(command.args([archive, on, "-n", "-o", "rw,noauto"]));
    scene.check("the helper");
    works(scene.view.command(&helper).args([archive, on, "-f", "-o", "rw"]));
    assert!(!scene.is_mounted(), "a fake mount mounts nothing");
}
