//! Records the findings of a scrub in the manifest, where they stay until a later scrub proves the data correct.

use std::collections::HashMap;

use jiff::Timestamp;

use super::Scrub;
use crate::format::manifest::{Findings, Revision};
use crate::storage::FileName;

impl Scrub<'_> {
    /// Records blocks of the file of revision `number` as bad.
    pub(super) fn note_lost(&mut self, number: usize, lost: &Findings) {
        if let Some(revision) = self.manifest.revisions.get_mut(number) {
            revision.findings.add_all(lost.bad_blocks.iter().copied());
        }
    }

    /// Records problems with the files of the checked revisions in the manifest, other than single blocks.
    /// Problems with other files do not affect any revision.
    pub(super) fn record_flaws(
        &mut self,
        record: fn(&mut Revision, Vec<(FileName, String)>, Timestamp),
    ) {
        let mut open: HashMap<&str, Vec<&str>> = HashMap::new();
        for finding in self.findings.iter().filter(|f| f.blocks.is_none() && !f.repaired) {
            open.entry(&finding.file).or_default().push(&finding.message);
        }
        for number in self.numbers() {
            let Some(revision) = self.manifest.revisions.get_mut(number) else { continue };
            let names = [revision.file(), revision.digests_file()];
            let own = names.into_iter().flat_map(|name| {
                let messages = open.get(&*name.to_string()).cloned().unwrap_or_default();
                messages.into_iter().map(move |message| (name, message.to_owned()))
            });
            record(revision, own.collect(), self.now);
        }
    }
}
