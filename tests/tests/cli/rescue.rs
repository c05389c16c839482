//! `dist/rescue/backy-rescue.py`, which people run when nothing else is left, perhaps as root on an archive from
//! elsewhere: whatever is in the files, it ends, says so in one line, and writes right bytes or names them as lost.

mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use backy_lib::archive::Archive;
use backy_lib::extent::Extent;
use backy_lib::progress::Silent;
use backy_lib::storage::sim::Random;
use backy_lib::{Manifest, RestoreOptions};
use backy_tests::command::checkout;
use backy_tests::memory::MemoryTarget;
use backy_tests::world;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 4096;

/// Damaged archives that are tried.
const ROUNDS: u64 = 300;

/// No run takes longer, whatever is in the archive. Usually one takes some hundredths of a second.
const PATIENCE: Duration = Duration::from_secs(60);

fn program() -> PathBuf {
    checkout().join("dist/rescue/backy-rescue.py")
}

fn golden_folder(name: &str) -> PathBuf {
    checkout().join("tests/golden").join(name)
}

/// The result of a run.
#[derive(Debug)]
struct Run {
    /// The exit status, or what a frame was unpacked to.
    value: Value,
    said: String,
}

/// Does the jobs in one process; see `rescue/runs.py`. None of them ends in a traceback or fails to end.
fn run_all(jobs: &[Value]) -> Vec<Run> {
    let mut child = Command::new("python3")
        .arg(checkout().join("tests/tests/cli/rescue/runs.py"))
        .arg(program())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
    let feeder = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("wait for it");
    feeder.join().expect("no panic").expect("it reads all jobs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let results: Vec<Run> = text
        .lines()
        .zip(jobs)
        .map(|(line, job)| {
            let result: Value = serde_json::from_str(line).expect("JSON");
            let said = result["said"].as_str().expect("a text").to_owned();
            assert!(
                result["crash"].is_null(),
                "{job}: {}",
                result["crash"].as_str().unwrap_or("?")
            );
            Run { value: result["value"].clone(), said }
        })
        .collect();
    assert_eq!(results.len(), jobs.len(), "it has stopped");
    results
}

/// Runs the program by itself. It ends in time.
fn run(arguments: &[&str]) -> Output {
    let start = Instant::now();
    let output =
        Command::new("python3").arg(program()).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("run python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(start.elapsed() < PATIENCE && !said.contains("Traceback"), "{arguments:?}: {said}");
    output
}

/// The last line is an error, and the exit status is that of one.
fn is_error(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(last.starts_with("backy-rescue: error: ") && last.contains(says), "{says}: {said}");
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = backy_tests::fuzz::scratch_folder();
    for entry in fs::read_dir(folder).expect("an archive").flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copy a file");
    }
    copy
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The content of a revision of an intact golden archive: its bytes, and which of them are lost for good.
struct Truth {
    bytes: Vec<u8>,
    lost: Vec<Extent>,
}

/// All revisions of a golden archive by their UUIDs, as the library reads them.
fn truths(name: &str) -> BTreeMap<String, Truth> {
    let archive = Archive::open(&golden_folder(name)).expect("a golden archive");
    let one = |number: usize| {
        let target = MemoryTarget::absent();
        let options = RestoreOptions { keep_going: true, ..world::restore_options() };
        let report = archive
            .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
            .expect("a restore");
        let truth = Truth { bytes: target.content(), lost: report.unreadable };
        (archive.revisions()[number].uuid.to_string(), truth)
    };
    (0..archive.revisions().len()).map(one).collect()
}

/// Damages one thing in a file: a bit, an extent, a number, or its end.
fn spoil(content: &mut Vec<u8>, random: &mut Random) {
    let len = content.len() as u64;
    if len == 0 {
        return;
    }
    // Often in the headers, since most reads depend on only a few bytes.
    let at = match random.below(3) {
        0 => random.below(len.min(600)),
        1 => random.below(len.min(20_000)),
        _ => random.below(len),
    } as usize;
    let end = content.len().min(at + 1 + random.below(600) as usize);
    match random.below(6) {
        0 => content[at] ^= 1 << random.below(8),
        1 => content[at..end].fill(0),
        2 => content[at..end].fill(0xff),
        3 => content.truncate(at),
        4 => content[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8),
        _ => {
            let numbers = [0, 1, 1 << 62, u64::MAX, random.number(), 4096 * random.below(20)];
            let number = numbers[random.below(6) as usize] | random.below(2) << 63;
            let at = at - at % 8;
            let end = content.len().min(at + 8);
            content[at..end].copy_from_slice(&number.to_be_bytes()[..end - at]);
        }
    }
}

/// What the program reports as lost.
fn lost(said: &str) -> Vec<Extent> {
    let lines = said.lines().filter_map(|line| line.strip_prefix("lost: bytes "));
    let extent = |line: &str| {
        let (start, end) = line.split_once(" to ").expect("two numbers");
        Extent::between(start.parse().expect("a number"), end.parse().expect("a number"))
    };
    lines.map(extent).collect()
}

/// After any damage to a few files of any golden archive, what the program calls right is right.
#[test]
fn any_damage_gives_right_bytes_or_names_what_is_lost() {
    let names = ["format-1", "format-1-alarms", "format-1-flawed", "format-1-kept"];
    let truths = names.map(truths);
    let folder = backy_tests::fuzz::scratch_folder();
    let mut random = Random(20_261_128);
    let (mut jobs, mut rounds) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let which = random.below(names.len() as u64) as usize;
        let archive = folder.path().join(format!("{round}"));
        fs::create_dir(&archive).expect("a folder");
        let mut files = Vec::new();
        for entry in fs::read_dir(golden_folder(names[which])).expect("an archive").flatten() {
            let name = entry.file_name().into_string().expect("UTF-8");
            fs::copy(entry.path(), archive.join(&name)).expect("copy a file");
            if [".raw", ".qcow2", ".digests", "manifest.json"].iter().any(|end| name.ends_with(end))
            {
                files.push(name);
            }
        }
        files.sort();
        for _ in 0..1 + random.below(3) {
            let path = archive.join(&files[random.below(files.len() as u64) as usize]);
            // An earlier step may have deleted it.
            let Ok(mut content) = fs::read(&path) else { continue };
            match random.below(20) {
                0 => drop(fs::remove_file(&path)),
                _ => {
                    spoil(&mut content, &mut random);
                    fs::write(&path, content).expect("rot");
                }
            }
        }
        let uuid = truths[which].keys().nth(random.below(truths[which].len() as u64) as usize);
        let uuid = uuid.expect("a revision").clone();
        let target = folder.path().join(format!("{round}.img"));
        jobs.push(json!({ "arguments": [text(&archive), uuid, text(&target)] }));
        rounds.push((which, uuid, target));
    }

    let (mut right, mut located) = (0, 0);
    for (job, (run, (which, uuid, target))) in jobs.iter().zip(run_all(&jobs).iter().zip(rounds)) {
        let Truth { bytes, lost: lost_before } = &truths[which][&uuid];
        let last = run.said.lines().last().unwrap_or_default();
        match (run.value.as_i64(), last) {
            (Some(0), line) if line.contains("the digest is right") => right += 1,
            (Some(1), line) if line.ends_with("all others are right") => located += 1,
            (Some(1), line) if line.contains("nothing says which") => continue,
            (Some(1), line) if line.starts_with("backy-rescue: error: ") => continue,
            _ => panic!("{job}: {run:?}"),
        }
        let mut found = fs::read(target).expect("what it wrote");
        let mut bytes = bytes.clone();
        assert_eq!(found.len(), bytes.len(), "{job}: {run:?}");
        assert!(run.value == 1 || lost_before.is_empty(), "{job}: {run:?}");
        for extent in lost(&run.said).iter().chain(lost_before) {
            found[extent.offset as usize..extent.end() as usize].fill(0);
            bytes[extent.offset as usize..extent.end() as usize].fill(0);
        }
        assert!(found == bytes, "{job}: {run:?}");
    }
    // Most damage is elsewhere, or costs some blocks. Damage that cannot be located is rare.
    assert!(right > ROUNDS / 3 && located > ROUNDS / 10, "{right} right, {located} located");
}

/// A zstd frame that is cut, damaged, or claims anything is unpacked to its content or to nothing, soon.
#[test]
fn any_zstd_frame_ends() {
    let content: Vec<u8> = (0..BLOCK).map(|at| (at / 50) as u8).collect();
    let frame = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.include_checksum(true).expect("a checksum");
        encoder.set_pledged_src_size(Some(BLOCK as u64)).expect("a size");
        encoder.write_all(&content).expect("memory");
        encoder.finish().expect("memory")
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut random = Random(8);
    let mut frames = vec![frame.clone(), [&frame[..], &[7; 400]].concat()];
    frames.extend((0..frame.len()).map(|len| frame[..len].to_vec()));
    // Endless raw blocks without length; blocks of one byte 128 KiB long, which would be 4 GiB.
    let head = &frame[..7];
    frames.push([head, &[0; 9000]].concat());
    let long = [0x02, 0x00, 0x10, 0x61].repeat(32_768);
    frames.push([head, &long, &[0x03, 0x00, 0x10, 0x61, 1, 2, 3, 4]].concat());
    for _ in 0..300 {
        let mut spoilt = frame.clone();
        (0..1 + random.below(3)).for_each(|_| spoil(&mut spoilt, &mut random));
        frames.push(spoilt);
    }
    let job = |frame: &Vec<u8>| json!({ "frame": hex(frame), "block_bytes": BLOCK });
    let jobs: Vec<Value> = frames.iter().map(job).collect();
    let results = run_all(&jobs);
    let right = json!(hex(&content));
    assert!(results[..2].iter().all(|run| run.value == right), "{:?}", results[0]);
    let parts = &results[2..2 + frame.len()];
    assert!(
        parts.iter().all(|run| run.value.is_null()),
        "a part of a frame was taken for all of it"
    );
    assert!(results.iter().all(|run| run.value.is_null() || run.value == right));
}

/// Puts a manifest into an archive, with the checksum that it should have.
fn put_manifest(archive: &Path, manifest: &Value) {
    let body = serde_json::to_string(manifest).expect("JSON");
    put_raw_manifest(archive, &format!("{{\"checksum\": \"{}\", {}", "0".repeat(64), &body[1..]));
}

fn put_raw_manifest(archive: &Path, text: &str) {
    let digest: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    let sealed = text.replacen(&"0".repeat(64), &digest, 1);
    fs::write(archive.join("manifest.json"), sealed).expect("a manifest");
}

/// The manifest of a golden archive without its checksum.
fn manifest(archive: &Path) -> Value {
    let text = fs::read(archive.join("manifest.json")).expect("a manifest");
    let mut value: Value = serde_json::from_slice(&text).expect("JSON");
    value.as_object_mut().expect("an object").remove("checksum");
    value
}

/// A block whose digest is damaged is right all the same when the digest of the revision is.
#[test]
fn damaged_digests_cost_nothing() {
    let base = copy_of(&golden_folder("format-1"));
    for entry in fs::read_dir(base.path()).expect("the copy").flatten() {
        let path = entry.path();
        if text(&path).ends_with(".digests") {
            let mut content = fs::read(&path).expect("digests");
            content[BLOCK..].iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(&path, content).expect("rot");
        }
    }
    for (uuid, truth) in truths("format-1") {
        let target = base.path().with_extension("img");
        let output = run(&[text(base.path()), &uuid, text(&target)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("those of single blocks are not"),
            "{said}"
        );
        assert!(fs::read(&target).expect("an image") == truth.bytes, "{uuid}");
        fs::remove_file(&target).expect("an image");
    }
}

/// An existing target stays as it is without the option to overwrite it. With it, it is the revision and nothing
/// else. Nobody else can read it.
#[test]
fn a_target_is_overwritten_only_when_asked() {
    let base = copy_of(&golden_folder("format-1"));
    let outside = backy_tests::fuzz::scratch_folder();
    let target = outside.path().join("out.img");
    let archive = text(base.path());
    let (uuid, truth) = truths("format-1").into_iter().next().expect("a revision");

    assert!(run(&[archive, &uuid, text(&target)]).status.success());
    let mode = fs::metadata(&target).expect("an image").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(&target, vec![7; 100_000]).expect("something else");
    is_error(&run(&[archive, &uuid, text(&target)]), "exists; --force overwrites it");
    assert!(fs::read(&target).expect("it") == [7; 100_000]);
    assert!(run(&["--force", archive, &uuid, text(&target)]).status.success());
    assert!(fs::read(&target).expect("an image") == truth.bytes);

    // No file of the archive is a target, by whatever name.
    let image = base.path().join("last.raw");
    let before = fs::read(&image).expect("the image");
    for (number, name) in ["hard", "soft"].into_iter().enumerate() {
        let other = base.path().with_extension(name);
        match number {
            0 => fs::hard_link(&image, &other).expect("a hard link"),
            _ => symlink(&image, &other).expect("a link"),
        }
        is_error(&run(&["--force", archive, &uuid, text(&other)]), "archive, which is only read");
        fs::remove_file(&other).expect("the link");
    }
    assert!(fs::read(&image).expect("the image") == before);
    is_error(
        &run(&["--force", archive, &uuid, text(outside.path())]),
        "neither a file nor a block device",
    );
    is_error(&run(&[archive, &uuid, "/dev/full/x"]), "/dev/full/x: Not a directory");
}

/// Help is help, and a wrong call prints the right one, all in one line.
#[test]
fn rescue_usage_errors_are_one_line() {
    let output = run(&["--help"]);
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success() && said.contains("Exit status: 0"), "{said}");
    is_error(&run(&[]), "expected ARCHIVE, or ARCHIVE REVISION TARGET");
    is_error(&run(&["one", "two"]), "expected ARCHIVE, or ARCHIVE REVISION TARGET");
    is_error(&run(&["--unknown"]), "--help says more");
    is_error(&run(&["/nonexistent"]), "/nonexistent: No such file or directory");
    let archive = golden_folder("format-1");
    is_error(&run(&[text(&archive), "9", "out"]), "found no revision 9");
}

/// The program does not run modules that lie in an archive beside it.
#[test]
fn modules_beside_the_program_are_not_run() {
    let base = copy_of(&golden_folder("format-1"));
    let program = base.path().join("backy-rescue.py");
    fs::copy(self::program(), &program).expect("the program");
    for module in ["json", "struct", "hashlib", "zlib", "compression"] {
        let code = format!("open({:?}, 'w')", text(&base.path().join("was-run")));
        fs::write(base.path().join(format!("{module}.py")), code).expect("a module");
    }
    let output = Command::new("python3").arg(&program).arg(".").current_dir(base.path()).output();
    let output = output.expect("run python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!base.path().join("was-run").exists());
}
