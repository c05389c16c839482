//! What QEMU says of the disk of a virtual machine: which node it is, and which bitmaps that has.
//!
//! Source: `query-block` and `query-named-block-nodes` in "QEMU QMP Reference Manual". Only types and names are taken
//! from it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::monitor::Monitor;
use crate::base::escape;
use crate::base::mark::{ArchiveId, MarkName};
use crate::source::backing;

/// Above a disk while a job of QEMU works on it.
const JOBS: [&str; 4] = ["copy-before-write", "backup-top", "mirror_top", "commit_top"];

/// What a message lists at most.
const MOST_LISTED: usize = 10;

/// A node: a disk or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Node {
    #[serde(rename = "node-name")]
    pub name: String,
    #[serde(rename = "drv")]
    driver: String,
    #[serde(rename = "ro", default)]
    is_read_only: bool,
    image: Image,
    #[serde(rename = "dirty-bitmaps", default)]
    bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Image {
    filename: String,
    #[serde(rename = "virtual-size")]
    size_bytes: u64,
    #[serde(rename = "backing-image")]
    backing: Option<Box<Image>>,
    #[serde(rename = "format-specific")]
    specific: Option<Value>,
}

/// A dirty bitmap; one without a name is QEMU's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Bitmap {
    name: Option<String>,
    #[serde(rename = "recording", default)]
    records: bool,
    #[serde(rename = "busy", default)]
    is_busy: bool,
    #[serde(rename = "persistent", default)]
    is_persistent: bool,
    #[serde(rename = "inconsistent", default)]
    is_inconsistent: bool,
    #[serde(default)]
    granularity: u64,
}

/// A device of the virtual machine.
#[derive(Debug, Deserialize)]
struct Device {
    device: String,
    qdev: Option<String>,
    inserted: Option<Inserted>,
}

#[derive(Debug, Deserialize)]
struct Inserted {
    #[serde(rename = "node-name")]
    node: Option<String>,
}

impl Node {
    pub(super) fn size_bytes(&self) -> u64 {
        self.image.size_bytes
    }

    /// Whether QEMU would keep a bitmap when it ends.
    pub(super) fn keeps_bitmaps(&self) -> bool {
        let has_other_file = |data: &Value| data.pointer("/data/data-file").is_some();
        self.driver == "qcow2"
            && !self.is_read_only
            && !self.image.specific.as_ref().is_some_and(has_other_file)
    }

    /// What distinguishes what is below the disk from anything else; or why nothing does.
    pub(super) fn chain(&self) -> Result<String, String> {
        let first = self.image.backing.as_deref();
        let files = std::iter::successors(first, |image| image.backing.as_deref());
        backing::identify(files.map(|image| image.filename.as_str()))
    }

    /// The names of its bitmaps.
    pub(super) fn bitmaps(&self) -> impl Iterator<Item = &str> {
        self.bitmaps.iter().filter_map(|bitmap| bitmap.name.as_deref())
    }

    /// The bitmaps that are marks of an archive.
    pub(super) fn marks(&self, archive: ArchiveId) -> Vec<MarkName> {
        let names = self.bitmaps().filter_map(|name| name.parse::<MarkName>().ok());
        names.filter(|name| name.archive == archive).collect()
    }

    /// Whether a bitmap is kept when QEMU ends; `None` if there is none of that name.
    pub(super) fn is_kept(&self, name: MarkName) -> Option<bool> {
        self.bitmap(name).map(|bitmap| bitmap.is_persistent)
    }

    /// Why a bitmap does not tell what was written since it was made; `None` if it does.
    pub(super) fn doubt(&self, name: MarkName, granularity: u64) -> Option<String> {
        let Some(bitmap) = self.bitmap(name) else {
            return Some(format!(
                "the bitmap {name} is missing; QEMU saves one only in a qcow2 image, and only when it ends in order"
            ));
        };
        if bitmap.is_inconsistent {
            return Some(format!("the bitmap {name} was not saved: QEMU did not end orderly"));
        }
        if !bitmap.records {
            return Some(format!("the bitmap {name} does not record writes"));
        }
        if bitmap.is_busy {
            return Some(format!("the bitmap {name} is in use by something else"));
        }
        let found = bitmap.granularity;
        (found != granularity).then(|| {
            format!("the bitmap {name} has units of {found} bytes, expected {granularity}")
        })
    }

    fn bitmap(&self, name: MarkName) -> Option<&Bitmap> {
        let text = name.to_string();
        self.bitmaps.iter().find(|bitmap| bitmap.name.as_deref() == Some(&*text))
    }
}

