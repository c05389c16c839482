//! The inputs that the fuzzers are seeded with, and those that once found something, on a stable compiler.
#![expect(clippy::disallowed_methods, reason = "reads the inputs")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backy_tests::fuzz::TARGETS;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Whoever measures memory or uses much of it is alone.
static ALONE: Mutex<()> = Mutex::new(());

/// What an input may take besides a multiple of its length; the same in a fuzzer, with all that it needs itself, is 512 MiB.
const MEMORY_BYTES: usize = 96 << 20;

/// A fuzzer allows 1 s for an input. Here nothing is optimised and the machine is busy.
const TIME: Duration = Duration::from_secs(60);

/// Seeds are few and small: they are cloned with the project, and run by every test.
const MAX_SEEDS: usize = 40;
const MAX_SEED_BYTES: u64 = 200_000;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The names in a folder, none when there is no such folder.
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

/// No input breaks a promise, takes long, or takes memory out of proportion.
#[test]
fn every_input_keeps_the_promises() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wrong = Vec::new();
    for target in TARGETS {
        for path in inputs(target.name) {
            let data = fs::read(&path).expect("an input");
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let start = Instant::now();
            let kept = catch_unwind(AssertUnwindSafe(|| (target.run)(&data))).is_ok();
            let took = start.elapsed();
            let peak = MEMORY.peak_usage().saturating_sub(before);
            if !kept || took > TIME || peak > MEMORY_BYTES + 64 * data.len() {
                let verdict = if kept { "kept its promises" } else { "broke a promise" };
                wrong.push(format!("{}: {verdict}, {took:?}, {peak} bytes", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A target is in the table, has a binary and seeds; nothing else lies about that no test would run.
#[test]
fn every_target_is_in_every_place() {
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
