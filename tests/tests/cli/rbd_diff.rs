//! `backy export --rbd-diff`

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use backy_tests::rbd_diff::RbdDiff;
use sha2::{Digest, Sha256};

use super::harness::{Run, SOURCE_BYTES, Scene, noise};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The stream on standard output is the one in a file, turns any revision into any other one, and has the SHA-256 that
/// is printed and reported.
#[test]
fn any_revision_comes_from_any_other_one() {
    let scene = Scene::new();
    for (block_size, block_bytes) in [("4K", 4096), ("64K", 65_536), ("2M", 2 << 20)] {
        let archive = format!("a{block_size}");
        scene.works(&["-b", &archive, "init", "--block-size", block_size, "source.img"]);
        let mut states: Vec<Vec<u8>> = Vec::new();
        // The longest have runs of more than 4 MiB, data and zeros.
        for (seed, len) in [(1, SOURCE_BYTES), (2, 11 << 20), (3, 1), (4, 700), (5, 10_000_001)] {
            let mut state = noise(seed, len);
            state.iter_mut().skip(600_000).take(500_000).for_each(|byte| *byte = 0);
            if seed == 5 {
                state.iter_mut().skip(1 << 20).take(5 << 20).for_each(|byte| *byte = 0);
            }
            scene.write("source.img", &state);
            scene.works(&["-b", &archive, "backup", "-f"]);
            states.insert(0, state);
        }
        for number in 0..states.len() {
            for since in (0..=states.len()).filter(|since| *since != number) {
                let (of, from) = (number.to_string(), since.to_string());
                let mut args = vec!["-b", &archive, "export", "--rbd-diff", "-r", &of];
                if since < states.len() {
                    args.extend(["--from", &from]);
                }
                let place = format!("{args:?}");
                let run = scene.works(&[&args[..], &["-"]].concat());
                let diff = RbdDiff::parse(&run.stdout).unwrap_or_else(|e| panic!("{place}: {e}"));
                let old = states.get(since).map_or(&[][..], Vec::as_slice);
                let checked = diff.check(old, &states[number], block_bytes);
                checked.unwrap_or_else(|error| panic!("{place}: {error}"));
                let sum = sha256(&run.stdout);
                assert_eq!(run.stderr, format!("backy: sha256 {sum}  -\n"));
                let report = scene.works(&[&args[..], &["--json", "x.diff"]].concat());
                assert_eq!(report.stderr, "");
                assert_eq!(report.json()["sha256"], sum);
                assert!(scene.read("x.diff") == run.stdout, "{place}: the file has another stream");
                std::fs::remove_file(scene.path("x.diff")).unwrap();
            }
        }
    }
}

/// Holes cost nothing: an image of 64 GiB takes no longer than its data.
#[test]
fn holes_are_not_read() {
    const SIZE: u64 = 64 << 30;
    let scene = Scene::new();
    let source = File::create(scene.path("source.img")).unwrap();
    source.set_len(SIZE).unwrap();
    let write = |at: u64, bytes: &[u8]| {
        std::os::unix::fs::FileExt::write_all_at(&source, bytes, at).unwrap();
    };
    scene.works(&["-b", "a", "init", "source.img"]);
    write(0, b"first");
    write(SIZE - 100, b"last");
    scene.works(&["-b", "a", "backup", "-f"]);
    write(40 << 30, b"middle");
    write(SIZE - 100, &[0; 4]);
    scene.works(&["-b", "a", "backup", "-f"]);
    let run = scene.works(&["-b", "a", "export", "--rbd-diff", "--from", "1", "-"]);
    let diff = RbdDiff::parse(&run.stdout).unwrap();
    let found: Vec<_> =
        diff.records.iter().map(|(at, bytes)| (at.start, bytes.is_none())).collect();
    assert_eq!(found, [(40 << 30, false), (SIZE - 65_536, true)]);
}

/// Nothing existing is overwritten, what makes no sense is refused, and a failed export leaves no file.
#[test]
fn an_export_for_ceph_refuses_existing_and_unsafe_targets() {
    let (scene, _) = Scene::with_revisions(2);
    scene.write("there", b"precious");
    std::os::unix::fs::symlink("nowhere", scene.path("link")).unwrap();
    for (args, words) in [
        (&["there"][..], &["there", "exists already"][..]),
        (&["link"], &["exists already"]),
        (&["a/x"], &["in the archive"]),
        (&["gone/x"], &["No such file"]),
        (&["--json", "-"], &["--json", "standard output"]),
        (&["--from", "1", "-r", "1", "x"], &["both revisions", "different"]),
        (&["--from", "7", "x"], &["7"]),
        (&["--level", "3", "x"], &["--level", "cannot be used with"]),
        (&["1", "2"], &["reads as a revision"]),
    ] {
        scene.refuses(&[&["-b", "a", "export", "--rbd-diff"], args].concat(), words);
    }
    scene.refuses(&["-b", "a", "export", "--from", "1", "x"], &["--rbd-diff"]);
    let mut image = scene.read("a/last.raw");
    image[150_000] ^= 1;
    scene.write("a/last.raw", &image);
    for from in [&[][..], &["--from", "1"]] {
        let args = [&["-b", "a", "export", "--rbd-diff"], from].concat();
        scene.refuses(&[&args[..], &["x"]].concat(), &["block 2", "last.raw"]);
        let run = scene.run(&[&args[..], &["-"]].concat());
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.contains("block 2") && !run.stderr.contains("sha256"), "{run:?}");
        assert!(RbdDiff::parse(&run.stdout).is_err(), "a complete stream of wrong bytes");
    }
    // The older one does not need that block.
    scene.works(&["-b", "a", "export", "--rbd-diff", "-q", "1", "x"]);
}

/// A reader that ends early makes the export fail with a line that says so.
#[test]
fn a_reader_that_ends_early_is_reported() {
    let (scene, _) = Scene::with_revisions(1);
    let mut command = scene.command(&["-b", "a", "export", "--rbd-diff", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 12]).unwrap();
    drop(stdout);
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.status, Some(1), "{run:?}");
    assert!(run.stderr.contains("the reader ended before all was written"), "{run:?}");
    assert!(!run.stderr.contains("sha256"), "{run:?}");
}
