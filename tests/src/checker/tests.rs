//! The checker names each broken rule, and none in an intact archive.

use std::fs;
use std::path::Path;

use super::*;
use crate::world::{World, noise};

const BLOCK: usize = 4096;

fn block(seed: u8) -> Vec<u8> {
    (0..BLOCK).map(|at| seed ^ (at / 7) as u8 ^ (at % 251) as u8).collect()
}

/// Three revisions with packed, plain and zero blocks and lengths that are not whole blocks.
fn archive() -> Files {
    let state = |n: u8, len: usize| {
        let zero = if n == 2 { block(61) } else { vec![0; BLOCK] };
        let mut state =
            [block(n), block(50), noise(n.into(), BLOCK), noise(99, BLOCK), zero, block(n + 9)]
                .concat();
        state.extend(&block(n + 70)[..len]);
        state
    };
    let world = World::with_backups(false, &[state(1, 900), state(2, 1800), state(3, 1000)]);
    files(&world)
}

fn files(world: &World) -> Files {
    let files = world.disk.files().into_iter();
    files.map(|(name, content)| (name.to_string(), content)).collect()
}

/// Name of the file of revision `number` that ends so.
fn name(files: &Files, number: usize, end: &str) -> String {
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    format!("{}.{end}", manifest["revisions"][number]["uuid"].as_str().unwrap())
}

/// Changes the manifest's text and gives it its checksum.
fn edit(files: &mut Files, from: &str, to: &str) {
    let text = String::from_utf8(files["manifest.json"].clone()).unwrap();
    let changed = text.replacen(from, to, 1);
    assert_ne!(text, changed, "{from}");
    sign(files, changed);
}

fn sign(files: &mut Files, text: String) {
    let at = "{\n  \"checksum\": \"".len();
    let blank = format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..]);
    let checksum = hex(sha256(&[blank.as_bytes()]));
    let signed = format!("{}{checksum}{}", &text[..at], &text[at + 64..]);
    files.insert("manifest.json".to_owned(), signed.into_bytes());
}

/// Checks that the expected sentence is among the problems.
fn names(files: &Files, what: &str, words: &str) {
    let problems = check(files);
    assert!(
        problems.iter().any(|problem| problem.contains(words)),
        "{what}: {words}: {problems:?}"
    );
}

#[test]
fn a_correct_archive_has_no_problems() {
    assert_eq!(check(&archive()), Vec::<String>::new());
    let empty = World::with_backups(false, &[]);
    assert_eq!(check(&files(&empty)), Vec::<String>::new());
    // Every golden archive of this format that nothing was done to.
    for golden in ["format-1", "format-1-alarms", "format-1-series"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(golden);
        assert_eq!(check_folder(&folder).unwrap(), Some(Vec::new()), "{golden}");
    }
}

#[test]
fn each_rule_of_the_manifest_is_checked() {
    let edits = [
        ("\"format\": 1", "\"format\": 2", "format 2"),
        ("\"compatible\": []", "\"compatible\": [\"x\"]", "compatible"),
        ("\"incompatible\": []", "\"incompatible\": [\"standalone\"]", "incompatible"),
        ("\"block_size\": 4096", "\"block_size\": 5000", "block_size"),
        ("\"in_progress\": null,", "", "no field in_progress"),
        ("\"image\": \"last.raw\"", "\"image\": \"x.raw\"", "image"),
        ("\"tags\": [", "\"tags\": [\"-x\"", "tags"),
        ("\"pinned_tags\": []", "\"pinned_tags\": [\"x\"]", "pinned_tags"),
        ("\"bad_blocks\": []", "\"bad_blocks\": [{\"first\": 7, \"count\": 1}]", "not ascending"),
        ("\"bad_blocks\": []", "\"bad_blocks\": [{\"first\": 0, \"count\": 0}]", "not ascending"),
        ("\"read_bytes\":", "\"x\":", "no field read_bytes"),
        ("\"stored_bytes\": ", "\"stored_bytes\": \"\", \"x\": ", "stored_bytes is"),
        ("\"started\": \"", "\"started\": \"x", "started is"),
        ("\"kind\": \"", "\"kind\": \"x", "source: kind"),
        (
            "\"in_progress\": null",
            "\"in_progress\": {\"operation\": \"merge\"}",
            "no field revision",
        ),
        ("\"revisions\": [", "\"set_aside\": [], \"revisions\": [", "set_aside is there and empty"),
        ("\"revisions\": [", "\"alarms\": [], \"revisions\": [", "alarms is there and empty"),
        ("\"revisions\": [", "\"known_damage\": [{}], \"revisions\": [", "known_damage"),
        ("\"series\": [", "\"series\": [{\"tag\": 7}, ", "series"),
        (
            "\"series\": [",
            "\"series\": [{\"tag\": \"x\", \"began\": \"2026-01-01T02:00:00Z\"}, \
             {\"tag\": \"x\", \"began\": \"2026-01-01T02:00:00Z\"}, ",
            "series has \"x\" twice",
        ),
        ("\"revisions\": [", "\"drill\": {}, \"revisions\": [", "drill: no field"),
        ("\"findings\": {", "\"verified\": [], \"findings\": {", "verified: there and empty"),
        ("\"findings\": {", "\"flaws\": [{}], \"findings\": {", "flaws: no field"),
    ];
    for (from, to, words) in edits {
        let mut files = archive();
        edit(&mut files, from, to);
        names(&files, from, words);
    }
    let whole = archive();
    let in_progress = |operation: &str, revision: &str| {
        let mut files = whole.clone();
        let time = "2026-01-01T00:00:00Z";
        let value = format!(
            "\"in_progress\": {{\"operation\": \"{operation}\", \"revision\": \"{revision}\", \"started\": \"{time}\"}}"
        );
        edit(&mut files, "\"in_progress\": null", &value);
        files
    };
    let listed = name(&whole, 1, "").trim_end_matches('.').to_owned();
    names(&in_progress("backup", &listed), "listed", "which is among the revisions");
    names(&in_progress("merge", &listed.replace('0', "1")), "not listed", "which is not among");
    names(&in_progress("dance", &listed), "operation", "operation \"dance\"");
    assert_eq!(check(&in_progress("merge", &listed)), Vec::<String>::new());
}

