//! `manifest.json`, and which files exist.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Files, Problems, hex, sha256};

/// What the other parts need of the manifest.
pub(super) struct Manifest {
    pub(super) block_size: u64,
    pub(super) revisions: Vec<Revision>,
    pub(super) in_progress: Option<InProgress>,
}

pub(super) struct InProgress {
    pub(super) operation: String,
    pub(super) revision: String,
}

impl InProgress {
    /// Whether the newest revision may be an overlay over the image.
    pub(super) fn has_overlay(&self) -> bool {
        self.operation != "merge"
    }
}

pub(super) struct Revision {
    pub(super) uuid: String,
    pub(super) size_bytes: u64,
    pub(super) digest: String,
    pub(super) base: Option<String>,
    pub(super) bad_blocks: BTreeSet<u64>,
    pub(super) has_flaws: bool,
    pub(super) json: Map<String, Value>,
}

impl Manifest {
    pub(super) fn is_standalone(&self, number: usize) -> bool {
        number > 0 && self.revisions[number].base.is_none()
    }

    pub(super) fn blocks(&self, number: usize) -> u64 {
        self.revisions[number].size_bytes.div_ceil(self.block_size)
    }

    /// True length of a block.
    pub(super) fn block_bytes(&self, number: usize, block: u64) -> usize {
        let rest = self.revisions[number].size_bytes - block * self.block_size;
        rest.min(self.block_size) as usize
    }

    /// Whether an operation is under way that leaves the newest revision in an overlay.
    pub(super) fn has_overlay(&self) -> bool {
        self.in_progress.as_ref().is_some_and(InProgress::has_overlay)
    }

