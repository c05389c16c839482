//! What an archive has to be after a power cut: first as it lies there, then with backy, then after the next backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_tests::world::Expected;
use serde_json::Value;

use super::workload::{Step, Steps};
use crate::site::{Site, run, text, words, works};

/// What each revision has to be, as files for `qemu-img` to compare with.
pub(crate) struct Witnesses {
    folder: PathBuf,
}

impl Witnesses {
    pub(crate) fn write(folder: &Path, content: &BTreeMap<String, Expected>) -> Self {
        fs::create_dir(folder).expect("make a folder");
        for (name, revision) in content {
            let mut padded = revision.bytes.clone();
            padded.resize(padded.len().next_multiple_of(512), 0);
            fs::write(folder.join(name), padded).expect("write what is expected");
        }
        Witnesses { folder: folder.to_owned() }
    }

    /// Whether QEMU finds the content of this revision in an image.
    fn agree(&self, image: &Path, format: &str, name: &str) -> Result<(), String> {
        let mut command = Command::new("qemu-img");
        command.args(["compare", "-q", "-f", format, "-F", "raw"]).arg(image);
        let output = run(command.arg(self.folder.join(name)));
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{}: {}: {}", image.display(), output.status, words(&output))),
        }
    }
}

/// A power cut between the end of one step and that of the next.
pub(crate) struct Moment<'a> {
    pub(crate) before: &'a Step,
    pub(crate) after: &'a Step,
    pub(crate) steps: &'a Steps,
    pub(crate) witnesses: &'a Witnesses,
    pub(crate) number: usize,
}

impl Moment<'_> {
    pub(crate) fn check(&self, folder: &Path, source: &Path) {
        let mut site =
            Site { folder: folder.to_owned(), source: source.to_owned(), expected: Vec::new() };
        if self.before.revisions.is_none() && !folder.join("manifest.json").exists() {
            site.write_source(&self.steps.next);
            works(&mut site.backy(&["init", text(source)]));
            self.next_backup(&mut site);
            return;
        }
        let committed = self.committed(&site);
        site.expected = committed.iter().map(|name| self.steps.content[name].clone()).collect();
        self.check_untouched(&site, &committed);
        self.check_with_backy(&mut site, &committed);
        if self.damaged_from().is_some() {
            // It reports what it finds and repairs, unless that was done before.
            let output = run(&mut site.backy(&["scrub"]));
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", words(&output));
            works(&mut site.backy(&["scrub"]));
            site.check_at_rest();
        }
        self.next_backup(&mut site);
        if self.number.is_multiple_of(2) {
            works(&mut site.backy(&["maintenance", "-k", "2"]));
            let left: BTreeSet<_> = site.committed().into_iter().collect();
            site.expected.retain(|revision| left.contains(&revision.uuid.to_string()));
            site.check_at_rest();
        }
        works(&mut site.backy(&["scrub", "-n"]));
    }

    fn damaged_from(&self) -> Option<usize> {
        let both = [self.before.damaged_from, self.after.damaged_from];
        both.into_iter().flatten().min()
    }

    /// The revisions in the manifest: all that existed and stay, and any of those that the step adds or deletes.
    fn committed(&self, site: &Site) -> Vec<String> {
        let committed = site.committed();
        let set = |step: &Step| -> BTreeSet<String> {
            step.revisions.iter().flatten().cloned().collect()
        };
        let (before, after) = (set(self.before), set(self.after));
        let found: BTreeSet<String> = committed.iter().cloned().collect();
        assert!(
            before.intersection(&after).all(|name| found.contains(name)),
            "a revision is lost: found {committed:?}, before {before:?}, after {after:?}"
        );
        assert!(
            found.iter().all(|name| before.contains(name) || after.contains(name)),
            "a revision that nobody made: found {committed:?}, before {before:?}, after {after:?}"
        );
        // Their names sort by time.
        assert!(committed.is_sorted_by(|a, b| a > b), "not newest first: {committed:?}");
        committed
    }

    /// Without backy: QEMU reads the older revisions, and the newest is `last.raw`, or, while it is being changed,
    /// the overlay over it.
    fn check_untouched(&self, site: &Site, committed: &[String]) {
        let Some((newest, older)) = committed.split_first() else { return };
        let sound = self.damaged_from().unwrap_or(usize::MAX);
        for (name, number) in older.iter().zip(1..) {
            if number < sound {
                let delta = site.folder.join(format!("{name}.qcow2"));
                let agrees = self.witnesses.agree(&delta, "qcow2", name);
                agrees.unwrap_or_else(|words| panic!("revision {number}: {words}"));
            }
        }
        if sound == 0 {
            return;
        }
        let image = fs::read(site.folder.join("last.raw")).expect("read last.raw");
        let overlay = site.folder.join(format!("{newest}.qcow2"));
        if image != site.expected[0].bytes {
            let manifest = fs::read(site.folder.join("manifest.json")).expect("read the manifest");
            let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest in JSON");
            let operation = &manifest["in_progress"]["operation"];
            if operation == "merge" {
                // Behind its end there is only space that is still to be freed.
                let newest = &site.expected[0].bytes;
                assert!(image.starts_with(newest), "last.raw is not the newest revision");
                return;
            }
            assert!(
                operation == "backup" || operation == "remove",
                "last.raw is not the newest revision, and what is under way is {operation}"
            );
            let agrees = self.witnesses.agree(&overlay, "qcow2", newest);
            agrees.unwrap_or_else(|words| panic!("the newest revision: {words}"));
        }
    }

    /// With backy, which changes nothing: each revision reads right, or, where a step has damaged something on
    /// purpose, not at all.
    fn check_with_backy(&self, site: &mut Site, committed: &[String]) {
        let status = works(&mut site.backy(&["status", "--json"]));
        let status: Value = serde_json::from_slice(&status).expect("a report in JSON");
        let listed = status["revisions"].as_array().expect("revisions");
        assert!(listed.iter().map(|r| &r["uuid"]).eq(committed.iter()), "{status}");
        let sound = self.damaged_from().unwrap_or(usize::MAX);
        for (number, revision) in site.expected.iter().enumerate() {
            let name = revision.uuid.to_string();
            let output = run(&mut site.backy(&["restore", "-r", &name, "-"]));
            let right = output.status.success() && output.stdout == revision.bytes;
            let refused = number >= sound && output.status.code() == Some(1);
            assert!(right || refused, "revision {number}: {}: {}", output.status, words(&output));
        }
    }

    /// The next backup works and leaves an archive at rest.
    fn next_backup(&self, site: &mut Site) {
        site.backup(&self.steps.next);
        site.check_at_rest();
    }
}
