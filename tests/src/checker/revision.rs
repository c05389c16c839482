//! The revisions: each one's own file, and its digest through the chain.

use super::delta::{self, Delta};
use super::digests::{self, LOST, ZERO};
use super::manifest::Manifest;
use super::{Files, Problems, hex, is_zero, sha256};

/// Checks all revisions, from the newest on.
pub(super) fn check(files: &Files, manifest: &Manifest, problems: &mut Problems) {
    // Digests of the revision before, as far as they can be determined.
    let mut newer: Option<Vec<[u8; 32]>> = None;
    for number in 0..manifest.revisions.len() {
        let revision = &manifest.revisions[number];
        if revision.has_flaws {
            newer = None;
            continue;
        }
        let entries = match number {
            0 => check_newest(files, manifest, problems),
            _ => check_older(files, manifest, number, newer.as_deref(), problems),
        };
        if let Some(entries) = &entries {
            let digest = digest_of(manifest, number, entries);
            problems.expect(digest == revision.digest, || {
                format!("revision {number}: its digest does not come out")
            });
        }
        newer = entries;
    }
}

/// SHA-256 over the digests of all blocks.
fn digest_of(manifest: &Manifest, number: usize, entries: &[[u8; 32]]) -> String {
    let zeros = vec![0; manifest.block_size as usize];
    let zero = sha256(&[&zeros]);
    let last = entries.len().saturating_sub(1);
    let digests = entries.iter().enumerate().map(|(block, entry)| match *entry == ZERO {
        true if block == last => sha256(&[&zeros[..manifest.block_bytes(number, last as u64)]]),
        true => zero,
        false => *entry,
    });
    let digests: Vec<u8> = digests.flatten().collect();
    hex(sha256(&[&digests]))
}

fn check_newest(
    files: &Files,
    manifest: &Manifest,
    problems: &mut Problems,
) -> Option<Vec<[u8; 32]>> {
    let revision = &manifest.revisions[0];
    let name = format!("{}.image.digests", revision.uuid);
    let table = digests::check(&name, files.get(&name)?, 0, manifest, problems)?;
    let image = files.get("last.raw")?;
    let overlay = overlay(files, manifest, problems);
    let is_exact = image.len() as u64 == revision.size_bytes;
    let is_untidy = manifest.revisions.len() > 1 && manifest.is_merging(1);
    let is_longer = image.len() as u64 > revision.size_bytes;
    problems.expect(is_exact || manifest.has_overlay() || is_untidy && is_longer, || {
        format!("last.raw: {} bytes, expected {}", image.len(), revision.size_bytes)
    });
    if let Some(overlay) = &overlay {
        overlay.check_content(0, manifest, &table, problems);
    }
    let is_standalone = overlay.as_ref().is_some_and(|overlay| !overlay.has_backing());
    let mut block_bytes = vec![0; manifest.block_size as usize];
    let entries: Vec<[u8; 32]> = (0..manifest.blocks(0)).map(|block| table.entry(block)).collect();
    for (block, entry) in entries.iter().enumerate() {
        let in_overlay = overlay.as_ref().is_some_and(|o| o.held.contains_key(&(block as u64)));
        let is_bad = revision.bad_blocks.contains(&(block as u64));
        problems.expect(*entry != LOST || is_bad, || {
            format!("{name}: block {block} is lost and not among the bad blocks")
        });
        if in_overlay || is_bad {
            continue;
        }
        let len = manifest.block_bytes(0, block as u64);
        let at = block * manifest.block_size as usize;
        let own = &mut block_bytes[..len];
        own.fill(0);
        let stored = image.get(at..image.len().min(at + len)).unwrap_or_default();
        // What a standalone revision does not hold is zero, whatever the image has there.
        if !is_standalone {
            own[..stored.len()].copy_from_slice(stored);
        }
        let is_zero = is_zero(own);
        let expected = if is_zero { ZERO } else { sha256(&[own]) };
        problems.expect(*entry == expected, || match is_zero && *entry == sha256(&[own]) {
            true => format!("{name}: block {block} is zero and has a digest that is not"),
            false => format!("last.raw: block {block} is not what its digest says"),
        });
    }
    Some(entries)
}

/// The overlay of the newest revision. One that was not complete before the interruption does not count: nothing
/// depends on it yet.
fn overlay<'a>(
    files: &'a Files,
    manifest: &Manifest,
    problems: &mut Problems,
) -> Option<Delta<'a>> {
    let operation = &manifest.in_progress.as_ref().filter(|p| p.has_overlay())?.operation;
    // A leftover clone never took the place of the image.
    if files.contains_key("last.raw.new") && operation == "backup" {
        return None;
    }
    let raw = files.get(&format!("{}.qcow2", manifest.revisions[0].uuid))?;
    let mut own = Problems::default();
    let overlay = delta::check(raw, 0, manifest, &mut own);
    if overlay.is_some() || operation == "remove" {
        own.0.into_iter().for_each(|sentence| problems.add(sentence));
    }
    overlay
}

fn check_older(
    files: &Files,
    manifest: &Manifest,
    number: usize,
    newer: Option<&[[u8; 32]]>,
    problems: &mut Problems,
) -> Option<Vec<[u8; 32]>> {
    let revision = &manifest.revisions[number];
    let name = format!("{}.delta.digests", revision.uuid);
    let delta =
        delta::check(files.get(&format!("{}.qcow2", revision.uuid))?, number, manifest, problems)?;
    let table = digests::check(&name, files.get(&name)?, number, manifest, problems)?;
    delta.check_content(number, manifest, &table, problems);
    let is_standalone = manifest.is_standalone(number);
    if !is_standalone {
        check_held(manifest, number, &delta, newer?, problems);
    }
    let inherited = |block: usize| match newer {
        Some(newer) if !is_standalone => newer.get(block).copied().unwrap_or(ZERO),
        _ => ZERO,
    };
    let entry = |block: u64| match delta.held.contains_key(&block) {
        true => table.entry(block),
        false => inherited(block as usize),
    };
    Some((0..manifest.blocks(number)).map(entry).collect())
}

/// The delta holds the block in which the shorter of a revision and its base ends, unless it is zero in both.
fn check_held(
    manifest: &Manifest,
    number: usize,
    delta: &Delta,
    newer: &[[u8; 32]],
    problems: &mut Problems,
) {
    let (mine, base) =
        (manifest.revisions[number].size_bytes, manifest.revisions[number - 1].size_bytes);
    let shorter = mine.min(base);
    let block = shorter / manifest.block_size;
    if mine == base || shorter.is_multiple_of(manifest.block_size) {
        return;
    }
    let is_zero_below = newer.get(block as usize).is_none_or(|entry| *entry == ZERO);
    problems.expect(is_zero_below || delta.held.contains_key(&block), || {
        format!("revision {number}: does not hold block {block}, in which the shorter one ends")
    });
}