/// All nodes.
pub(super) fn nodes(monitor: &mut Monitor) -> Result<Vec<Node>, String> {
    monitor.ask("query-named-block-nodes", Value::Null)
}

/// The names of all nodes, without what is below them.
pub(super) fn node_names(monitor: &mut Monitor) -> Result<Vec<String>, String> {
    let nodes: Vec<Node> = monitor.ask("query-named-block-nodes", json!({ "flat": true }))?;
    Ok(nodes.into_iter().map(|node| node.name).collect())
}

/// The disk with this name: of a device (also with QEMU's or Proxmox's own part of the name), or of a node.
///
/// # Errors
/// A sentence: what is there instead.
pub(super) fn find(monitor: &mut Monitor, wanted: &str) -> Result<Node, String> {
    let devices: Vec<Device> = monitor.ask("query-block", Value::Null)?;
    let nodes = nodes(monitor)?;
    choose(wanted, &devices, nodes)
}

fn choose(wanted: &str, devices: &[Device], nodes: Vec<Node>) -> Result<Node, String> {
    let quoted = wanted.escape_debug();
    let meant: Vec<&Device> = devices.iter().filter(|device| device.is_named(wanted)).collect();
    let by_device = meant.iter().filter_map(|device| device.inserted.as_ref()?.node.as_deref());
    let by_name = nodes.iter().map(|node| node.name.as_str()).filter(|name| *name == wanted);
    let found: BTreeSet<&str> = by_device.chain(by_name).collect();
    let name = match (found.into_iter().collect::<Vec<_>>().as_slice(), meant.is_empty()) {
        ([name], _) => (*name).to_owned(),
        ([], false) => return Err(format!("the device '{quoted}' has no medium")),
        ([], true) => {
            let known = devices.iter().filter_map(Device::name).map(str::to_owned);
            let known = known.chain(nodes.iter().map(|node| node.name.clone()));
            return Err(format!("QEMU has no disk '{quoted}'; it has {}", listed(known)));
        }
        (several, _) => {
            let several = several.iter().map(|name| (*name).to_owned());
            return Err(format!("several disks have the name '{quoted}': {}", listed(several)));
        }
    };
    let node = nodes.into_iter().find(|node| node.name == name);
    let node = node.ok_or_else(|| format!("QEMU does not describe the node of '{quoted}'"))?;
    if JOBS.contains(&&*node.driver) {
        return Err(format!(
            "another job of QEMU works on '{quoted}' ({}); wait for its end",
            node.driver
        ));
    }
    Ok(node)
}

/// For tests that answer anything: an object with the devices and the nodes.
#[cfg(feature = "testing")]
pub(super) fn read_answer(printed: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Both {
        devices: Vec<Device>,
        nodes: Vec<Node>,
    }
    let Both { devices, nodes } =
        serde_json::from_slice(printed).map_err(|error| error.to_string())?;
    let name = MarkName::passing(None);
    for node in &nodes {
        let _ = (node.chain(), node.doubt(name, 1), node.marks(name.archive), node.keeps_bitmaps());
    }
    let names: Vec<String> = devices.iter().filter_map(|d| d.name().map(str::to_owned)).collect();
    for wanted in names {
        choose(&wanted, &devices, nodes.clone())?;
    }
    choose("vda", &devices, nodes).map(drop)
}

impl Device {
    /// What somebody would call it.
    fn name(&self) -> Option<&str> {
        let named = Some(self.device.as_str()).filter(|name| !name.is_empty());
        named.or_else(|| self.qdev_name())
    }

    /// Its `id`: `/machine/peripheral/ID`, and for some kinds a part of it behind that.
    fn qdev_name(&self) -> Option<&str> {
        let path = self.qdev.as_deref()?;
        let Some(rest) = path.strip_prefix("/machine/peripheral/") else { return Some(path) };
        rest.split('/').next()
    }

    fn is_named(&self, wanted: &str) -> bool {
        let names = [Some(self.device.as_str()), self.qdev.as_deref(), self.qdev_name()];
        names.contains(&Some(wanted)) || self.device.strip_prefix("drive-") == Some(wanted)
    }
}