    pub(super) fn is_merging(&self, number: usize) -> bool {
        let merging = self.in_progress.as_ref().filter(|progress| !progress.has_overlay());
        merging.is_some_and(|progress| progress.revision == self.revisions[number].uuid)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Number,
    /// May be negative or have a fraction.
    AnyNumber,
    Text,
    TextOrNull,
    List,
    Object,
    ObjectOrNull,
    Bool,
    Time,
    TimeOrNull,
}

const FIELDS: [(&str, Kind); 8] = [
    ("checksum", Kind::Text),
    ("format", Kind::Number),
    ("incompatible", Kind::List),
    ("compatible", Kind::List),
    ("block_size", Kind::Number),
    ("source", Kind::ObjectOrNull),
    ("in_progress", Kind::ObjectOrNull),
    ("revisions", Kind::List),
];
const REVISION: [(&str, Kind); 11] = [
    ("uuid", Kind::Text),
    ("started", Kind::Time),
    ("finished", Kind::Time),
    ("size_bytes", Kind::Number),
    ("digest", Kind::Text),
    ("image", Kind::Text),
    ("base", Kind::TextOrNull),
    ("tags", Kind::List),
    ("pinned_tags", Kind::List),
    ("statistics", Kind::Object),
    ("findings", Kind::Object),
];
const STATISTICS: [(&str, Kind); 4] = [
    ("read_bytes", Kind::Number),
    ("changed_bytes", Kind::Number),
    ("stored_bytes", Kind::AnyNumber),
    ("seconds", Kind::AnyNumber),
];
const IN_PROGRESS: [(&str, Kind); 3] =
    [("operation", Kind::Text), ("revision", Kind::Text), ("started", Kind::Time)];
const ALARM: [(&str, Kind); 5] = [
    ("revision", Kind::Text),
    ("raised", Kind::Time),
    ("changed_bytes", Kind::Number),
    ("usual_bytes", Kind::Number),
    ("confirmed", Kind::TimeOrNull),
];
const KNOWN_DAMAGE: [(&str, Kind); 3] =
    [("revision", Kind::Text), ("bad_blocks", Kind::Number), ("confirmed", Kind::Time)];
const SPOOL: [(&str, Kind); 2] = [("revision", Kind::Text), ("started", Kind::Time)];
const SERIES: [(&str, Kind); 2] = [("tag", Kind::Text), ("began", Kind::Time)];
const FLAW: [(&str, Kind); 4] = [
    ("file", Kind::Text),
    ("message", Kind::Text),
    ("found", Kind::Time),
    ("confirmed", Kind::TimeOrNull),
];
const DRILL: [(&str, Kind); 9] = [
    ("revision", Kind::Text),
    ("started", Kind::Time),
    ("seconds", Kind::AnyNumber),
    ("size_bytes", Kind::Number),
    ("read_bytes", Kind::Number),
    ("bytes_per_second", Kind::Number),
    ("command", Kind::TextOrNull),
    ("passed", Kind::Bool),
    ("message", Kind::Text),
];

/// Checks the manifest by itself and that its files exist. None when it cannot be used.
pub(super) fn check(files: &Files, problems: &mut Problems) -> Option<Manifest> {
    let Some(raw) = files.get("manifest.json") else {
        problems.add("manifest.json: missing");
        return None;
    };
    problems.expect(raw.len() <= 64 << 20, || "manifest.json: longer than 64 MiB".to_owned());
    check_checksum(raw, problems)?;
    let json = match serde_json::from_slice(raw) {
        Ok(Value::Object(json)) => json,
        other => {
            problems.add(format!("manifest.json: no JSON object: {:?}", other.err()));
            return None;
        }
    };
    if !fields("manifest.json", &json, &FIELDS, problems) {
        return None;
    }
    let place = "manifest.json";
    problems.expect(json["format"] == 1, || format!("{place}: format {}", json["format"]));
    let of_undo = json["compatible"] == serde_json::json!(["undo"])
        && json["revisions"].as_array().is_some_and(|revisions| match revisions.as_slice() {
            [only] => only["tags"].as_array().is_some_and(|tags| tags.contains(&"undo".into())),
            _ => false,
        });
    problems.expect(of_undo || json["compatible"] == Value::Array(Vec::new()), || {
        format!("{place}: compatible {} is not described", json["compatible"])
    });
    let block_size = json["block_size"].as_u64()?;
    let is_size = (4096..=2 << 20).contains(&block_size) && block_size.is_power_of_two();
    if !problems.expect(is_size, || format!("{place}: block_size {block_size}")) {
        return None;
    }
    let mut manifest = Manifest { block_size, revisions: Vec::new(), in_progress: None };
    for (number, value) in json["revisions"].as_array()?.iter().enumerate() {
        let revision = check_revision(number, value, block_size, problems)?;
        let newer = manifest.revisions.last().map(|newer: &Revision| newer.uuid.clone());
        check_chain(number, &revision, newer, problems);
        manifest.revisions.push(revision);
    }
    let standalone = (0..manifest.revisions.len()).any(|number| manifest.is_standalone(number));
    let features: &[&str] = if standalone { &["standalone"] } else { &[] };
    problems.expect(json["incompatible"] == serde_json::json!(features), || {
        format!("{place}: incompatible {}, expected {features:?}", json["incompatible"])
    });
    check_lists(&json, &manifest, problems);
    if let Value::Object(progress) = &json["in_progress"] {
        manifest.in_progress = check_in_progress(progress, &manifest, problems);
    }
    if let Value::Object(source) = &json["source"] {
        let kinds = [
            "file",
            "block device",
            "Python object",
            "NBD export",
            "qcow2 image",
            "disk of libvirt",
            "disk of QEMU",
            "RBD image",
            "LVM thin volume",
            "archive of 2014",
            "archive",
        ];
        if fields("source", source, &[("path", Kind::Text), ("kind", Kind::Text)], problems) {
            let kind = source["kind"].as_str().unwrap_or_default();
            problems.expect(kinds.contains(&kind), || format!("source: kind {kind:?}"));
        }
    }
    check_present(files, &manifest, problems);
    Some(manifest)
}

/// `{`, a line break, two spaces, `"checksum": "`, 64 digits in lower case, `"`.
fn check_checksum(raw: &[u8], problems: &mut Problems) -> Option<()> {
    const BEGIN: &[u8] = b"{\n  \"checksum\": \"";
    let digits = raw.strip_prefix(BEGIN).and_then(|rest| rest.get(..64));
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let Some(digits) = digits.filter(|digits| digits.iter().all(is_hex)) else {
        problems.add("manifest.json: does not begin with a checksum of 64 digits");
        return None;
    };
    let rest = &raw[BEGIN.len() + 64..];
    let right = hex(sha256(&[BEGIN, &[b'0'; 64], rest]));
    let is_right = problems
        .expect(right.as_bytes() == digits, || "manifest.json: the checksum is wrong".to_owned());
    problems.expect(raw.ends_with(b"}\n"), || "manifest.json: no line break at the end".to_owned());
    is_right.then_some(())
}

fn is_kind(value: &Value, kind: Kind) -> bool {
    match kind {
        Kind::Number => value.is_u64(),
        Kind::AnyNumber => value.is_number(),
        Kind::Text => value.is_string(),
        Kind::TextOrNull => value.is_string() || value.is_null(),
        Kind::List => value.is_array(),
        Kind::Object => value.is_object(),
        Kind::ObjectOrNull => value.is_object() || value.is_null(),
        Kind::Bool => value.is_boolean(),
        Kind::Time => value.as_str().is_some_and(is_time),
        Kind::TimeOrNull => value.is_null() || value.as_str().is_some_and(is_time),
    }
}

/// RFC 3339 in UTC: `2026-11-28T02:00:00.123Z`.
fn is_time(text: &str) -> bool {
    // Years before 0 have a sign and six digits.
    let text = text.strip_prefix("-00").unwrap_or(text);
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("9999-99-99T99:99:99") else { return false };
    let Some(fraction) = rest.strip_suffix('Z') else { return false };
    let digits = fraction.strip_prefix('.').unwrap_or_default();
    fraction.is_empty() || (!digits.is_empty() && digits.chars().all(|c| c == '9'))
}

/// Checks that required fields exist and have their type.
fn fields(
    place: &str,
    json: &Map<String, Value>,
    wanted: &[(&str, Kind)],
    problems: &mut Problems,
) -> bool {
    let mut all = true;
    for (name, kind) in wanted {
        all &= match json.get(*name) {
            None => problems.expect(false, || format!("{place}: no field {name}")),
            Some(value) => {
                problems.expect(is_kind(value, *kind), || format!("{place}: {name} is {value}"))
            }
        };
    }
    all
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.chars().all(is_hex))
}

