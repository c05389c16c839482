//! Hint programs: each backup is compared byte for byte with the source, whatever the program says.
//!
//! The program is a script that keeps copies of a file as its marks, and a list of changes for each.

mod refused;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::Duration;

use backy_tests::command::checkout;
use serde_json::Value;
use tempfile::TempDir;

use crate::mounted::until;
use crate::site::{Site, noise, run, text, words, works};
use crate::stand_ins::{PARENT, StandIns, kill_at_each_of, with};

const UNIT: u64 = 64 << 10;

/// A size that is no multiple of the block size.
const BYTES: usize = (2 << 20) + 1000;

/// The program; `$0` is in the folder of the scene.
const PROGRAM: &str = r#"
cd "$(dirname "$0")/.." || exit 1
read -r request
name=$(printf '%s' "$request" | sed -n 's/.*"name":"\([^"]*\)".*/\1/p')
echo '{"version": 1}'
case $request in
*'"request":"identity"'*) printf '{"identity": "%s"}\n' "$(cat identity)" ;;
*'"request":"mark"'*)
    cp source "marks/$name" && : >"changes/$name"
    if [ -e with-path ]; then path=", \"path\": \"$PWD/marks/$name\""; fi
    printf '{"id": "%s"%s}\n' "$(stat -c %i-%W "marks/$name")" "$path" ;;
*'"request":"changed_extents"'*)
    id=$(printf '%s' "$request" | sed 's/.*"id":"\([^"]*\)".*/\1/')
    if [ "$(stat -c %i-%W "marks/$name")" = "$id" ]; then cat "changes/$name"
    else echo '{"unknown": "the mark is missing"}'; fi ;;
