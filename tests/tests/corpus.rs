//! The inputs that seed the fuzzers, and those that once found something, on a stable compiler.
//!
//! A binary of its own because it counts what the whole process allocates.

#![expect(clippy::disallowed_methods, reason = "reads the inputs and writes for QEMU")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backy_lib::storage::sim::Random;
use backy_tests::fuzz::{TARGETS, Target, qcow2_roundtrip};
use backy_tests::qemu;
use backy_tests::world::Expected;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A test that measures memory or uses much of it runs alone.
static ALONE: Mutex<()> = Mutex::new(());

/// What an input may allocate besides a multiple of its length. A fuzzer allows 512 MiB for the same, including its
/// own needs.
const MEMORY_BYTES: usize = 96 << 20;
const MEMORY_TIMES: usize = 64;

/// A fuzzer allows 1 s for an input. Here the code is not optimised and the machine is busy.
const TIME: Duration = Duration::from_secs(60);

/// Changed inputs of each target.
const ROUNDS: u64 = 100;

/// Seeds are few and small: they are cloned with the project, and run by every test.
const MAX_SEEDS: usize = 40;
const MAX_SEED_BYTES: u64 = 200_000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The names in a folder, or none when it does not exist.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The seeds of a target, and what once found something.
fn inputs(target: &str) -> Vec<PathBuf> {
    let folders = ["seeds", "regressions"].map(|kind| fuzz().join(kind).join(target));
    let files =
        |folder: &PathBuf| names(folder).into_iter().map(|name| folder.join(name)).collect();
    folders.iter().flat_map(|folder| -> Vec<PathBuf> { files(folder) }).collect()
}

/// The problem of an input, if there is one.
fn flaw(target: &Target, data: &[u8]) -> Option<String> {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let start = Instant::now();
    let kept = catch_unwind(AssertUnwindSafe(|| (target.run)(data))).is_ok();
    let took = start.elapsed();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    let verdict = if kept { "kept its promises" } else { "broke a promise" };
    let wrong = !kept || took > TIME || peak > MEMORY_BYTES + MEMORY_TIMES * data.len();
    wrong.then(|| format!("it {verdict}, took {took:?} and {peak} bytes"))
}

/// No input breaks a promise, takes long, or takes excessive memory.
#[test]
fn every_seed_and_regression_passes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for target in TARGETS {
        for path in inputs(target.name) {
            let data = fs::read(&path).expect("an input");
            wrong.extend(flaw(target, &data).map(|flaw| format!("{}: {flaw}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Nor does one with small changes: this stands in for a fuzzer, and is the same every time.
#[test]
fn mutated_inputs_pass() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut wrong = Vec::new();
    for target in TARGETS {
        let inputs: Vec<(PathBuf, Vec<u8>)> = inputs(target.name)
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).expect("an input")))
            .collect();
        for round in 0..rounds {
            let mut random = Random(round);
            let (path, data) = &inputs[random.below(inputs.len() as u64) as usize];
            let mut changed = data.clone();
            for _ in 0..=random.below(4) {
                let (_, other) = &inputs[random.below(inputs.len() as u64) as usize];
                change(&mut changed, other, &mut random);
            }
            if let Some(flaw) = flaw(target, &changed) {
                let kept = std::env::temp_dir().join(format!("backy-{}-{round}", target.name));
                fs::write(&kept, &changed).expect("write it down");
                wrong.push(format!(
                    "{}, round {round}, {}: {flaw}",
                    path.display(),
                    kept.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Changes some bytes, leaves some out, doubles some, or takes some from another input.
fn change(data: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(data.len() as u64 + 1) as usize;
    let end = (at + 1 + random.below(16) as usize).min(data.len());
    match random.below(6) {
        0 => data[at..end].iter_mut().take(1).for_each(|byte| *byte = random.number() as u8),
        1 => data[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        2 => drop(data.drain(at..end)),
        3 => {
            let twice = data[at..end].to_vec();
            drop(data.splice(at..at, twice));
        }
        4 => data.truncate(at),
        _ => {
            let from = random.below(other.len() as u64 + 1) as usize;
            let to = (from + 1 + random.below(200) as usize).min(other.len());
            drop(data.splice(at..end, other[from..to].iter().copied()));
        }
    }
}

/// QEMU finds the expected content in our deltas, and no problem.
#[test]
fn qemu_reads_what_the_inputs_write() {
    if !qemu::available() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut compared = 0;
    for path in inputs("qcow2_roundtrip") {
        let Some(written) = qcow2_roundtrip::write(&fs::read(&path).expect("an input")) else {
            continue;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&written.disk, folder.path());
        fs::write(folder.path().join("last.raw"), &written.backing).expect("the backing file");
        let newest = Expected { uuid: written.revision, bytes: Vec::new() };
        let delta = Expected { uuid: written.revision, bytes: written.expected() };
        let found = qemu::check(folder.path(), &[newest, delta], 1, true);
        found.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        compared += usize::from(!written.held.is_empty());
    }
    assert!(compared >= 2, "only {compared} deltas hold anything");
}

/// Every target is in the table, and has a binary and seeds. There is nothing else that no test would run.
#[test]
fn every_fuzz_target_is_registered_everywhere() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name twice");
    let binaries: BTreeSet<String> = names(&fuzz().join("fuzz_targets"))
        .iter()
        .map(|name| name.strip_suffix(".rs").expect("only targets here").to_owned())
        .collect();
    assert_eq!(binaries, targets, "fuzz/fuzz_targets");
    assert_eq!(names(&fuzz().join("seeds")), targets, "fuzz/seeds");
    assert!(names(&fuzz().join("regressions")).is_subset(&targets), "fuzz/regressions");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    for name in targets {
        let glue = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs")));
        assert!(glue.expect("its binary").contains(&format!("{name}::run(data)")), "{name}");
        let path = format!("path = \"fuzz_targets/{name}.rs\"");
        assert!(manifest.contains(&path), "{name} is not in fuzz/Cargo.toml");
        let seeds = fuzz().join("seeds").join(&name);
        let sizes: Vec<u64> = names(&seeds)
            .iter()
            .map(|seed| fs::metadata(seeds.join(seed)).expect("a seed").len())
            .collect();
        assert!(!sizes.is_empty() && sizes.len() <= MAX_SEEDS, "{name}: {} seeds", sizes.len());
        let bytes: u64 = sizes.iter().sum();
        assert!(bytes <= MAX_SEED_BYTES, "{name}: {bytes} bytes of seeds");
    }
}