fn is_tag(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && chars.all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && text.len() <= 64
}

fn check_revision(
    number: usize,
    value: &Value,
    block_size: u64,
    problems: &mut Problems,
) -> Option<Revision> {
    let place = format!("revision {number}");
    let Value::Object(json) = value else {
        problems.add(format!("{place}: no object"));
        return None;
    };
    if !fields(&place, json, &REVISION, problems) {
        return None;
    }
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let (uuid, digest, size_bytes) = (text("uuid"), text("digest"), json["size_bytes"].as_u64()?);
    problems.expect(is_uuid(&uuid), || format!("{place}: uuid {uuid:?}"));
    let is_digest = digest.len() == 64 && digest.chars().all(|c| "0123456789abcdef".contains(c));
    problems.expect(is_digest, || format!("{place}: digest {digest:?}"));
    let list = |name: &str| -> Vec<String> {
        let items = json[name].as_array().into_iter().flatten();
        items.map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
    };
    let (tags, pinned) = (list("tags"), list("pinned_tags"));
    let distinct: BTreeSet<&String> = tags.iter().collect();
    let are_tags = tags.iter().all(|tag| is_tag(tag)) && tags.len() <= 24;
    problems.expect(are_tags && distinct.len() == tags.len(), || format!("{place}: tags {tags:?}"));
    problems.expect(pinned.iter().all(|tag| distinct.contains(tag)), || {
        format!("{place}: pinned_tags {pinned:?} are not among the tags")
    });
    if let Some(scheduled) = json.get("scheduled_tags") {
        let all = scheduled.as_array().cloned().unwrap_or_default();
        let are_tags = all.iter().all(|tag| tag.as_str().is_some_and(is_tag));
        problems.expect(are_tags && !all.is_empty(), || format!("{place}: scheduled_tags {all:?}"));
    }
    let object = |name: &str| json[name].as_object().cloned().unwrap_or_default();
    fields(&format!("{place}, statistics"), &object("statistics"), &STATISTICS, problems);
    let findings = object("findings");
    fields(&format!("{place}, findings"), &findings, &[("bad_blocks", Kind::List)], problems);
    let blocks = size_bytes.div_ceil(block_size);
    let bad = findings.get("bad_blocks").cloned().unwrap_or_default();
    let bad_blocks = ranges(&format!("{place}, bad_blocks"), &bad, blocks, problems);
    if let Some(compared) = json.get("compared") {
        let place = format!("{place}, compared");
        problems.expect(number == 0, || format!("{place}: of an older revision"));
        ranges(&place, compared, blocks, problems);
    }
    if let Some(verified) = json.get("verified") {
        let place = format!("{place}, verified");
        ranges(&place, verified, blocks, problems);
        let all = verified.as_array().cloned().unwrap_or_default();
        problems.expect(!all.is_empty(), || format!("{place}: there and empty"));
        let is_right = |item: &Value| item["at"].as_str().is_some_and(is_time);
        problems.expect(all.iter().all(is_right), || format!("{place}: without a time"));
    }
    let flaws = entries(&place, json, "flaws", &FLAW, problems);
    let (base, has_flaws) = (json["base"].as_str().map(str::to_owned), !flaws.is_empty());
    let json = json.clone();
    Some(Revision { uuid, size_bytes, digest, base, bad_blocks, has_flaws, json })
}

/// A list of `first`, `count`: ascending, none empty, none behind the end.
fn ranges(place: &str, value: &Value, blocks: u64, problems: &mut Problems) -> BTreeSet<u64> {
    let (mut all, mut end) = (BTreeSet::new(), 0);
    for item in value.as_array().into_iter().flatten() {
        let (first, count) = (item["first"].as_u64(), item["count"].as_u64());
        let range = first.zip(count).filter(|&(first, count)| {
            first >= end && count > 0 && first.checked_add(count).is_some_and(|end| end <= blocks)
        });
        let Some((first, count)) = range else {
            problems.add(format!("{place}: not ascending within {blocks} blocks: {value}"));
            return all;
        };
        end = first + count;
        all.extend(first..end);
    }
    all
}

