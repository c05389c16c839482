//! Any bytes as a manifest: what is read comes back when it is written, with the fields that this program does not
//! know.
//!
//! The checksum would reject nearly everything, so each input is also read with a checksum that fits.

use std::collections::BTreeSet;

use backy_lib::Manifest;
use backy_lib::digest::Digest;
use backy_lib::format::manifest::ManifestFlaw;
use serde_json::{Map, Value};

const KEY: &str = "\"checksum\": \"";
const DIGITS: usize = 64;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    check(data);
    if let Some(mended) = with_checksum(data) {
        check(&mended);
    }
}

/// The same text with the checksum that it should have.
pub fn with_checksum(data: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(data).ok()?;
    let (before, rest) = text.split_once(KEY)?;
    let (_, after) = rest.split_at_checked(DIGITS)?;
    let with = |digits: &str| format!("{before}{KEY}{digits}{after}");
    let checksum = Digest::of(with(&"0".repeat(DIGITS)).as_bytes());
    Some(with(&checksum.to_string()).into_bytes())
}

fn check(data: &[u8]) {
    let manifest = match Manifest::parse(data) {
        Ok(manifest) => manifest,
        Err(ManifestFlaw::Damaged(flaw) | ManifestFlaw::Unsupported(flaw)) => {
            assert!(!flaw.contains('\n'), "not one line: {flaw:?}");
            return;
        }
    };
    let encoded = manifest.encode().expect("what was read has a JSON form");
    let again = match Manifest::parse(&encoded) {
        Ok(again) => again,
        Err(flaw) => panic!("what was written is not read: {flaw:?}"),
    };
    assert_eq!(again.revisions, manifest.revisions);
    assert_eq!(again.in_progress, manifest.in_progress);
    assert_eq!(again.source, manifest.source);
    assert_eq!(again.drill, manifest.drill);
    assert_eq!(again.set_aside, manifest.set_aside);
    assert_eq!(again.block_size, manifest.block_size);
    let twice = again.encode().expect("a JSON form");
    assert!(twice == encoded, "written twice, it is not the same");
    let object = |bytes: &[u8]| serde_json::from_slice::<Map<String, Value>>(bytes);
    // Within an object that is ours, unknown fields are skipped, even an invalid number such as 1e999.
    if let Ok(read) = object(data) {
        check_unknown(&read, &object(&encoded).expect("JSON"));
    }
    exercise(manifest);
}

/// Every unknown field of `read` has to be in `written`, and nothing else that was not there.
fn check_unknown(read: &Map<String, Value>, written: &Map<String, Value>) {
    let known = Manifest::new(backy_lib::BlockSize::DEFAULT).encode().expect("a JSON form");
    let known: Map<String, Value> = serde_json::from_slice(&known).expect("JSON");
    let optional: BTreeSet<&str> = ["drill", "set_aside"].into();
    for (key, value) in read {
        if !known.contains_key(key) && !optional.contains(key.as_str()) {
            assert_eq!(written.get(key), Some(value), "{key}");
        }
    }
    for key in written.keys() {
        assert!(read.contains_key(key) || known.contains_key(key), "{key} out of thin air");
    }
    let revisions = |of: &Map<String, Value>| of["revisions"].as_array().cloned();
    let (read, written) = (revisions(read), revisions(written));
    for (read, written) in read.iter().flatten().zip(written.iter().flatten()) {
        for (key, value) in read.as_object().into_iter().flatten() {
            // Known ones are written in one way only, so these are compared by meaning.
            if written.get(key).is_none() {
                assert!(is_left_out(key, value), "{key} is gone");
            } else if !KNOWN_IN_A_REVISION.contains(&key.as_str()) {
                assert_eq!(written.get(key), Some(value), "{key}");
            }
        }
    }
}

const KNOWN_IN_A_REVISION: [&str; 15] = [
    "uuid",
    "started",
    "finished",
    "size_bytes",
    "digest",
    "image",
    "base",
    "tags",
    "pinned_tags",
    "scheduled_tags",
    "statistics",
    "findings",
    "verified",
    "rewritten",
    "bad_blocks",
];

/// Whether a field with its default is not written.
fn is_left_out(key: &str, value: &Value) -> bool {
    ["verified", "rewritten", "scheduled_tags"].contains(&key)
        && value.as_array().is_some_and(Vec::is_empty)
}

/// Taking out any revision, and adding one, leaves a readable manifest.
fn exercise(mut manifest: Manifest) {
    manifest.in_progress = None;
    let count = manifest.revisions.len();
    for number in [0, count / 2, count.saturating_sub(1)] {
        let mut fewer = manifest.clone();
        if let Some(id) = manifest.revisions.get(number).map(|revision| revision.uuid) {
            fewer.remove(id);
        }
        assert_eq!(fewer.revisions.len(), count.saturating_sub(1));
        Manifest::parse(&fewer.encode().expect("a JSON form")).expect("one fewer");
    }
    let mut added = manifest;
    if let Some(mut newest) = added.revisions.first().cloned() {
        newest.uuid = backy_lib::RevisionId::from(uuid::Uuid::from_u128(1));
        newest.image = backy_lib::storage::FileName::IMAGE.to_string();
        if added.revisions.iter().all(|revision| revision.uuid != newest.uuid) {
            newest.forget_verified();
            newest.findings.bad_blocks = Default::default();
            newest.size_bytes /= 2;
            added.push_newest(newest);
            Manifest::parse(&added.encode().expect("a JSON form")).expect("one more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text whose checksum does not fit is given one that does.
    #[test]
    fn the_checksum_is_mended() {
        let manifest = Manifest::new(backy_lib::BlockSize::DEFAULT);
        let text = String::from_utf8(manifest.encode().expect("a JSON form")).expect("UTF-8");
        let changed = text.replacen("65536", "4096", 1);
        assert!(Manifest::parse(changed.as_bytes()).is_err());
        let mended = with_checksum(changed.as_bytes()).expect("there is one");
        assert_eq!(Manifest::parse(&mended).expect("a manifest").block_size.bytes(), 4096);
        assert_eq!(with_checksum(b"{}"), None);
    }
}
