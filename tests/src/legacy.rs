//! Makes archives of 2014: the newest image raw, each older one the blocks that differ from the next newer, with MD5s.
#![expect(clippy::disallowed_methods, reason = "writes the files of another program")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use serde_json::{Value, json};

/// A folder with an archive of 2014, and what it holds.
pub struct OldArchive {
    /// The folder.
    pub folder: PathBuf,
    /// Size of its blocks in bytes.
    pub block_bytes: usize,
    /// UUID and image of each revision, oldest first.
    pub revisions: Vec<(String, Vec<u8>)>,
}

/// MD5 in hex digits.
pub fn md5_hex(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the revision that `number` stands for.
pub fn uuid(number: usize) -> String {
    format!("528f6c52-d4a6-4237-806a-{number:012x}")
}

impl OldArchive {
    /// Writes an archive with a revision of each of `states`, oldest first. The first is called `uuid(first)`.
    pub fn write(folder: &Path, block_bytes: usize, first: usize, states: &[Vec<u8>]) -> Self {
        fs::create_dir_all(folder).expect("make the folder");
        let config = json!({"source": "/dev/vg0/old", "chunksize": block_bytes});
        fs::write(folder.join("config"), config.to_string()).expect("write config");
        let mut archive = OldArchive {
            folder: folder.to_owned(),
            block_bytes,
            revisions: states
                .iter()
                .enumerate()
                .map(|(number, state)| (uuid(first + number), state.clone()))
                .collect(),
        };
        for number in 0..states.len() {
            archive.write_revision(number);
        }
        archive.revisions.shrink_to_fit();
        archive
    }

    /// The start of revision `number`, in seconds since 1970.
    pub fn seconds(&self, number: usize) -> f64 {
        let name = &self.revisions[number].0;
        let last = usize::from_str_radix(&name[name.len() - 6..], 16).expect("a number");
        1_396_269_933.25 + 86400.0 * last as f64
    }

    fn write_revision(&self, number: usize) {
        let (name, state) = &self.revisions[number];
        let newer = self.revisions.get(number + 1);
        let blocks: Vec<&[u8]> = state.chunks(self.block_bytes).collect();
        let newer_blocks: Vec<&[u8]> =
            newer.map_or_else(Vec::new, |(_, newer)| newer.chunks(self.block_bytes).collect());
        let own =
            blocks.iter().enumerate().filter(|(at, block)| newer_blocks.get(*at) != Some(block));
        let mut sums = BTreeMap::new();
        let mut data = Vec::new();
        for (at, block) in own {
            sums.insert(at.to_string(), md5_hex(block));
            data.extend_from_slice(block);
        }
        let rev = json!({
            "uuid": name,
            "timestamp": self.seconds(number),
            "checksum": md5_hex(state),
            "parent": newer.map(|(name, _)| name),
            "blocksums": sums,
            "blocks": blocks.len(),
            "type": if newer.is_some() { "delta" } else { "full" },
        });
        fs::write(self.folder.join(name), data).expect("write a data file");
        fs::write(self.folder.join(format!("{name}.rev")), rev.to_string()).expect("write a .rev");
    }

    /// The data file of revision `number`.
    pub fn data(&self, number: usize) -> PathBuf {
        self.folder.join(&self.revisions[number].0)
    }

    /// The `.rev` of revision `number`.
    pub fn rev(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{}.rev", self.revisions[number].0))
    }

    /// Changes the data file of revision `number`.
    pub fn change_data(&self, number: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = fs::read(self.data(number)).expect("read a data file");
        change(&mut content);
        fs::write(self.data(number), content).expect("write a data file");
    }

    /// Changes the `.rev` of revision `number`.
    pub fn change_rev(&self, number: usize, change: impl FnOnce(&mut Value)) {
        let content = fs::read(self.rev(number)).expect("read a .rev");
        let mut rev = serde_json::from_slice(&content).expect("JSON");
        change(&mut rev);
        fs::write(self.rev(number), rev.to_string()).expect("write a .rev");
    }
}
