//! `doc/disaster.md`: `dd`, `qemu-img` and Python restore everything where there is no backy.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use backy_tests::command::checkout;

use super::output::backy_in;
use super::{code_blocks, document};

const BLOCK_BYTES: usize = 65536;

/// States of a disk, oldest first: odd sizes, growing and shrinking, with holes, text and noise.
fn states() -> [Vec<u8>; 3] {
    let noise = |seed: u32, len: usize| {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(next).collect::<Vec<u8>>()
    };
    let mut first = vec![0; 9 * BLOCK_BYTES + 1000];
    first[..BLOCK_BYTES].fill(b'a');
    first[3 * BLOCK_BYTES..5 * BLOCK_BYTES].copy_from_slice(&noise(1, 2 * BLOCK_BYTES));
    first[8 * BLOCK_BYTES..].fill(b'e');
    let mut second = first[..6 * BLOCK_BYTES - 77].to_vec();
    second[2 * BLOCK_BYTES..3 * BLOCK_BYTES].fill(b'b');
    let mut third = second.clone();
    third.resize(11 * BLOCK_BYTES + 3, 0);
    third[4 * BLOCK_BYTES..5 * BLOCK_BYTES].copy_from_slice(&noise(2, BLOCK_BYTES));
    third[10 * BLOCK_BYTES..].fill(b'c');
    [first, second, third]
}