#[test]
fn the_form_of_the_checksum_is_checked() {
    let mut files = archive();
    let text = String::from_utf8(files["manifest.json"].clone()).unwrap();
    for (what, changed, words) in [
        ("a byte", text.replacen("format\": 1", "format\": 3", 1), "the checksum is wrong"),
        ("spaces", text.replacen("\"checksum\": ", "\"checksum\":", 1), "does not begin with"),
        (
            "capitals",
            format!("{}{}", text[..80].to_uppercase(), &text[80..]),
            "does not begin with",
        ),
        ("its end", text.trim_end().to_owned(), "no line break"),
        ("JSON", text.replacen(": null", ": nill", 1), "the checksum is wrong"),
    ] {
        files.insert("manifest.json".to_owned(), changed.into_bytes());
        names(&files, what, words);
    }
    let broken = text.replacen(": null", ": nill", 1);
    sign(&mut files, broken);
    names(&files, "JSON", "no JSON object");
    files.remove("manifest.json");
    names(&files, "none", "missing");
}

#[test]
fn missing_and_overlong_files_are_named() {
    let whole = archive();
    for needed in [
        "README".to_owned(),
        "last.raw".to_owned(),
        name(&whole, 0, "image.digests"),
        name(&whole, 1, "qcow2"),
        name(&whole, 2, "delta.digests"),
    ] {
        let mut files = whole.clone();
        files.remove(&needed);
        names(&files, &needed, &format!("{needed}: missing"));
    }
    let mut files = whole;
    files.insert("reserve".to_owned(), vec![0]);
    files.get_mut("last.raw").unwrap().push(0);
    names(&files, "reserve", "reserve: 1 bytes");
    names(&files, "image", "last.raw: ");
}

#[test]
fn each_rule_of_a_digest_file_is_checked() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 10] = [
        ("another magic number", |raw| raw[0] ^= 1),
        ("another version", |raw| raw[11] ^= 2),
        ("another kind", |raw| raw[15] ^= 3),
        ("another number of blocks", |raw| raw[23] ^= 1),
        ("bytes 28 to 31", |raw| raw[31] = 1),
        ("the checksum of the header", |raw| raw[40] ^= 1),
        ("no zeros behind the identity", |raw| raw[4095] = 1),
        ("another length", |raw| raw.push(0)),
        ("shorter than a header", |raw| raw.truncate(4000)),
        ("identity: uuid", |raw| {
            let at = raw.windows(7).position(|w| w == b"\"uuid\":").unwrap();
            raw[at + 8] = if raw[at + 8] == b'0' { b'1' } else { b'0' };
        }),
    ];
    for end in [(0, "image.digests"), (1, "delta.digests")] {
        for (words, damage) in &damages {
            let mut files = archive();
            let name = name(&files, end.0, end.1);
            damage(files.get_mut(&name).unwrap());
            names(&files, &name, words);
        }
    }
}

#[test]
fn each_rule_of_an_image_and_its_digests_is_checked() {
    let at = |number: usize| 4096 + 32 * number;
    let mut files = archive();
    files.get_mut("last.raw").unwrap()[2 * BLOCK] ^= 1;
    names(&files, "a block", "last.raw: block 2 is not what its digest says");
    let mut files = archive();
    let digests = name(&files, 0, "image.digests");
    let mut zeros = files.clone();
    files.get_mut(&digests).unwrap()[at(3)..at(4)].fill(0xff);
    names(&files, "lost", "lost and not among the bad blocks");
    names(&files, "the whole", "revision 0: its digest does not come out");
    let digest = sha256(&[&[0; BLOCK]]);
    zeros.get_mut(&digests).unwrap()[at(4)..at(5)].copy_from_slice(&digest);
    names(&zeros, "zeros", "block 4 is zero and has a digest that is not");
}

