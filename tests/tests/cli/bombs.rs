//! Files that claim a great deal cost little, and a signal ends every command within moments.

use std::fs::File;
use std::io::Write;
use std::process::Child;
use std::time::{Duration, Instant};

use backy_lib::format::digests::{DigestsHeader, entry_offset};
use backy_lib::format::manifest::{Manifest, Revision, Statistics};
use backy_lib::format::qcow2::Layout;
use backy_lib::storage::DigestsKind;
use backy_lib::units::BlockIndex;
use backy_lib::{BlockSize, Digest, RevisionId};
use backy_tests::legacy;
use jiff::Timestamp;

use super::harness::{Run, Scene, tool};

/// How long a command may take to end on a busy machine. The failures that these tests guard against take far longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program started with this has as much address space as the number says, in KiB.
const LIMITED: [&str; 4] = ["sh", "-c", "ulimit -v $0 && exec \"$@\"", "1048576"];

/// A scene whose archive is one revision of nothing but holes, as large as possible in blocks of 4 KiB, which take no
/// space on disk.
fn holes() -> Scene {
    let scene = Scene::new();
    let (size, now) = (BlockSize::MIN, Timestamp::UNIX_EPOCH);
    let bytes = Layout::max_image_bytes(size);
    let id = RevisionId::new(now);
    let revision =
        Revision::newest(id, now, now, bytes, Digest::of(b"another"), Statistics::default());
    std::fs::create_dir(scene.path("a")).unwrap();
    let header = DigestsHeader::new(DigestsKind::Image, &revision, size).encode().unwrap();
    let digests = format!("a/{}", revision.digests_file());
    scene.write(&digests, &header);
    let table = File::options().write(true).open(scene.path(&digests)).unwrap();
    table.set_len(entry_offset(BlockIndex(size.count(bytes)))).unwrap();
    File::create(scene.path("a/last.raw")).unwrap().set_len(bytes).unwrap();
    File::create(scene.path("holes.img")).unwrap().set_len(bytes).unwrap();
    let mut manifest = Manifest::new(size);
    manifest.push_newest(revision);
    scene.write("a/manifest.json", &manifest.encode().unwrap());
    scene.write("a/backy.toml", format!("source = {:?}\n", scene.path("holes.img")).as_bytes());
    scene
}

/// Waits until a command has ended, and returns its output. Its standard output is not read before.
fn end_of(mut child: Child, what: &str) -> Run {
    let began = Instant::now();
    while child.try_wait().expect("look for it").is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().expect("kill it");
            panic!("{what}: still at it {PATIENCE:?} after SIGTERM");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("what it said").into()
}