*'"request":"holes"'*) cat holes ;;
*'"request":"settle"'*)
    archive=$(printf '%s' "$request" | sed 's/.*"archive":"\([^"]*\)".*/\1/')
    keep=$(printf '%s' "$request" | sed -n 's/.*"keep":"\([^"]*\)".*/\1/p')
    for mark in marks/*; do case ${mark#marks/} in
        "$keep") ;;
        "backy.$archive."*) rm "$mark" "changes/${mark#marks/}" ;;
    esac; done ;;
*) exit 9 ;;
esac
echo '{"done": true}'
"#;

struct Scene {
    folder: TempDir,
    site: Site,
}

impl Scene {
    fn new() -> Self {
        Scene::with_command("[\"hinting\", \"one\"]")
    }

    fn with_command(command: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["marks", "changes", "bin"] {
            fs::create_dir(folder.path().join(name)).expect("make a folder");
        }
        let source = folder.path().join("source");
        fs::write(&source, noise(1, BYTES)).expect("write the source");
        let site = Site::init(folder.path(), &source);
        site.configure(|config| format!("{config}[tracking]\ncommand = {command}\n"));
        let scene = Scene { folder, site };
        scene.put("identity", "volume 1");
        scene.put("holes", "{\"unknown\": \"nobody looks\"}\n");
        scene.put_program("hinting", PROGRAM);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("write a file");
    }

    fn put_program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}")).expect("write a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }

    /// Where programs are found.
    fn programs(&self) -> String {
        format!("PATH={}:{}", text(&self.path("bin")), std::env::var("PATH").expect("a PATH"))
    }

    fn command(&self, args: &[&str]) -> Command {
        with(&[self.programs()], &self.site.backy(args))
    }

    fn disk(&self) -> Vec<u8> {
        fs::read(&self.site.source).expect("read the source")
    }

    /// Writes to the source, and notes that for each mark.
    fn write(&self, offset: u64, length: usize, value: u8) {
        self.write_unnoticed(offset, length, value);
        for entry in fs::read_dir(self.path("changes")).expect("list the changes") {
            let path = entry.expect("an entry").path();
            let mut file = OpenOptions::new().append(true).open(path).expect("open the changes");
            writeln!(file, "{{\"offset\": {offset}, \"length\": {length}}}")
                .expect("note a change");
        }
    }

    fn write_unnoticed(&self, offset: u64, length: usize, value: u8) {
        let file = OpenOptions::new().write(true).open(&self.site.source).expect("open the source");
        file.write_all_at(&vec![value; length], offset).expect("write to the source");
    }

    fn marks(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("marks")).expect("list the marks");
        entries
            .map(|entry| entry.expect("a mark").file_name().into_string().expect("a name"))
            .collect()
    }

    /// A backup, which has to be of the source as it is; what it says about changes, and how much it read.
    fn backup(&mut self) -> (Value, u64) {
        let output = run(&mut self.command(&["backup", "--force", "--json"]));
        let revision = self.taken(&output);
        (
            revision["hints"].clone(),
            revision["statistics"]["read_bytes"].as_u64().expect("a number"),
        )
    }

    /// What a backup that has worked has made.
    fn taken(&mut self, output: &Output) -> Value {
        assert!(output.status.success(), "{}", words(output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let revision = report["revision"].clone();
        let state = self.disk();
        self.site.push(revision["uuid"].as_str().expect("a UUID"), &state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the source");
        revision
    }

    /// A backup that reads everything, for this reason; the one after it does not.
    fn doubts(&mut self, why: &str) {
        let (hints, read) = self.backup();
        assert!(reason(&hints).contains(why) && read == BYTES as u64, "{why}: {read}, {hints}");
        let (hints, read) = self.backup();
        assert!(hints["since"].is_string() && read == 0, "after '{why}': {read}, {hints}");
    }
}

fn reason(hints: &Value) -> &str {
    hints["reason"].as_str().unwrap_or_else(|| panic!("no reason: {hints}"))
}

/// Each backup reads what the program reports, from the source or from where the program says, and leaves one mark. A
/// hole is not read, and is zero even if it was not reported.
#[test]
fn only_what_a_program_reports_is_read() {
    for with_path in [true, false] {
        let mut scene = Scene::new();
        if with_path {
            scene.put("with-path", "");
        }
        let (hints, read) = scene.backup();
        assert_eq!((reason(&hints), read), ("this is the first backup", BYTES as u64));
        scene.write(100_000, 10, 17);
        scene.write(BYTES as u64 - 5, 5, 18);
        scene.write(100_005, 10, 19);
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string() && read <= 2 * UNIT, "{read}, {hints}");
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string() && read == 0, "{read}, {hints}");
        scene.write_unnoticed(4 * UNIT, 3 * UNIT as usize, 0);
        scene.put("holes", &format!("{{\"offset\": {}, \"length\": {}}}\n", 4 * UNIT, 3 * UNIT));
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string() && read == 0, "{read}, {hints}");
        assert_eq!(scene.marks().len(), 1);
        let said = works(&mut scene.command(&["source"]));
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("command"), "{said}");
        scene.site.configure(|config| format!("{config}mode = \"off\"\n"));
        let (hints, read) = scene.backup();
        assert!(reason(&hints).contains("mode = \"off\"") && read > 0, "{hints}");
        assert_eq!(scene.marks().len(), 0);
        scene.site.check_at_rest();
    }
}

/// Where the program gives a path, the source may change while it is read.
#[test]
fn a_revision_is_the_source_at_the_mark() {
    let mut scene = Scene::new();
    scene.put("with-path", "");
    scene.backup();
    let state = scene.disk();
    // The program changes the source after each mark.
    let also = "case $request in *'\"request\":\"mark\"'*) \
                printf x | dd of=source bs=1 seek=70000 conv=notrunc 2>&-;; esac\necho '{\"done\"";
    scene.put_program("hinting", &PROGRAM.replace("echo '{\"done\"", also));
    let output = run(&mut scene.command(&["backup", "--force", "--json"]));
    assert!(output.status.success(), "{}", words(&output));
    let image = fs::read(scene.site.folder.join("last.raw")).expect("read last.raw");
    assert!(image == state && scene.disk() != state, "last.raw is not the source at the mark");
}

/// Another source, and a mark that is gone or was made again: everything is read, and the revision says why.
#[test]
fn what_a_program_does_not_know_is_a_doubt() {
    let mut scene = Scene::new();
    scene.backup();
    scene.put("identity", "volume 2");
    scene.write_unnoticed(UNIT, 10, 21);
    scene.doubts("it is another source: found volume 2, expected volume 1");
    let mark = scene.path("marks").join(&scene.marks()[0]);
    fs::copy(&mark, scene.path("copy")).expect("copy a mark");
    fs::rename(scene.path("copy"), &mark).expect("make a mark again");
    scene.write_unnoticed(2 * UNIT, 10, 22);
    scene.doubts("'hinting' does not know what has changed: the mark is missing");
    scene.site.configure(|config| format!("{config}mode = \"require\"\n"));
    scene.put("identity", "volume 3");
    let output = run(&mut scene.command(&["backup", "--force"]));
    let said = words(&output);
    assert!(!output.status.success() && said.contains("it is another source"), "{said}");
    scene.site.check_at_rest();
}

/// A program that does not report a change is found out by the blocks that are compared anyway: that revision is right,
/// and there is an alarm.
#[test]
fn a_program_that_lies_is_found_out() {
    let mut scene = Scene::new();
    scene.site.configure(|config| format!("{config}verify_within = \"1s\"\n"));
    scene.backup();
    scene.write_unnoticed(5 * UNIT, 10, 23);
    sleep(Duration::from_millis(1100));
    let output = run(&mut scene.command(&["backup", "--force", "--json"]));
    let revision = scene.taken(&output);
    let why = reason(&revision["hints"]);
    assert!(why.contains("the source reports no change of block 5, but it has changed"), "{why}");
    let said = words(&output);
    assert!(said.contains("the source has not reported a change of block 5"), "{said}");
    scene.site.check_at_rest_here();
}

/// What a restore writes to the source need not be seen by the program: the marks are removed before, and the next
/// backup reads everything. If that fails, nothing is written. Another target has nothing to do with it.
#[test]
fn a_restore_onto_the_source_removes_the_marks() {
    let mut scene = Scene::new();
    scene.backup();
    scene.write(UNIT, 10, 31);
    scene.backup();
    let elsewhere = scene.path("elsewhere");
    works(&mut scene.command(&["restore", "-r", "1", text(&elsewhere)]));
    works(&mut scene.command(&["restore", "-r", "1", "--dry-run"]));
    assert_eq!(scene.marks().len(), 1);
    let before = scene.disk();
    scene.put_program("hinting", "echo no such luck >&2; exit 3");
    let output = run(&mut scene.command(&["restore", "-r", "1"]));
    let said = words(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("no such luck") && said.contains("--read-all"), "{said}");
    assert!(scene.disk() == before, "the source has changed");
    scene.put_program("hinting", PROGRAM);
    works(&mut scene.command(&["restore", "-r", "1"]));
    assert!(scene.disk() == fs::read(elsewhere).expect("read it"), "another revision");
    assert_eq!(scene.marks().len(), 0);
    scene.doubts("does not know what has changed");
    scene.site.check_at_rest();
}

/// A backup that is killed at each request, before it is answered or after: the next one reads only what has changed,
/// and leaves one mark.
#[test]
fn a_backup_killed_at_a_request_leaves_no_mark_for_long() {
    let mut scene = Scene::new();
    scene.put("with-path", "");
    scene.backup();
    let program = text(&scene.path("bin")).to_owned() + "/hinting \"$@\"";
    let programs = [("hinting".to_owned(), PARENT.to_owned(), program.clone())];
    let mut round = 0;
    let killed = kill_at_each_of(&programs, &["exit 1", "true"], |moment, settings| {
        round += 1;
        scene.write(round % 30 * UNIT, 100, round as u8);
        let output = run(&mut with(settings, &scene.site.backy(&["backup", "--force"])));
        until("the program has ended", || !is_running(&program));
        let state = scene.disk();
        scene.site.reconcile(&[], Some(&state));
        if output.status.success() {
            return true;
        }
        assert_eq!(output.status.code(), None, "{moment}: {}", words(&output));
        let (hints, read) = scene.backup();
        assert!(hints["since"].is_string() && read <= UNIT, "{moment}: {read}, {hints}");
        assert_eq!(scene.marks().len(), 1, "{moment}");
        false
    });
    assert!(killed >= 10, "only {killed} moments");
    scene.site.check_at_rest();
}

fn is_running(program: &str) -> bool {
    let path = program.split(' ').next().unwrap_or_default();
    let entries = fs::read_dir("/proc").expect("list the processes");
    let mut lines = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(path))
}

/// Stands in for the commands of a storage system, of which the document has an example.
const STORECTL: &str = r#"
import json, os, shutil, sys
os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0]))))
command, volume, *names = sys.argv[1:]
assert volume == "mynode", volume
def known(name):
    path = os.path.abspath("marks/" + name)
    return {"name": name, "uuid": str(os.stat(path).st_ino), "device": path}
if command == "show":
    said = {"uuid": "volume 1"}
elif command == "snapshot":
    shutil.copyfile("source", "marks/" + names[0])
    said = known(names[0])
elif command == "snapshots":
    said = [known(name) for name in os.listdir("marks")]
elif command == "diff":
    old, new = (open("marks/" + name, "rb").read() for name in names)
    said = [[at, min(4096, len(new) - at)] for at in range(0, len(new), 4096) if old[at:at + 4096] != new[at:at + 4096]]
elif command == "remove":
    os.unlink("marks/" + names[0])
    said = None
print(json.dumps(said))
"#;

/// The example of `doc/hint-program.md` does what it is for.
#[test]
fn the_example_of_a_hint_program_works() {
    let document =
        fs::read_to_string(checkout().join("doc/hint-program.md")).expect("read the document");
    let example =
        document.split("```python example\n").nth(1).and_then(|rest| rest.split("```\n").next());
    let mut scene = Scene::with_command("[\"backy-mystorage\", \"mynode\"]");
    scene.put("example.py", example.expect("an example"));
    scene.put("storectl.py", "");
    scene.put_program(
        "backy-mystorage",
        "exec python3 \"$(dirname \"$0\")/../example.py\" \"$@\"\n",
    );
    let storectl = scene.path("bin").join("storectl");
    scene.put_program("storectl", "");
    fs::write(storectl, format!("#!/usr/bin/env python3\n{STORECTL}")).expect("write a program");
    scene.backup();
    scene.write_unnoticed(100_000, 10, 24);
    let (hints, read) = scene.backup();
    assert!(hints["since"].is_string() && read <= UNIT, "{read}, {hints}");
    let [mark] = scene.marks().try_into().expect("one mark");
    fs::remove_file(scene.path("marks").join(&mark)).expect("remove a mark");
    scene.write_unnoticed(200_000, 10, 25);
    scene.doubts(&format!("the snapshot {mark} is missing"));
    let asked = document.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut shell =
        with(&[scene.programs()], Command::new("sh").args(["-c", asked.expect("a command")]));
    let said = works(&mut shell);
    let lines = "{\"version\": 1}\n{\"identity\": \"volume 1\"}\n{\"done\": true}\n";
    assert_eq!(String::from_utf8_lossy(&said), lines);
    scene.site.check_at_rest();
}

/// Programs that are found before the others.
fn first(stand_ins: &StandIns, scene: &Scene) -> String {
    format!("{}:{}", stand_ins.only(), scene.programs().trim_start_matches("PATH="))
}
