//! QEMU as a witness: writes an archive to a real folder and asks `qemu-img`.

use std::path::Path;
use std::process::Command;

use backy_lib::storage::FileName;
use backy_lib::storage::sim::SimStorage;

use crate::world::Expected;

/// Whether `qemu-img` is here. Prints `SKIPPED` when it is not; in CI that is a failure.
pub fn available() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    if !found {
        skipped("qemu-img is not installed");
    }
    found
}

/// Prints a loud message that a test did not run.
///
/// # Panics
/// In CI, where nothing may be skipped.
#[expect(clippy::print_stderr, clippy::disallowed_methods, reason = "the test's own report")]
pub fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
    assert!(std::env::var_os("CI").is_none(), "SKIPPED in CI: {why}");
}

/// Writes the files of a simulated disk into a real folder.
#[expect(clippy::disallowed_methods, reason = "copies a simulated archive for another program")]
pub fn write_out(disk: &SimStorage, folder: &Path) {
    for entry in folder.read_dir().expect("list the folder").flatten() {
        std::fs::remove_file(entry.path()).expect("remove an old file");
    }
    for (name, content) in disk.files() {
        std::fs::write(folder.join(name.to_string()), content).expect("write a file");
    }
}

/// Checks with QEMU that the revisions, of which the first `skip` are left out, are what is expected. `clean` is
/// whether the deltas have to pass `qemu-img check`.
pub fn check(folder: &Path, expected: &[Expected], skip: usize, clean: bool) -> Result<(), String> {
    for (number, revision) in expected.iter().enumerate().skip(skip) {
        let (file, format) = match number {
            0 => (FileName::IMAGE.to_string(), "raw"),
            _ => (FileName::Delta(revision.uuid).to_string(), "qcow2"),
        };
        if clean && number > 0 {
            qemu_img(folder, &["check", "-f", "qcow2", &file])?;
        }
        compare(folder, &file, format, &revision.bytes)
            .map_err(|error| format!("revision {number}: {error}"))?;
    }
    Ok(())
}

/// Checks that an image in a folder reads as `bytes`, padded to whole sectors.
#[expect(clippy::disallowed_methods, reason = "hands the expected bytes to another program")]
pub fn compare(folder: &Path, file: &str, format: &str, bytes: &[u8]) -> Result<(), String> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(512), 0);
    std::fs::write(folder.join("expected"), padded).map_err(|error| error.to_string())?;
    let result = qemu_img(folder, &["compare", "-f", format, "-F", "raw", file, "expected"]);
    std::fs::remove_file(folder.join("expected")).map_err(|error| error.to_string())?;
    result
}

fn qemu_img(folder: &Path, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("qemu-img")
        .args(arguments)
        .current_dir(folder)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "qemu-img {}: {} {}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}