fn check_chain(number: usize, revision: &Revision, newer: Option<String>, problems: &mut Problems) {
    let place = format!("revision {number}");
    let image = match number {
        0 => "last.raw".to_owned(),
        _ => format!("{}.qcow2", revision.uuid),
    };
    problems.expect(revision.json["image"] == image.as_str(), || {
        format!("{place}: image {}, expected {image}", revision.json["image"])
    });
    problems.expect(revision.base.is_none() || revision.base == newer, || {
        format!("{place}: base {:?}, expected {newer:?}", revision.base)
    });
}

/// An optional list of objects: left out when it is empty.
fn entries(
    place: &str,
    json: &Map<String, Value>,
    name: &str,
    wanted: &[(&str, Kind)],
    problems: &mut Problems,
) -> Vec<Map<String, Value>> {
    let Some(list) = json.get(name) else { return Vec::new() };
    let all = list.as_array().cloned().unwrap_or_default();
    problems.expect(!all.is_empty(), || format!("{place}: {name} is there and empty"));
    let mut found = Vec::new();
    for item in all {
        let item = item.as_object().cloned().unwrap_or_default();
        fields(&format!("{place}, {name}"), &item, wanted, problems);
        found.push(item);
    }
    found
}

fn check_lists(json: &Map<String, Value>, manifest: &Manifest, problems: &mut Problems) {
    let place = "manifest.json";
    let names: BTreeSet<&str> = manifest.revisions.iter().map(|r| r.uuid.as_str()).collect();
    problems.expect(names.len() == manifest.revisions.len(), || {
        format!("{place}: a revision is there twice")
    });
    for (name, wanted) in [("alarms", &ALARM[..]), ("known_damage", &KNOWN_DAMAGE[..])] {
        for item in entries(place, json, name, wanted, problems) {
            let about = item.get("revision").and_then(Value::as_str).unwrap_or_default();
            problems.expect(names.contains(about), || {
                format!("{place}: {name} has an entry about {about}, which is not there")
            });
        }
    }
    let mut tags = BTreeSet::new();
    for item in entries(place, json, "series", &SERIES, problems) {
        let tag = item.get("tag").and_then(Value::as_str).unwrap_or_default().to_owned();
        problems.expect(tags.insert(tag.clone()), || format!("{place}: series has {tag:?} twice"));
    }
    if let Some(drill) = json.get("drill") {
        fields("drill", &drill.as_object().cloned().unwrap_or_default(), &DRILL, problems);
    }
    if let Some(spool) = json.get("spool") {
        fields("spool", &spool.as_object().cloned().unwrap_or_default(), &SPOOL, problems);
    }
    if let Some(names) = json.get("set_aside") {
        let names = names.as_array().cloned().unwrap_or_default();
        problems.expect(!names.is_empty(), || format!("{place}: set_aside is there and empty"));
    }
}

fn check_in_progress(
    json: &Map<String, Value>,
    manifest: &Manifest,
    problems: &mut Problems,
) -> Option<InProgress> {
    if !fields("in_progress", json, &IN_PROGRESS, problems) {
        return None;
    }
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let (operation, revision) = (text("operation"), text("revision"));
    let is_known = ["backup", "remove", "merge"].contains(&operation.as_str());
    problems.expect(is_known, || format!("in_progress: operation {operation:?}"));
    let is_listed = manifest.revisions.iter().any(|listed| listed.uuid == revision);
    problems.expect(is_listed == (operation == "merge"), || {
        let is = if is_listed { "is" } else { "is not" };
        format!("in_progress: {operation} of {revision}, which {is} among the revisions")
    });
    Some(InProgress { operation, revision })
}

/// Checks that all files exist that the manifest needs.
fn check_present(files: &Files, manifest: &Manifest, problems: &mut Problems) {
    let mut needed = vec!["README".to_owned()];
    for (number, revision) in manifest.revisions.iter().enumerate() {
        if revision.has_flaws {
            continue;
        }
        needed.extend(match number {
            0 => ["last.raw".to_owned(), format!("{}.image.digests", revision.uuid)],
            _ => [format!("{}.qcow2", revision.uuid), format!("{}.delta.digests", revision.uuid)],
        });
    }
    for name in needed {
        problems.expect(files.contains_key(&name), || format!("{name}: missing"));
    }
    if let Some(reserve) = files.get("reserve") {
        problems.expect(reserve.is_empty(), || format!("reserve: {} bytes", reserve.len()));
    }
}