/// A folder with the archive `mynode`, one revision for each state, and the rescue program.
fn scene(states: &[Vec<u8>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    fs::write(&source, &states[0]).expect("a source");
    let run = |arguments: &[&str]| {
        let output = backy_in(folder.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["init", "source"]);
    for state in states {
        fs::write(&source, state).expect("a source");
        run(&["backup", "--force"]);
    }
    // A drill leaves its own size in the manifest, behind all others.
    run(&["drill", "--revision", "0"]);
    fs::rename(folder.path().join("archive"), folder.path().join("mynode")).expect("a name");
    fs::remove_file(&source).expect("the disk is dead");
    let program = "dist/rescue/backy-rescue.py";
    fs::copy(checkout().join(program), folder.path().join("backy-rescue.py")).expect("the program");
    folder
}

/// Runs a script with only the programs that the document names, and no backy, in its `PATH`.
fn run_without_backy(folder: &Path, script: &str) -> Output {
    let bin = folder.join("bin");
    if !bin.exists() {
        fs::create_dir(&bin).expect("a folder");
        let tools = [
            "cat", "cp", "dd", "find", "flock", "grep", "qemu-img", "sed", "tail", "truncate",
            "zstd",
        ];
        let tools = tools.map(|tool| (tool, format!("command -v {tool}")));
        // `python3` may be a script that needs more than these.
        let python = "python3 -c 'import sys; print(sys.executable)'".to_owned();
        for (tool, finds) in tools.into_iter().chain([("python3", python)]) {
            let path = Command::new("sh").args(["-c", &finds]).output();
            let path = String::from_utf8(path.expect("run sh").stdout).expect("UTF-8");
            assert!(!path.is_empty(), "{tool} is missing");
            symlink(path.trim(), bin.join(tool)).expect("a link");
        }
    }
    let output = Command::new("/bin/sh")
        .args(["-e", "-c", script])
        .env("PATH", &bin)
        .current_dir(folder)
        .output();
    output.expect("run sh")
}

fn rescue(folder: &Path, arguments: &str) -> (bool, String) {
    let output = run_without_backy(folder, &format!("python3 backy-rescue.py {arguments}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

/// The commands of the document, as they stand there, restore the newest, an older and the oldest revision.
#[test]
fn the_commands_get_everything_back_without_backy() {
    if !backy_tests::qemu::available() {
        return;
    }
    let states = states();
    let folder = scene(&states);
    let text = document("doc/disaster.md");
    let script: String = code_blocks(&text, "sh run").iter().map(|(_, body)| *body).collect();
    let output = run_without_backy(folder.path(), &script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (name, state) in ["oldest.img", "one-before.img", "new.img"].iter().zip(&states) {
        let found = fs::read(folder.path().join(name)).expect(name);
        assert!(found == *state, "{name}");
    }
    let absent = run_without_backy(folder.path(), "backy --version");
    assert_eq!(absent.status.code(), Some(127), "backy was in the PATH");
}

/// The checks that the document makes before QEMU reads an archive from elsewhere find deltas that lead out of it, or
/// to an image without a given format.
#[test]
fn what_leads_out_of_an_archive_is_found() {
    if !backy_tests::qemu::available() {
        return;
    }
    let folder = scene(&states());
    let text = document("doc/disaster.md");
    let blocks = code_blocks(&text, "sh run");
    let check = blocks.iter().find(|(_, body)| body.contains("named.txt")).expect("the check").1;
    let is_refused = || {
        let output = run_without_backy(folder.path(), check);
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(output.status.success(), !said.contains("do not read"), "{said}");
        !output.status.success()
    };
    assert!(!is_refused());
    let manifest = fs::read(folder.path().join("mynode/manifest.json")).expect("a manifest");
    let manifest = backy_lib::Manifest::parse(&manifest).expect("a manifest");
    let delta = format!("mynode/{}", manifest.revisions[1].file());
    for names in ["-F raw -b /etc/passwd", "-F raw -b ../last.raw", "-F qcow2 -b last.raw"] {
        let rebase = format!("qemu-img rebase -u -f qcow2 {names} {delta}");
        assert!(run_without_backy(folder.path(), &rebase).status.success(), "{names}");
        assert!(is_refused(), "{names}");
    }
}

/// The rescue program restores every revision of every golden archive and says that the digest is right, except where
/// a block is lost, which it names.
#[test]
fn the_rescue_program_reads_every_golden_archive() {
    let folder = scene(&states()[..1]);
    let golden = checkout().join("tests/golden");
    for archive in fs::read_dir(golden).expect("golden archives") {
        let archive = archive.expect("an archive").path();
        let text = fs::read(archive.join("manifest.json")).expect("a manifest");
        let manifest = backy_lib::Manifest::parse(&text).expect("a manifest");
        for (number, revision) in manifest.revisions.iter().enumerate() {
            let is_known = revision.flaws.is_empty() && revision.table_digest.is_none();
            let is_whole = revision.findings.bad_block_count() == 0 && is_known;
            let place = format!("{} {number} out-{number}.img", archive.display());
            let (success, said) = rescue(folder.path(), &place);
            let verdict = if is_whole { "the digest is right" } else { "lost: bytes" };
            assert!(success == is_whole && said.contains(verdict), "{place}: {said}");
            fs::remove_file(folder.path().join(format!("out-{number}.img"))).expect("a file");
        }
    }
}

/// Without a manifest the rescue program finds the revisions by their digest files.
#[test]
fn the_rescue_program_needs_no_manifest() {
    let states = states();
    let folder = scene(&states);
    fs::remove_file(folder.path().join("mynode/manifest.json")).expect("the manifest is lost");
    for (number, state) in states.iter().rev().enumerate() {
        let (success, said) = rescue(folder.path(), &format!("mynode {number} {number}.img"));
        assert!(success && said.contains("manifest.json cannot be used"), "{said}");
        assert!(fs::read(folder.path().join(format!("{number}.img"))).expect("an image") == *state);
    }
}

/// The program names what is damaged and fails. It writes all other bytes.
#[test]
fn the_rescue_program_names_what_is_lost() {
    let states = states();
    let folder = scene(&states);
    let text = fs::read(folder.path().join("mynode/manifest.json")).expect("a manifest");
    let manifest = backy_lib::Manifest::parse(&text).expect("a manifest");
    let oldest = manifest.revisions.last().expect("a revision");
    let delta = folder.path().join("mynode").join(oldest.file().to_string());
    let mut content = fs::read(&delta).expect("a delta");
    // The first compressed block: zstd's magic number, and some bytes on.
    let frame = content.windows(4).position(|w| w == [0x28, 0xb5, 0x2f, 0xfd]).expect("a frame");
    content[frame + 12] ^= 0x55;
    fs::write(&delta, content).expect("rot");
    let (success, said) = rescue(folder.path(), "mynode 2 lost.img");
    assert!(!success && said.contains("lost: bytes ") && said.contains("WRONG"), "{said}");
    let found = fs::read(folder.path().join("lost.img")).expect("an image");
    let wrong: Vec<usize> = (0..states[0].len().div_ceil(BLOCK_BYTES))
        .filter(|n| {
            let part = n * BLOCK_BYTES..states[0].len().min((n + 1) * BLOCK_BYTES);
            found[part.clone()] != states[0][part]
        })
        .collect();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert!(said.contains(&format!("lost: bytes {}", wrong[0] * BLOCK_BYTES)), "{said}");
}

/// The program only reads the archive: it refuses a target in it.
#[test]
fn the_rescue_program_does_not_write_into_the_archive() {
    let folder = scene(&states());
    let before = fs::read(folder.path().join("mynode/last.raw")).expect("the image");
    let (success, said) = rescue(folder.path(), "mynode 2 mynode/last.raw");
    assert!(!success && said.contains("is in the archive"), "{said}");
    assert!(fs::read(folder.path().join("mynode/last.raw")).expect("the image") == before);
}
