//! A backup point: from its beginning to its end, an export of QEMU has the disk as it was at the beginning.
//!
//! QEMU copies what the guest overwrites to a scratch file first, of which the disk itself is the backing file, and
//! exports that. Everything has the name of the point, so that what a killed backup has left can be found and removed:
//!
//! | what | name |
//! |---|---|
//! | the folder with the scratch file and the socket of the NBD server | `SCRATCH/NAME/` |
//! | the job and the export | `NAME` |
//! | the frozen copy of the bitmap since the last mark | `NAME.changed` |
//! | the node of the scratch file, whose name has at most 31 bytes | `backy-` and the ends of both UUIDs |

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::disk::{self, Node};
use super::monitor::Monitor;
use crate::base::error::describe_io;
use crate::base::fork::Maker;
use crate::base::mark::{ArchiveId, MarkName};
use crate::source::nbd::NbdSource;
use crate::source::program::QEMU_IMG;
use crate::source::running::Point;
use crate::source::scratch::{self, Folder, InUse};
use crate::source::served::Server;

/// How long a job, an export or a program may take to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look whether it has.
const TICK: Duration = Duration::from_millis(5);

/// Where the monitor is, and where scratch files go.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub monitor: PathBuf,
    pub scratch: PathBuf,
}

/// A point that has begun.
pub(super) struct QmpPoint {
    place: Place,
    name: MarkName,
    /// `None` once it is ended.
    nbd: Option<NbdSource>,
    in_use: InUse,
    maker: Maker,
}

#[derive(Deserialize)]
struct Job {
    id: String,
    status: String,
}

#[derive(Deserialize)]
struct Exported {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

impl QmpPoint {
    /// Begins one. With `since`, a bitmap of the disk, the export says what has been written since that was made.
    ///
    /// # Errors
    /// A sentence; what has been begun is ended again.
    pub(super) fn begin(
        place: &Place,
        monitor: &mut Monitor,
        node: &Node,
        (name, since): (MarkName, Option<MarkName>),
    ) -> Result<Self, String> {
        // QEMU has one NBD server: what a killed backup has left is in the way.
        end_all(place, monitor, name.archive)?;
        let begun = Self::start(place, monitor, node, (name, since));
        if begun.is_err() {
            // What cannot be ended now is ended by whoever settles.
            let _ = end(place, monitor, name);
        }
        begun
    }

    fn start(
        place: &Place,
        monitor: &mut Monitor,
        node: &Node,
        (name, since): (MarkName, Option<MarkName>),
    ) -> Result<Self, String> {
        let folder = place.folder(name);
        let in_use = make(&folder, monitor, node.size_bytes())?;
        let path = path_text(&folder.socket())?.to_owned();
        let address = json!({"addr": {"type": "unix", "data": {"path": path}}});
        if let Err(why) = monitor.run("nbd-server-start", address) {
            let served = exports(monitor)?.into_iter().filter(|export| export.kind == "nbd");
            let served: Vec<String> = served.map(|export| export.id).collect();
            return Err(match served.is_empty() {
                true => format!("{why}; nbd-server-stop ends one that serves nothing"),
                false => format!(
                    "{why}; QEMU has one such server at a time, which is in use for {}",
                    served.join(", ")
                ),
            });
        }
        let scratch = json!({
            "driver": "qcow2",
            "node-name": node_name(name),
            "file": {"driver": "file", "filename": path_text(&folder.file())?},
            "backing": node.name,
        });
        monitor.run("blockdev-add", scratch)?;
        let changed = changed_name(name);
        let mut actions = Vec::new();
        if let Some(since) = since {
            let frozen = json!({"node": node.name, "name": changed, "persistent": false, "disabled": true,
                                "granularity": super::tracker::GRANULARITY});
            actions.push(json!({"type": "block-dirty-bitmap-add", "data": frozen}));
            let merged =
                json!({"node": node.name, "target": changed, "bitmaps": [since.to_string()]});
            actions.push(json!({"type": "block-dirty-bitmap-merge", "data": merged}));
        }
        let job = json!({"job-id": name.to_string(), "device": node.name, "target": node_name(name), "sync": "none"});
        actions.push(json!({"type": "blockdev-backup", "data": job}));
        // All of it happens at one moment, with no write of the guest under way.
        monitor.run("transaction", json!({ "actions": actions }))?;
        let bitmaps: Vec<Value> =
            since.map(|_| json!({"node": node.name, "name": changed})).into_iter().collect();
        let export = json!({"type": "nbd", "id": name.to_string(), "node-name": node_name(name),
                            "name": name.to_string(), "bitmaps": bitmaps});
        monitor.run("block-export-add", export)?;
        let nbd = folder.connect(&name.to_string(), since.map(|_| changed))?;
        Ok(QmpPoint { place: place.clone(), name, nbd: Some(nbd), in_use, maker: Maker::this() })
    }
}

impl Point for QmpPoint {
    fn check_space(&self) -> Result<(), String> {
        self.in_use.check()
    }

