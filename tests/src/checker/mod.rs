//! An independent checker: does an archive match what `doc/format.md` promises?
//!
//! It shares no code with the library, so that a mistake in one is not in the other as well; a test checks that. It
//! gets the files as bytes and returns one sentence for each statement of the document that does not hold. It digests
//! each block once. It ignores unknown fields, as the document requires. It checks a revision with `flaws` only
//! against the manifest.

mod delta;
mod digests;
mod manifest;
mod qcow2;
mod revision;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// The files of an archive by their names; a folder in it is a name with a slash at its end.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Archives with more bytes are not read into memory.
pub const MAX_BYTES: u64 = 256 << 20;

/// The statements of the document that do not hold, one sentence each.
pub fn check(files: &Files) -> Vec<String> {
    let mut problems = Problems::default();
    if let Some(manifest) = manifest::check(files, &mut problems) {
        revision::check(files, &manifest, &mut problems);
    }
    problems.0
}

/// The same for a folder. None when it has no manifest, or is too large to be read.
#[expect(clippy::disallowed_methods, reason = "reads an archive as a stranger does")]
pub fn check_folder(folder: &Path) -> io::Result<Option<Vec<String>>> {
    let mut files = Files::new();
    let mut left = MAX_BYTES;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type()?);
        if !kind.is_file() {
            files.insert(name + "/", Vec::new());
            continue;
        }
        match left.checked_sub(entry.metadata()?.len()) {
            Some(less) => left = less,
            None => return Ok(None),
        }
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files.contains_key("manifest.json").then(|| check(&files)))
}

/// The violations.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }

    /// Adds the sentence if the condition is false, and returns the condition.
    fn expect(&mut self, is_so: bool, sentence: impl FnOnce() -> String) -> bool {
        if !is_so {
            self.0.push(sentence());
        }
        is_so
    }
}

fn be_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

fn be_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(field(bytes, at))
}

/// The bytes of a number. What is behind the end is zero.
fn field<const LEN: usize>(bytes: &[u8], at: usize) -> [u8; LEN] {
    let rest = bytes.get(at..).unwrap_or_default();
    rest.first_chunk().copied().unwrap_or_else(|| {
        let mut padded = [0; LEN];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    })
}

/// Whether all bytes are zero. By comparing many at once: the tests check tens of thousands of archives.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    use sha2::Digest as _;
    let mut hasher = sha2::Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
