//! The recipes of `doc/sources.md`, command by command as they stand there: each makes two backups, of which the second
//! reads only what has changed if the table says so.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_tests::command::{checkout, program};
use backy_tests::qemu;
use serde_json::Value;

use crate::disks::Disk;
use crate::harness::libvirt::Libvirt;
use crate::qmp::Machine;
use crate::site::{backy, noise, text, works};

const BYTES: usize = 8 << 20;

/// A section of the document: its commands, and the lines of TOML that are to be in `backy.toml`.
struct Recipe {
    commands: Vec<String>,
    settings: String,
}

fn recipe(heading: &str) -> Recipe {
    let path = checkout().join("doc/sources.md");
    let document = fs::read_to_string(path).expect("read the document");
    let section = document.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("no section '{heading}'"));
    let (mut commands, mut settings, mut language) = (Vec::new(), String::new(), None);
    for line in section.lines().map(str::trim_start) {
        match (language, line.strip_prefix("```")) {
            (None, Some(begins)) => language = Some(begins),
            (Some(_), Some(_)) => language = None,
            (Some("console"), None) => {
                commands.push(line.strip_prefix("$ ").expect("a command").to_owned());
            }
            (Some("toml"), None) if line.starts_with('[') || line.starts_with("before") => {
                settings.push_str(line);
                settings.push('\n');
            }
            _ => {}
        }
    }
    assert!(commands.len() >= 3, "{heading}: {commands:?}");
    Recipe { commands, settings }
}

/// Runs a recipe with the paths of this machine, and more in the environment. `disk` returns what a guest would see,
/// and `change` changes it between the backups.
pub(crate) fn follow(
    heading: &str,
    (place, environment): (&Path, &[String]),
    disk: &dyn Fn(&Path) -> Vec<u8>,
    change: &dyn Fn(&Path),
) -> Value {
    let Recipe { commands, settings } = recipe(heading);
    let vm = place.join("vm");
    let here = |line: &str| {
        line.replace("/srv/vm", text(&vm)).replace("/run/mynode", text(&place.join("mynode")))
    };
    let bin = place.join("bin");
    fs::create_dir(&bin).expect("make a folder");
    symlink(program(), bin.join("backy")).expect("a link");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", text(&bin));
    let archive = place.join("mynode");
    let mut reports = Vec::new();
    for command in &commands {
        let is_backup = command.contains(" backup");
        if is_backup && reports.len() == 1 {
            change(&vm);
        }
        let script = here(command);
        works(Command::new("env").arg(format!("PATH={path}")).args(environment).args([
            "sh",
            "-ec",
            &format!("cd {}; {script}", text(place)),
        ]));
        if command.contains(" init ") {
            let config = archive.join("backy.toml");
            let lines = fs::read_to_string(&config).expect("read the config");
            fs::write(&config, lines + &here(&settings)).expect("write the config");
        }
        if is_backup {
            let image = fs::read(archive.join("last.raw")).expect("read last.raw");
            assert!(image == disk(&vm), "{command}: other bytes");
            let status = works(&mut backy(&archive, &["status", "--json"]));
            let status: Value = serde_json::from_slice(&status).expect("a report");
            reports.push(status["revisions"][0].clone());
        }
    }
    let [_, second] = reports.try_into().expect("two backups");
    second
}

fn converted(image: PathBuf) -> Vec<u8> {
    let raw = image.with_extension("raw");
    works(
        Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(image).arg(&raw),
    );
    fs::read(raw).expect("read the disk")
}

fn qcow2_image(place: &Path) {
    let vm = place.join("vm");
    fs::create_dir(&vm).expect("make a folder");
    fs::write(vm.join("first.raw"), noise(1, BYTES)).expect("write an image");
    works(
        Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args([vm.join("first.raw"), vm.join("mynode.qcow2")]),
    );
}

/// A file on XFS.
#[test]
fn the_recipe_for_a_file_works() {
    let Some(disk) = Disk::make("xfs", 512 << 20) else { return };
    let image = |vm: &Path| vm.join("mynode.img");
    let place = disk.path().join("place");
    fs::create_dir_all(place.join("vm")).expect("make a folder");
    fs::write(image(&place.join("vm")), noise(1, BYTES)).expect("write an image");
    let change = |vm: &Path| {
        let file = OpenOptions::new().write(true).open(image(vm)).expect("open the image");
        file.write_all_at(b"changed", 1 << 20).expect("write to the image");
    };
    let read = |vm: &Path| fs::read(image(vm)).expect("read the image");
    let second = follow("A file on XFS", (&place, &[]), &read, &change);
    assert!(second["hints"]["since"].is_string(), "{second}");
}

/// A qcow2 image, which the recipe itself changes.
#[test]
fn the_recipe_for_a_qcow2_image_works() {
    if !qemu::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    qcow2_image(folder.path());
    let disk = |vm: &Path| converted(vm.join("mynode.qcow2"));
    let second = follow("A qcow2 image", (folder.path(), &[]), &disk, &|_| {});
    assert!(second["hints"]["since"].is_string(), "{second}");
    assert_eq!(second["read_bytes"], 64 << 10, "{second}");
}

/// An export that a hook starts.
#[test]
fn the_recipe_for_an_nbd_server_works() {
    if !qemu::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    qcow2_image(folder.path());
    let disk = |vm: &Path| converted(vm.join("mynode.qcow2"));
    let change = |vm: &Path| {
        let write = ["-f", "qcow2", "-c", "write -P 7 1M 1000"];
        works(Command::new("qemu-io").args(write).arg(vm.join("mynode.qcow2")));
    };
    let second = follow("An NBD server", (folder.path(), &[]), &disk, &change);
    assert_eq!(second["hints"], Value::Null, "{second}");
}

/// A disk of a domain that runs.
#[test]
fn the_recipe_for_a_domain_works() {
    let Some(host) = Libvirt::start() else { return };
    let place = host.path("");
    let change = |_: &Path| {
        let output = host.guest("vda", "write -P 7 1M 3000");
        assert!(output.status.success(), "{output:?}");
    };
    let environment = [host.setting()];
    let disk = |_: &Path| host.disk("vda");
    let second = follow("A domain of libvirt", (&place, &environment), &disk, &change);
    assert!(second["hints"]["since"].is_string(), "{second}");
    assert_eq!(second["read_bytes"], 64 << 10, "{second}");
}

/// A disk of a machine that runs.
#[test]
fn the_recipe_for_a_running_machine_works() {
    let Some(machine) = Machine::start("qcow2") else { return };
    let place = machine.path("");
    let change = |_: &Path| machine.write(1 << 20, b"changed");
    let second = follow("A virtual machine that runs", (&place, &[]), &|_| machine.disk(), &change);
    assert!(second["hints"]["since"].is_string(), "{second}");
    assert_eq!(second["read_bytes"], 64 << 10, "{second}");
}