/// The L2 table of a small delta is its fourth cluster, the counts are in the last one.
#[test]
fn each_rule_of_a_delta_is_checked() {
    type Damage = fn(&mut Vec<u8>);
    fn entry(raw: &mut [u8], block: usize) -> &mut [u8] {
        &mut raw[3 * BLOCK + 8 * block..][..8]
    }
    let damages: [(&str, Damage); 27] = [
        ("magic number", |raw| raw[0] ^= 1),
        ("version", |raw| raw[7] = 2),
        ("clusters of", |raw| raw[23] = 13),
        ("virtual size", |raw| raw[30] ^= 4),
        ("encryption", |raw| raw[35] = 1),
        ("snapshots", |raw| raw[63] = 1),
        ("incompatible features", |raw| raw[79] = 2),
        ("the dirty bit", |raw| raw[79] |= 1),
        ("autoclear features", |raw| raw[95] = 1),
        ("reference count order", |raw| raw[99] = 5),
        ("header length", |raw| raw[103] = 104),
        ("compression type", |raw| raw[104] = 0),
        ("backing file format", |raw| raw[120] ^= 1),
        ("extensions", |raw| raw[112] ^= 1),
        ("backing file", |raw| raw[140] ^= 1),
        ("no zeros behind the header", |raw| raw[600] = 1),
        ("reference count table", |raw| raw[54] ^= 0x10),
        ("L1 table", |raw| raw[46] ^= 0x40),
        ("L1 entry 0", |raw| raw[2 * BLOCK + 6] ^= 0x10),
        ("is behind the end", |raw| entry(raw, 20)[7] = 1),
        ("the entry of block 2 is", |raw| entry(raw, 2)[0] ^= 1),
        ("is counted 0 times, expected", |raw| {
            let at = raw.len() - BLOCK;
            raw[at + 7] = 0;
        }),
        ("a reference count block at", |raw| raw[BLOCK + 6] ^= 1),
        ("its digest does not come out", |raw| entry(raw, 0).fill(0)),
        ("overlap", |raw| {
            let other = entry(raw, 2).to_vec();
            entry(raw, 3).copy_from_slice(&other);
        }),
        ("a zero cluster with another digest", |raw| {
            entry(raw, 2).copy_from_slice(&1_u64.to_be_bytes());
        }),
        ("block 2: is not what its digest says", |raw| {
            let at = u64::from_be_bytes(entry(raw, 2).try_into().unwrap()) & !(1 << 63);
            raw[at as usize] ^= 1;
        }),
    ];
    for (words, damage) in damages {
        let mut files = archive();
        let name = name(&files, 1, "qcow2");
        damage(files.get_mut(&name).unwrap());
        names(&files, "revision 1", words);
    }
}

/// What a delta has to hold because its base has another length is required.
#[test]
fn a_delta_holds_the_block_where_the_shorter_revision_ends() {
    for number in [1, 2] {
        let mut files = archive();
        let name = name(&files, number, "qcow2");
        files.get_mut(&name).unwrap()[3 * BLOCK + 8 * 6..][..8].fill(0);
        names(&files, "the last block", "does not hold block 6");
    }
}

/// The checker does not report a revision with flaws, nor what reads through to it.
#[test]
fn a_recorded_flaw_is_no_problem() {
    let mut files = archive();
    let name = name(&files, 1, "qcow2");
    files.get_mut(&name).unwrap()[3 * BLOCK..3 * BLOCK + 8].fill(0);
    assert!(!check(&files).is_empty());
    let flaw = format!(
        "\"flaws\": [{{\"file\": \"{name}\", \"message\": \"x\", \
         \"found\": \"2026-01-01T00:00:00Z\", \"confirmed\": null}}],\n      "
    );
    let text = String::from_utf8(files["manifest.json"].clone()).unwrap();
    let at = text.match_indices("\"uuid\"").nth(1).unwrap().0;
    sign(&mut files, format!("{}{flaw}{}", &text[..at], &text[at..]));
    assert_eq!(check(&files), Vec::<String>::new());
}

/// The checker shares no code with the library.
#[test]
fn the_checker_is_independent() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checker");
    let library = ["backy", "lib"].join("_");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&library), "{}", path.display());
        let outside = text.lines().filter(|line| line.trim_start().starts_with("use crate::"));
        assert_eq!(outside.count(), 0, "{}", path.display());
    }
}