fn terminate(child: &Child) {
    let run = tool("kill", &["-s", "TERM", &child.id().to_string()]).expect("kill");
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// Starts a command, sends SIGTERM while it works, and waits for its end.
fn stopped(scene: &Scene, args: &[&str]) -> Run {
    let starter = ["env", "--default-signal=TERM"];
    let mut child = scene.command_under(&starter, args).spawn().expect("start it");
    std::thread::sleep(Duration::from_secs(1));
    let early = child.try_wait().expect("look for it");
    assert_eq!(early, None, "{args:?} has nothing to do: {:?}", child.wait_with_output());
    terminate(&child);
    end_of(child, &args.join(" "))
}

/// A signal ends hours of work that a few files claim.
#[test]
fn a_signal_ends_every_command() {
    let scene = holes();
    for line in [
        "-b a scrub -n",
        "-b a scrub",
        "-b a scrub --rebuild --force",
        "-b a restore new.img",
        "-b a restore --keep-going new.img",
        "-b a restore -",
        "-b a restore --dry-run holes.img",
        "-b a drill",
        "-b a export new.qcow2",
        "-b a backup --force",
    ] {
        let run = stopped(&scene, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(run.status, Some(1), "{line}: {run:?}");
        assert!(!scene.path("new.img").exists() && !scene.path("new.qcow2").exists(), "{line}");
    }
}

/// A signal ends what an import tries for minutes, too.
#[test]
fn a_signal_ends_an_import() {
    const BLOCK_BYTES: u64 = 64 << 20;
    let scene = Scene::new();
    std::fs::create_dir(scene.path("old")).unwrap();
    scene.write("old/config", format!(r#"{{"chunksize": {BLOCK_BYTES}}}"#).as_bytes());
    for number in 0..8 {
        // No run of zeros has this MD5, and every length is tried.
        old_file(&scene, number, BLOCK_BYTES, 1, r#"{"0": "00000000000000000000000000000000"}"#);
    }
    let run = stopped(&scene, &["-b", "new", "import", "old"]);
    assert_eq!(run.status, Some(1), "{run:?}");
}

/// A full revision of 2014 whose data file is a hole.
fn old_file(scene: &Scene, number: usize, bytes: u64, blocks: u64, sums: &str) {
    let name = legacy::uuid(number);
    File::create(scene.path(&format!("old/{name}"))).unwrap().set_len(bytes).unwrap();
    let rev = format!(
        r#"{{"uuid": "{name}", "timestamp": {}, "blocks": {blocks}, "type": "full", "blocksums": {sums}}}"#,
        1_396_272_454 + number
    );
    scene.write(&format!("old/{name}.rev"), rev.as_bytes());
}

/// An archive of 2014 of a few KiB that claims a great many blocks is refused before they take memory.
#[test]
fn an_old_archive_of_holes_is_refused() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("old")).unwrap();
    scene.write("old/config", br#"{"chunksize": 1}"#);
    for number in 0..8 {
        old_file(&scene, number, 9 << 20, 9 << 20, "{}");
    }
    let command = scene.command_under(&LIMITED, &["-b", "new", "import", "old"]);
    let message = scene.refuses_run(command, &["more than 16777216 old blocks"]);
    assert!(message.contains("old: "), "{message}");
}

/// A command whose output nobody reads any more still ends, whether it prints a result or an image.
#[test]
fn a_signal_ends_a_command_that_waits_for_a_reader() {
    let (scene, _) = Scene::with_revisions(1);
    for line in ["-b a restore -", "-b a status", "-b a scrub -n --json", "report -o - a", "man"] {
        let args: Vec<&str> = line.split(' ').collect();
        let (_reader, mut full) = std::io::pipe().expect("a pipe");
        full.write_all(&[0; 1 << 16]).expect("as much as it takes");
        let mut command = scene.command_under(&["env", "--default-signal=TERM"], &args);
        let mut child = command.stdout(full).spawn().expect("start it");
        drop(command);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(child.try_wait().expect("look for it"), None, "{line} has not waited");
        terminate(&child);
        let run = end_of(child, line);
        assert_eq!(run.status, Some(1), "{line}: {}", run.stderr);
    }
}

/// Writes a manifest with an insertion, and with the checksum that it needs.
fn write_manifest(scene: &Scene, change: impl Fn(String) -> String) {
    let text = String::from_utf8(Manifest::new(BlockSize::DEFAULT).encode().unwrap()).unwrap();
    let (before, rest) = text.split_once("\"checksum\": \"").unwrap();
    let zeros = "0".repeat(64);
    let blank = change(format!("{before}\"checksum\": \"{zeros}{}", &rest[64..]));
    let checksum = Digest::of(blank.as_bytes()).to_string();
    scene.write("a/manifest.json", blank.replacen(&zeros, &checksum, 1).as_bytes());
}

/// A manifest of the greatest length that is full of what no program writes is refused with a sentence, in 1 GiB of
/// address space.
#[test]
fn a_manifest_of_huge_claims_is_refused_in_little_memory() {
    const LEN: usize = 60 << 20;
    let scene = Scene::with_archive();
    let list = |value: &str| format!("[{}0]", format!("{value},").repeat(LEN / (value.len() + 1)));
    let field = |value: String| format!("\"format\": 1,\n  \"later\": {value}");
    let names: String = (0..LEN / 16).map(|n| format!(",\"x{n:08}\": 0")).collect();
    for (what, from, to, word) in [
        ("numbers", "\"format\": 1", field(list("0")), "\\\"later\\\""),
        ("lists", "\"format\": 1", field(list("[]")), "\\\"later\\\""),
        ("objects", "\"format\": 1", field(list("{\"\":0}")), "\\\"later\\\""),
        ("nesting", "\"format\": 1", field("[".repeat(LEN / 2) + &"]".repeat(LEN / 2)), "nested"),
        ("names", "\"format\": 1", format!("\"format\": 1{names}"), "x00"),
        ("features", "\"compatible\": []", format!("\"compatible\": {}", list("\"\"")), "256"),
        ("needs", "\"incompatible\": []", format!("\"incompatible\": {}", list("\"\"")), "256"),
        ("files", "\"format\": 1", format!("\"format\": 1, \"removable\": {}", list("\"\"")), "''"),
    ] {
        write_manifest(&scene, |text| text.replacen(from, &to, 1));
        let run = scene.command_under(&LIMITED, &["-b", "a", "status"]).output();
        let run: Run = run.expect("run backy").into();
        assert_eq!(run.status, Some(1), "{what}: {run:?}");
        let stderr = run.stderr.replace('"', "\\\"");
        assert!(stderr.contains("manifest.json") && stderr.contains(word), "{what}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    }
}

/// Very many revisions whose files are all missing take a scrub seconds, though each of them costs all older ones,
/// and the list of names is bounded.
#[test]
fn scrub_of_many_missing_revisions_takes_seconds() {
    const REVISIONS: i64 = 10_000;
    let scene = Scene::with_archive();
    let mut manifest = Manifest::new(BlockSize::MIN);
    for second in 1..=REVISIONS {
        let now = Timestamp::from_second(second).unwrap();
        let (id, digest) = (RevisionId::new(now), Digest::of(b"another"));
        manifest.revisions.push(Revision::newest(
            id,
            now,
            now,
            4096,
            digest,
            Statistics::default(),
        ));
    }
    for number in 1..manifest.revisions.len() {
        let newer = manifest.revisions[number - 1].uuid;
        let older = &mut manifest.revisions[number];
        (older.image, older.base) = (format!("{}.qcow2", older.uuid), Some(newer));
    }
    scene.write("a/manifest.json", &manifest.encode().unwrap());
    let began = Instant::now();
    let run = scene.command_under(&LIMITED, &["-b", "a", "scrub", "-n", "--json"]).output();
    let run: Run = run.expect("run backy").into();
    assert_eq!(run.status, Some(1), "{}", run.stderr);
    let report = run.json();
    let findings = report["findings"].as_array().expect("findings");
    let affected = findings.iter().filter_map(|finding| finding["affected"].as_array());
    let named: usize = affected.map(Vec::len).sum();
    assert!(findings.len() as i64 >= REVISIONS && named < 1 << 20, "{} {named}", findings.len());
    // If each named all older ones, it would take half an hour.
    assert!(began.elapsed().as_secs() < 120, "{:?}", began.elapsed());
}

/// What controls a terminal, a browser or the order of a line, as names and files may contain it.
const HOSTILE: &str =
    "x\u{1b}]0;t\u{7}\n\u{9b}31m\u{85}\u{61c}\u{200e}\u{200f}\u{2028}\u{202e}\u{2067}<img>|\"y";

fn is_hostile(c: char) -> bool {
    c != '\n' && c.is_control()
        || "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}".contains(c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// No output has characters that control what shows it, whatever the names and files say: no text, JSON, log, page or
/// line for monitoring, and not the history.
#[test]
fn control_characters_reach_no_output() {
    let (scene, _) = Scene::with_revisions(1);
    let folder = format!("top/{HOSTILE}");
    std::fs::create_dir(scene.path("top")).unwrap();
    std::fs::rename(scene.path("a"), scene.path(&folder)).unwrap();
    // A source that is not there: the error is in the history, and is a problem of status.
    let missing = format!("source = \"/x{}\"\n", "\\u202E\\u009B\\u2028");
    scene.write(&format!("{folder}/backy.toml"), missing.as_bytes());
    assert_eq!(scene.run(&["-b", &folder, "backup", "--force"]).status, Some(1));
    let history = scene.read_text(&format!("{folder}/history.jsonl"));
    assert!(history.contains("\\u202e") && !history.contains(is_hostile), "{history}");
    let archive = ["-b", &folder];
    let of_archive: &[&[&str]] = &[
        &["status"],
        &["status", "--check"],
        &["status", "--json"],
        &["status", "--prometheus"],
        &["backup", "--force"],
        &["-v", "--log-format", "text", "scrub", "-n"],
        &["-v", "--log-format", "json", "scrub", "-n"],
        &["-v", "--log-format", "journal", "scrub", "-n"],
        &["maintenance", "-n"],
        &["restore", "--dry-run", HOSTILE],
        &["restore", "-r", HOSTILE],
        &["tag", "0", HOSTILE],
        &["export", HOSTILE],
        &["import", HOSTILE],
        &[HOSTILE],
    ];
    let of_many: &[&[&str]] = &[
        &["check", "top"],
        &["check", "--json", "top"],
        &["check", "--nagios", "top"],
        &["check", "--prometheus", "top"],
        &["report", "-o", "-", "top"],
    ];
    let all = of_archive.iter().map(|args| [&archive, *args].concat());
    for args in all.chain(of_many.iter().map(|args| args.to_vec())) {
        let run = scene.run(&args);
        let said = format!("{}{}", run.text(), run.stderr);
        let is_silent = ["restore", "export"].iter().any(|word| args.contains(word));
        assert!(!said.is_empty() || is_silent, "{args:?}");
        assert!(!said.contains(is_hostile), "{args:?}: {said:?}");
        // Where a browser shows it.
        let is_for_pages = ["--check", "--nagios", "report"].iter().any(|word| args.contains(word));
        assert!(!is_for_pages || !said.contains("<img"), "{args:?}: {said}");
    }
    // For a program it is the path as it is.
    let found = scene.works(&["-b", &folder, "find"]);
    assert!(found.text().ends_with(&format!("{HOSTILE}/last.raw\n")), "{found:?}");
}