/// Some of the names, for a message.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('#')).collect();
    names.dedup();
    let more = names.len().saturating_sub(MOST_LISTED);
    names.truncate(MOST_LISTED);
    let shown = names.iter().map(|name| escape::line(name).into_owned());
    let shown = shown.collect::<Vec<_>>().join(", ");
    match (shown.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => shown,
        (false, more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::base::revision::RevisionId;

    fn node(name: &str, driver: &str, more: &str) -> Node {
        let text = format!(
            r#"{{"node-name": "{name}", "drv": "{driver}", "ro": false,
                 "image": {{"filename": "/a", "virtual-size": 7}}{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn devices() -> Vec<Device> {
        let text = r##"[
            {"device": "drive-scsi0", "qdev": "scsi0", "inserted": {"node-name": "#block1"}},
            {"device": "", "qdev": "/machine/peripheral/virtio0/virtio-backend",
             "inserted": {"node-name": "disk0"}},
            {"device": "cd", "qdev": "/machine/unattached/device[7]"}]"##;
        serde_json::from_str(text).unwrap()
    }

    /// A disk is found by each of its names; a name that is of none or of several is refused with what there is.
    #[test]
    fn a_disk_is_found_by_its_names() {
        let nodes = || vec![node("#block1", "raw", ""), node("disk0", "qcow2", "")];
        let found = |wanted: &str| choose(wanted, &devices(), nodes()).map(|node| node.name);
        for wanted in ["drive-scsi0", "scsi0", "#block1"] {
            assert_eq!(found(wanted), Ok("#block1".to_owned()), "{wanted}");
        }
        for wanted in ["virtio0", "/machine/peripheral/virtio0/virtio-backend", "disk0"] {
            assert_eq!(found(wanted), Ok("disk0".to_owned()), "{wanted}");
        }
        assert_eq!(found("cd"), Err("the device 'cd' has no medium".to_owned()));
        let none = found("vda").unwrap_err();
        assert_eq!(none, "QEMU has no disk 'vda'; it has drive-scsi0, virtio0, cd, disk0");
        let two = vec![node("#block1", "raw", ""), node("scsi0", "raw", "")];
        let two = choose("scsi0", &devices(), two).unwrap_err();
        assert!(two.contains("several disks"), "{two}");
        let busy = vec![node("disk0", "copy-before-write", "")];
        let busy = choose("virtio0", &devices(), busy).unwrap_err();
        assert!(busy.contains("another job"), "{busy}");
    }

    /// Bitmaps that are missing, were not saved, do not record, are in use or have other units are doubted.
    #[test]
    fn a_bitmap_is_doubted_unless_it_records_everything() {
        let archive = ArchiveId::new(Timestamp::UNIX_EPOCH);
        let revision = RevisionId::new(Timestamp::UNIX_EPOCH);
        let name = MarkName { archive, revision };
        let with = |flags: &str| {
            let more = format!(
                r#", "dirty-bitmaps": [{{"granularity": 9, "count": 0}},
                      {{"name": "{name}", "granularity": 65536, "persistent": true, {flags}}},
                      {{"name": "{name}.changed", "granularity": 65536}}]"#
            );
            node("vda", "qcow2", &more)
        };
        let good = with(r#""recording": true, "busy": false"#);
        assert_eq!(good.doubt(name, 65536), None);
        assert_eq!((good.marks(archive), good.is_kept(name)), (vec![name], Some(true)));
        let other = ArchiveId::new(Timestamp::UNIX_EPOCH);
        assert_eq!(good.marks(other), []);
        for (flags, units, part) in [
            (r#""recording": true"#, 512, "units of 65536"),
            (r#""recording": false"#, 65536, "does not record"),
            (r#""recording": true, "busy": true"#, 65536, "in use"),
            (r#""recording": false, "inconsistent": true"#, 65536, "was not saved"),
        ] {
            let why = with(flags).doubt(name, units).unwrap();
            assert!(why.contains(part), "{why}");
        }
        let missing = node("vda", "qcow2", "").doubt(name, 65536).unwrap();
        assert!(missing.contains("is missing"), "{missing}");
    }

    /// Only a qcow2 image that is written to and has its data in itself keeps bitmaps.
    #[test]
    fn only_qcow2_keeps_bitmaps() {
        assert!(node("a", "qcow2", "").keeps_bitmaps());
        assert!(!node("a", "raw", "").keeps_bitmaps());
        let mut other = node("a", "qcow2", "");
        other.image.specific = Some(json!({"data": {"data-file": "/raw"}}));
        assert!(!other.keeps_bitmaps());
        other = Node { is_read_only: true, ..node("a", "qcow2", "") };
        assert!(!other.keeps_bitmaps());
    }

    proptest! {
        /// Whatever QEMU answers is a disk or an error.
        #[test]
        fn any_answer_is_a_disk_or_an_error(text in r#"[\[\]{}:,"a-z0-9 -]{0,120}"#, wanted in ".{0,20}") {
            let devices: Vec<Device> = serde_json::from_str(&text).unwrap_or_default();
            let nodes: Vec<Node> = serde_json::from_str(&text).unwrap_or_default();
            for node in &nodes {
                let _ = node.chain();
            }
            let _ = choose(&wanted, &devices, nodes);
        }
    }
}
