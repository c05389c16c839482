//! The archives that `fleet.toml` expects: made, missed, and compared with what it says; and wrong settings.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use backy_tests::command::is_root;

use super::{DAILY, Fleet};
use crate::harness::Scene;

/// `fleet.toml` with the declared archives `all/new` and those of `more`.
fn declaring(fleet: &Fleet, more: &str) {
    let path = |name: &str| fleet.scene.text_path(name);
    fleet.scene.write("standard.toml", DAILY.as_bytes());
    fleet.toml(&format!(
        "[[archive]]\npath = \"{}\"\nsource = \"{}\"\ninclude = \"{}\"\n{more}",
        path("all/new"),
        path("source.img"),
        path("standard.toml")
    ));
}

/// A declared archive is critical until it is made and backed up, which a run does, with the settings it includes.
#[test]
fn a_run_makes_declared_archives() {
    let fleet = Fleet::new(1, DAILY);
    declaring(&fleet, "");
    let check = || fleet.scene.run(&["check", "--fleet", "fleet.toml"]);
    fleet.run(&["all"]);
    let before = check();
    assert_eq!(before.status, Some(2));
    assert!(
        before.text().contains("declares this archive, and it does not exist"),
        "{}",
        before.text()
    );
    let plan = fleet.run(&["-n", "--fleet", "fleet.toml"]);
    assert!(
        plan.text().contains("init") && !fleet.scene.path("all/new").exists(),
        "{}",
        plan.text()
    );
    let run = fleet.run(&["--fleet", "fleet.toml"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(fleet.revisions("new"), 1);
    let settings = fleet.scene.read_text("all/new/backy.toml");
    assert!(settings.contains("include = "), "{settings}");
    let after = check();
    assert_eq!(after.status, Some(0), "{}", after.text());
}

/// An archive with another source than declared is critical, and a failure of the run; it is backed up all the same.
#[test]
fn another_source_than_declared_is_critical() {
    let fleet = Fleet::new(1, DAILY);
    let other = fleet.scene.text_path("source.img");
    let path = fleet.scene.text_path("all/vm0");
    fleet.toml(&format!("[[archive]]\npath = \"{path}\"\nsource = \"{other}\"\n"));
    let run = fleet.run(&["--fleet", "fleet.toml"]);
    assert_eq!((run.status, fleet.revisions("vm0")), (Some(1), 1));
    assert!(run.stderr.contains("fleet.toml declares the source"), "{}", run.stderr);
    let check = fleet.scene.run(&["check", "--fleet", "fleet.toml"]);
    assert!(check.status == Some(2) && check.text().contains("fleet.toml declares the source"));
}

/// No archive is made where its folder is missing, nor in an empty folder, whose disk may not be mounted.
#[test]
fn nothing_is_made_where_a_disk_may_be_missing() {
    let fleet = Fleet::new(1, DAILY);
    let (away, empty) = (fleet.scene.text_path("away/new"), fleet.scene.text_path("empty"));
    fs::create_dir(fleet.scene.path("empty")).unwrap();
    fleet.toml(&format!("[[archive]]\npath = \"{away}\"\n[[archive]]\npath = \"{empty}\"\n"));
    let run = fleet.run(&["--fleet", "fleet.toml"]);
    assert_eq!((run.status, run.stderr.lines().count()), (Some(1), 2), "{}", run.stderr);
    assert!(
        run.stderr.contains("there is no folder") && run.stderr.contains("is empty"),
        "{}",
        run.stderr
    );
    assert!(!fleet.scene.path("away").exists());
    assert_eq!(fs::read_dir(fleet.scene.path("empty")).unwrap().count(), 0);
}

/// A program may list the archives; one that fails or prints something else is reported, and the rest goes on.
#[test]
fn a_program_lists_archives() {
    let fleet = Fleet::new(1, DAILY);
    let source = fleet.scene.text_path("source.img");
    let new = fleet.scene.text_path("all/listed");
    let program = fleet.scene.text_path("list");
    let script = |body: &str| {
        fleet.scene.write("list", format!("#!/bin/sh\n{body}\n").as_bytes());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fleet.toml(&format!("archives_from = [\"{program}\", \"x\"]\n"));
    };
    for (body, words) in [
        ("exit 3", "ended with exit status: 3"),
        ("echo disks:", "line 1 of its output"),
        ("echo '{\"path\": \"relative\"}'", "expected an absolute path"),
    ] {
        script(body);
        let run = fleet.run(&["--fleet", "fleet.toml"]);
        assert_eq!(run.status, Some(1), "{body}");
        assert!(run.stderr.contains(words), "{body}: {}", run.stderr);
        let check = fleet.scene.run(&["check", "--fleet", "fleet.toml"]);
        assert!(check.status == Some(3) && check.text().contains(words), "{}", check.text());
    }
    assert_eq!(fleet.revisions("vm0"), 1);
    script(&format!("echo '{{\"path\": \"{new}\", \"source\": \"{source}\"}}'; test \"$1\" = x"));
    let run = fleet.run(&["--fleet", "fleet.toml"]);
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(fleet.revisions("listed"), 1);
}

/// Without arguments and without the file, the commands for many archives say what to give.
#[test]
fn a_command_for_many_archives_needs_some() {
    let scene = Scene::new();
    if std::path::Path::new("/etc/backy/fleet.toml").exists() {
        return;
    }
    for command in ["run", "check"] {
        let run = scene.run(&[command]);
        let (printed, status) = (run.text().to_owned() + &run.stderr, run.status);
        assert!(
            printed.contains("no archive was given") && printed.contains("/etc/backy/fleet.toml")
        );
        assert_eq!(status, Some(if command == "check" { 3 } else { 1 }));
    }
}

/// Wrong settings are named with line and column; a file that others can change is refused.
#[test]
fn wrong_settings_are_named() {
    let fleet = Fleet::new(1, DAILY);
    for (text, words) in [
        ("jobs = 0\n", "fleet.toml:2:8: jobs: found 0"),
        ("stall = \"soon\"\n", "fleet.toml:2:9: stall: found \"soon\""),
        ("archive = 3\n", "fleet.toml:2:11"),
        (
            "[[archive]]\npath = \"x\"\n",
            "fleet.toml:3:8: path: found \"x\", expected an absolute path",
        ),
        ("[[archive]]\n", "missing field `path`"),
        ("[groups]\n\"a b\" = 1\n", "fleet.toml:3:1: group: found \"a b\""),
        ("archives_from = [\"list\"]\n", "absolute path of a program"),
        ("jbos = 2\n", "unknown field `jbos`"),
    ] {
        fleet.toml(text);
        fleet.scene.fails(&["run", "--fleet", "fleet.toml"], &[words]);
    }
    fleet.toml("");
    fs::set_permissions(fleet.scene.path("fleet.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    fleet.scene.fails(&["run", "--fleet", "fleet.toml"], &["fleet.toml", "chmod go-w"]);
    assert_eq!(fleet.revisions("vm0"), 0);
    fleet.scene.fails(&["run", "--fleet", "none.toml"], &["none.toml"]);
    if is_root() {
        fleet.scene.works(&["run", "--trust", "--fleet", "fleet.toml"]);
    }
}

/// The programs of `doc/fleet.md` that list the disks of libvirt and of Ceph print what a run reads.
#[test]
fn the_listing_programs_of_the_document_work() {
    let scene = Scene::new();
    let tool = |name: &str, body: &str| {
        scene.write(name, format!("#!/bin/sh\n{body}\n").as_bytes());
        fs::set_permissions(scene.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    tool("rbd", "printf 'a\\nb\\n'");
    let disks = " Type   Device   Target   Source\n------\n file   disk     vda      /vm/a.img\n \
                 file   cdrom    sda      -\n block  disk     vdb      /dev/vg/a\n";
    tool(
        "virsh",
        &format!("case $1 in list) printf 'one\\n\\n' ;; *) cat <<'END'\n{disks}END\n;; esac"),
    );
    let document = include_str!("../../../../doc/fleet.md");
    let scripts: Vec<&str> =
        document.split("```sh\n").filter(|block| block.starts_with("#!/bin/sh")).collect();
    assert_eq!(scripts.len(), 2);
    let mut listed = Vec::new();
    for script in scripts {
        let script = script.split("```").next().unwrap();
        let path = format!("{}:/usr/bin:/bin", scene.text_path(""));
        let output =
            std::process::Command::new("sh").args(["-e", "-c", script]).env("PATH", path).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        listed.extend(backy_lib::config::Declared::parse_lines(&text, "list").unwrap());
    }
    let found: Vec<(String, String)> = listed
        .iter()
        .map(|one| {
            (one.path.display().to_string(), one.source.as_ref().unwrap().display().to_string())
        })
        .collect();
    let expected = [
        ("/srv/backup/one-vda", "libvirt:one/vda"),
        ("/srv/backup/one-vdb", "libvirt:one/vdb"),
        ("/srv/backup/a", "rbd:vms/a"),
        ("/srv/backup/b", "rbd:vms/b"),
    ];
    assert_eq!(found, expected.map(|(path, source)| (path.to_owned(), source.to_owned())));
    assert!(listed.iter().all(|one| one.include.is_some()));
}