    fn check_whole(&self) -> Result<(), String> {
        let mut monitor = Monitor::open(&self.place.monitor)?;
        let jobs: Vec<Job> = monitor.ask("query-jobs", Value::Null)?;
        let name = self.name.to_string();
        let why = match jobs.iter().find(|job| job.id == name) {
            // While it is paused, it keeps the disk as well.
            Some(job) if ["running", "paused"].contains(&&*job.status) => return Ok(()),
            Some(job) => format!("is {}", job.status.escape_debug()),
            None => "has ended before the backup; did somebody cancel it?".to_owned(),
        };
        Err(format!("the job that keeps the disk as it was {why}"))
    }
}

impl Server for QmpPoint {
    fn nbd(&self) -> Option<&NbdSource> {
        self.nbd.as_ref()
    }
}

impl Drop for QmpPoint {
    fn drop(&mut self) {
        self.nbd = None;
        if self.maker.is_this() {
            // Whoever settles tries again, and reports what is in the way.
            let _ = Monitor::open(&self.place.monitor)
                .and_then(|mut monitor| end(&self.place, &mut monitor, self.name));
        }
    }
}

impl Place {
    fn folder(&self, name: MarkName) -> Folder {
        Folder::of(&self.scratch, name)
    }
}

/// Ends all points of an archive, as a killed backup may have left one.
///
/// # Errors
/// A sentence about the first that cannot be ended.
pub(super) fn end_all(
    place: &Place,
    monitor: &mut Monitor,
    archive: ArchiveId,
) -> Result<(), String> {
    let mut names = BTreeSet::new();
    let mut add = |text: &str| {
        let name = text.strip_suffix(".changed").unwrap_or(text).parse::<MarkName>();
        names.extend(name.ok().filter(|name| name.archive == archive));
    };
    let jobs: Vec<Job> = monitor.ask("query-jobs", Value::Null)?;
    jobs.iter().for_each(|job| add(&job.id));
    exports(monitor)?.iter().for_each(|export| add(&export.id));
    for node in disk::nodes(monitor)? {
        node.bitmaps().filter(|name| name.ends_with(".changed")).for_each(&mut add);
    }
    names.extend(scratch::names(&place.scratch, archive)?);
    names.into_iter().try_for_each(|name| end(place, monitor, name))
}

/// Ends a point as far as there is anything of it. The guest's disk is as it was before.
fn end(place: &Place, monitor: &mut Monitor, name: MarkName) -> Result<(), String> {
    let id = name.to_string();
    if has_export(monitor, &id)? {
        monitor.run("block-export-del", json!({"id": id, "mode": "hard"}))?;
        until_gone("export", || Ok(!has_export(monitor, &id)?))?;
    }
    if has_job(monitor, &id)? {
        monitor.run("job-cancel", json!({ "id": id }))?;
        until_gone("job", || Ok(!has_job(monitor, &id)?))?;
    }
    let node = node_name(name);
    if disk::node_names(monitor)?.contains(&node) {
        monitor.run("blockdev-del", json!({ "node-name": node }))?;
    }
    let changed = changed_name(name);
    for node in disk::nodes(monitor)? {
        if node.bitmaps().any(|name| name == changed) {
            remove_bitmap(monitor, &node, &changed)?;
        }
    }
    let folder = place.folder(name);
    // The server is ours if it listens in our folder.
    if folder.is_served() {
        if let Some(other) = exports(monitor)?.into_iter().find(|export| export.kind == "nbd") {
            return Err(format!(
                "the NBD server that backy started in QEMU is in use for {}; remove that export (block-export-del)",
                other.id
            ));
        }
        monitor.run("nbd-server-stop", Value::Null)?;
    }
    folder.remove()
}

pub(super) fn remove_bitmap(monitor: &mut Monitor, node: &Node, name: &str) -> Result<(), String> {
    let named = json!({"node": node.name, "name": name});
    monitor.run("block-dirty-bitmap-remove", named).map(drop)
}

fn exports(monitor: &mut Monitor) -> Result<Vec<Exported>, String> {
    monitor.ask("query-block-exports", Value::Null)
}

fn has_export(monitor: &mut Monitor, id: &str) -> Result<bool, String> {
    Ok(exports(monitor)?.iter().any(|export| export.id == id))
}

fn has_job(monitor: &mut Monitor, id: &str) -> Result<bool, String> {
    let jobs: Vec<Job> = monitor.ask("query-jobs", Value::Null)?;
    Ok(jobs.iter().any(|job| job.id == id))
}

fn until_gone(what: &str, mut is_gone: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let asked = Instant::now();
    while !is_gone()? {
        if asked.elapsed() > PATIENCE {
            return Err(format!("the {what} of an earlier backup point does not end"));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn changed_name(name: MarkName) -> String {
    format!("{name}.changed")
}

/// The last digits of a UUID of version 7 are random.
fn node_name(name: MarkName) -> String {
    let end = |uuid: String| uuid.rsplit('-').next().map(str::to_owned).unwrap_or_default();
    format!("backy-{}-{}", end(name.archive.to_string()), end(name.revision.to_string()))
}

/// A path as QEMU takes it.
fn path_text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| {
        format!("{} is not UTF-8; set another scratch in [tracking]", path.display())
    })
}

/// Makes the folder with an empty scratch file, for the user who runs QEMU.
fn make(folder: &Folder, monitor: &Monitor, size_bytes: u64) -> Result<InUse, String> {
    let in_use = folder.make(size_bytes)?;
    let words = [
        "create".into(),
        "-q".into(),
        "-f".into(),
        "qcow2".into(),
        folder.file().into(),
        size_bytes.to_string().into(),
    ];
    QEMU_IMG.run(&words, PATIENCE)?;
    let owner = monitor
        .owner()
        .map_err(|error| format!("cannot tell who runs QEMU: {}", describe_io(&error)))?;
    folder.give(owner)?;
    Ok(in_use)
}
