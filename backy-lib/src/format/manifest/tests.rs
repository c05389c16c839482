//! Manifests as backy writes them, edited and damaged.

use serde_json::Value;

use super::*;

fn manifest(revisions: usize) -> Manifest {
    let mut manifest = Manifest::new(BlockSize::DEFAULT);
    for n in 0..revisions {
        let time = Timestamp::from_second(1_000_000 + n as i64).unwrap();
        let digest = Digest::of(&[n as u8]);
        manifest.push_newest(Revision::newest(
            RevisionId::new(time),
            time,
            time,
            n as u64,
            digest,
            Statistics::default(),
        ));
    }
    manifest
}

/// As somebody who edits the file and also corrects the checksum.
fn rewritten(manifest: &Manifest, change: impl Fn(String) -> String) -> Vec<u8> {
    let text = String::from_utf8(manifest.encode().unwrap()).unwrap();
    let (before, rest) = text.split_once(CHECKSUM_KEY).unwrap();
    let blank = change(format!("{before}{CHECKSUM_KEY}{NO_CHECKSUM}{}", &rest[64..]));
    blank.replacen(NO_CHECKSUM, &Digest::of(blank.as_bytes()).to_string(), 1).into_bytes()
}

#[test]
fn a_manifest_reads_back_as_written() {
    for count in [0, 1, 3] {
        let manifest = manifest(count);
        let read = Manifest::parse(&manifest.encode().unwrap()).unwrap();
        assert_eq!(read.revisions, manifest.revisions);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let bytes = manifest(2).encode().unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(Manifest::parse(&flipped).is_err(), "byte {at}");
        assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn unknown_fields_survive_a_rewrite() {
    let bytes = rewritten(&manifest(1), |text| {
        text.replacen("\"format\"", "\"later\": [1],\n  \"format\"", 1).replacen(
            "\"uuid\"",
            "\"mood\": \"good\",\n      \"uuid\"",
            1,
        )
    });
    let again = Manifest::parse(&bytes).unwrap().encode().unwrap();
    let again = String::from_utf8(again).unwrap();
    assert!(again.contains("\"later\"") && again.contains("\"mood\""), "{again}");
}

/// Fields are kept in each object of a manifest, however deep, and in lists of objects.
#[test]
fn unknown_fields_survive_at_every_depth() {
    let mut full = manifest(2);
    let at = Timestamp::UNIX_EPOCH;
    full.revisions[1].size_bytes = 1 << 20;
    let blocks = |first, count| BlockRange { first: BlockIndex(first), count };
    full.revisions[1].findings.add(blocks(3, 2));
    full.revisions[1].set_verified(blocks(0, 2), at);
    full.source = Some(SourceIdentity::new("/dev/x", "file"));
    let id = full.revisions[0].uuid;
    full.alarms = vec![Alarm::new(id, at, 7, 1)];
    full.confirm(&[(id, 2)], at);
    let mut value = serde_json::to_value(&full).unwrap();
    let count = insert_everywhere(&mut value);
    assert_eq!(count, 12, "{value:#}");
    let read: Manifest = serde_json::from_value(value).unwrap();
    let again = Manifest::parse(&read.encode().unwrap()).unwrap();
    let text = String::from_utf8(again.encode().unwrap()).unwrap();
    assert_eq!(text.matches("later").count(), count, "{text}");
}

fn insert_everywhere(value: &mut Value) -> usize {
    match value {
        Value::Array(values) => values.iter_mut().map(insert_everywhere).sum(),
        Value::Object(fields) => {
            let within: usize = fields.values_mut().map(insert_everywhere).sum();
            fields.insert("later".to_owned(), serde_json::json!([{"deep": 0.3}]));
            within + 1
        }
        _ => 0,
    }
}

/// However much damage there is, a manifest is short enough to be read. It loses dates of verification first; then
/// good blocks between bad ones count as bad, but no bad one counts as good.
#[test]
fn a_manifest_is_never_too_long_to_be_read() {
    let mut large = manifest(2);
    let blocks = 10_000_000;
    large.revisions[1].size_bytes = BlockSize::DEFAULT.bytes() * blocks;
    let one = |first| BlockRange { first: BlockIndex(first), count: 1 };
    large.revisions[1].findings.add_all((0..blocks).step_by(10).map(one));
    large.revisions[1].set_verified(one(1), Timestamp::UNIX_EPOCH);
    let read = |manifest: &Manifest| {
        let text = manifest.encode().unwrap();
        assert!(text.len() as u64 <= MANIFEST_FULL_BYTES, "{}", text.len());
        Manifest::parse(&text).unwrap()
    };
    assert_eq!(read(&large).revisions, large.revisions, "a million ranges have room");
    large.revisions[1].findings.add_all((0..blocks).step_by(5).map(one));
    let shorter = read(&large);
    assert!(shorter.revisions[1].verified.is_empty());
    let found = &shorter.revisions[1].findings;
    assert!(found.bad_blocks.len() < 2_000_000 && found.bad_blocks.len() > 500_000);
    assert!(large.revisions[1].findings.bad_blocks.iter().all(|r| found.is_bad(r.first)));
}

/// A number with more digits than a float is rounded once, and then stays.
#[test]
fn numbers_in_unknown_fields_survive_any_number_of_rewrites() {
    for number in ["26666666666666611853989", "285566666666666666666666666667", "0.3", "-1e-7"] {
        let later = format!("\"later\": {number},\n  \"format\"");
        let bytes = rewritten(&manifest(1), |text| text.replacen("\"format\"", &later, 1));
        let once = Manifest::parse(&bytes).unwrap().encode().unwrap();
        let twice = Manifest::parse(&once).unwrap().encode().unwrap();
        assert!(once == twice, "{number}: {}", String::from_utf8_lossy(&twice));
    }
}

#[test]
fn unknown_incompatible_features_and_formats_are_refused_by_name() {
    let bytes = rewritten(&manifest(1), |text| {
        text.replacen("\"incompatible\": []", "\"incompatible\": [\"warp\"]", 1)
    });
    let Err(ManifestFlaw::Unsupported(what)) = Manifest::parse(&bytes) else { panic!() };
    assert!(what.contains("warp"), "{what}");
    let bytes = rewritten(&manifest(1), |text| text.replacen("\"format\": 1", "\"format\": 2", 1));
    let Err(ManifestFlaw::Unsupported(what)) = Manifest::parse(&bytes) else { panic!() };
    assert!(what.contains("format 2"), "{what}");
}

#[test]
fn a_chain_that_is_not_one_is_refused() {
    for (what, change) in [
        ("image", (|m| m.revisions.swap(0, 1)) as fn(&mut Manifest)),
        ("uuid", |m| m.revisions[1] = m.revisions[0].clone()),
        ("image", |m| m.revisions[1].image = "../x".to_owned()),
        ("image", |m| m.revisions[1].image = "last.raw".to_owned()),
        ("findings", |m| {
            let range = BlockRange { first: BlockIndex(u64::MAX), count: 7 };
            m.revisions[1].findings.bad_blocks = BlockRanges::as_written(vec![range]);
        }),
        ("in_progress", |m| {
            let (operation, started) = (Operation::Backup, Timestamp::UNIX_EPOCH);
            let revision = m.revisions[1].uuid;
            m.in_progress = Some(InProgress { operation, revision, started });
        }),
        ("size_bytes", |m| m.revisions[1].size_bytes = u64::MAX),
        ("base", |m| m.revisions[2].base = Some(m.revisions[0].uuid)),
    ] {
        let mut manifest = manifest(3);
        change(&mut manifest);
        let Err(ManifestFlaw::Damaged(flaw)) = Manifest::parse(&manifest.encode().unwrap()) else {
            panic!("{what}")
        };
        assert!(flaw.contains(what), "{flaw}");
    }
}

/// A standalone revision is a feature that an older program must refuse by name, and only as long as there is one.
#[test]
fn a_standalone_revision_is_named_as_a_feature() {
    let mut manifest = manifest(3);
    manifest.revisions[1].base = None;
    let bytes = manifest.encode().unwrap();
    let mut read = Manifest::parse(&bytes).unwrap();
    assert!(read.revisions[1].is_standalone() && read.incompatible == [STANDALONE]);
    read.remove(read.revisions[1].uuid);
    assert_eq!(read.revisions[1].base, Some(read.revisions[0].uuid));
    assert!(!String::from_utf8(read.encode().unwrap()).unwrap().contains(STANDALONE));
    let hidden = rewritten(&manifest, |text| text.replacen("\"standalone\"", "", 1));
    assert!(matches!(Manifest::parse(&hidden), Err(ManifestFlaw::Damaged(_))));
}

/// Deleting the newest revision makes the next one the image; deleting another one passes its base on.
#[test]
fn removing_a_revision_keeps_a_chain() {
    for number in 0..4 {
        let mut manifest = manifest(4);
        manifest.remove(manifest.revisions[number].uuid);
        let read = Manifest::parse(&manifest.encode().unwrap()).unwrap();
        assert_eq!(read.revisions.len(), 3);
        assert!(read.revisions[0].is_image());
    }
}
