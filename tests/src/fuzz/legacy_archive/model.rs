//! A second implementation of the JSON of an archive of 2014: which MD5 is recorded for which block.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Entry, with_uuids};
use crate::legacy::md5_hex;

const DEFAULT_BLOCK_BYTES: u64 = 4 << 20;
/// Larger images are not assembled to fill in an MD5.
const MAX_IMAGE_BYTES: u64 = 1 << 20;
/// Longer chains are invalid.
const MAX_DEPTH: usize = 32;

/// What the files say.
pub(super) struct Model {
    block_bytes: u64,
    revisions: BTreeMap<String, Value>,
    data: BTreeMap<String, Vec<u8>>,
}

impl Model {
    /// Reads the JSON of the entries.
    pub(super) fn new(entries: &BTreeMap<String, Entry>) -> Self {
        let content = |name: &str| match entries.get(name) {
            Some(Entry::File(content)) => Some(content.clone()),
            _ => None,
        };
        let json = |name: &str| serde_json::from_slice::<Value>(&content(name)?).ok();
        let config = json("config").unwrap_or_default();
        let size = |key: &str| config.get(key).filter(|value| !value.is_null()).cloned();
        let block_bytes = size("chunksize").or(size("blocksize")).and_then(|size| size.as_u64());
        let names = || entries.keys().filter_map(|name| name.strip_suffix(".rev"));
        Model {
            block_bytes: block_bytes
                .filter(|bytes| (1..=64 << 20).contains(bytes))
                .unwrap_or(DEFAULT_BLOCK_BYTES),
            revisions: names()
                .filter_map(|name| Some((name.to_owned(), json(&format!("{name}.rev"))?)))
                .collect(),
            data: entries.keys().filter_map(|name| Some((name.clone(), content(name)?))).collect(),
        }
    }

    /// The entries with UUIDs in place of `$0` to `$9` in each `.rev`, and right MD5s in place of `=`,
    /// newer revisions first.
    pub(super) fn complete(mut entries: BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
        for (name, entry) in &mut entries {
            if let (true, Entry::File(content)) = (name.ends_with(".rev"), entry)
                && let Ok(text) = std::str::from_utf8(content)
            {
                *content = with_uuids(text).into_bytes();
            }
        }
        let open = |entry: &Entry| match entry {
            Entry::File(content) => content.windows(3).any(|three| three == b"\"=\""),
            _ => false,
        };
        let names: Vec<String> = entries
            .iter()
            .filter(|(name, entry)| name.ends_with(".rev") && open(entry))
            .map(|(name, _)| name.trim_end_matches(".rev").to_owned())
            .collect();
        if names.is_empty() {
            return entries;
        }
        let mut model = Model::new(&entries);
        for name in names {
            model.fill_in(&name);
            if let Some(revision) = model.revisions.get(&name) {
                let content = Entry::File(revision.to_string().into_bytes());
                entries.insert(format!("{name}.rev"), content);
            }
        }
        entries
    }

    fn fill_in(&mut self, name: &str) {
        let Some(own) = self.revisions.get(name) else { return };
        let mut own = own.clone();
        let numbers = self.numbers(&own);
        for (number, sum) in
            own.get_mut("blocksums").and_then(Value::as_object_mut).into_iter().flatten()
        {
            if sum == "="
                && let Some(bytes) = numbers
                    .iter()
                    .position(|each| Some(*each) == number.parse().ok())
                    .and_then(|at| self.stored(name, at as u64))
            {
                *sum = md5_hex(bytes).into();
            }
        }
        if own.get("checksum").is_some_and(|sum| sum == "=")
            && let Some(image) = self.image(name)
        {
            own["checksum"] = md5_hex(&image).into();
        }
        self.revisions.insert(name.to_owned(), own);
    }

    /// The numbers of the blocks in a data file, in the order in which they lie in it.
    fn numbers(&self, revision: &Value) -> Vec<u64> {
        if revision["type"] == "full" {
            let blocks = revision["blocks"].as_u64().unwrap_or(0).min(MAX_IMAGE_BYTES);
            return (0..blocks).collect();
        }
        let sums = revision["blocksums"].as_object();
        let keys = sums.into_iter().flatten().filter_map(|(key, _)| key.parse().ok());
        let mut numbers: Vec<u64> = keys.collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The block at a place of a data file.
    fn stored(&self, name: &str, at: u64) -> Option<&[u8]> {
        let data = self.data.get(name)?;
        let start = usize::try_from(at.checked_mul(self.block_bytes)?).ok()?;
        let rest = data.get(start..)?;
        rest.get(..rest.len().min(self.block_bytes as usize)).filter(|bytes| !bytes.is_empty())
    }

    /// The image of a revision, assembled from the data files.
    fn image(&self, name: &str) -> Option<Vec<u8>> {
        let blocks = self.revisions.get(name)?["blocks"].as_u64()?;
        let mut image = Vec::new();
        for number in 0..blocks.min(MAX_IMAGE_BYTES) {
            let (holder, revision) = self.holder(name, number)?;
            let at = self.numbers(revision).iter().position(|each| *each == number)?;
            image.extend_from_slice(self.stored(holder, at as u64)?);
            if image.len() as u64 > MAX_IMAGE_BYTES {
                return None;
            }
        }
        Some(image)
    }

    /// The revision that holds a block of an image.
    fn holder<'a>(&'a self, name: &'a str, number: u64) -> Option<(&'a str, &'a Value)> {
        let mut name = name;
        for _ in 0..MAX_DEPTH {
            let revision = self.revisions.get(name)?;
            let has =
                || revision["blocksums"].as_object()?.keys().find(|key| key.parse() == Ok(number));
            if revision["type"] == "full" || has().is_some() {
                return Some((name, revision));
            }
            name = revision["parent"].as_str()?;
        }
        None
    }

    /// Size of an old block in bytes.
    pub(super) fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// The MD5 that is recorded for the image of a revision.
    pub(super) fn checksum(&self, name: &str) -> Option<String> {
        Some(self.revisions.get(name)?.get("checksum")?.as_str()?.to_ascii_lowercase())
    }

    /// The MD5 that is recorded for a block of the image of a revision: one, or several where two keys mean
    /// the same number.
    pub(super) fn recorded(&self, name: &str, number: u64) -> Vec<String> {
        let Some((_, revision)) = self.holder(name, number) else { return Vec::new() };
        let sums = revision["blocksums"].as_object().into_iter().flatten();
        let same = sums.filter(|(key, _)| key.parse() == Ok(number));
        same.filter_map(|(_, sum)| Some(sum.as_str()?.to_ascii_lowercase())).collect()
    }
}
