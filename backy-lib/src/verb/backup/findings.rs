//! What a backup reports besides the revision: rotten blocks, a source in another format, unusual change.

use super::make::Making;
use crate::base::progress::Event;
use crate::base::revision::RevisionId;
use crate::format::manifest::{Findings, Manifest, SourceIdentity};
use crate::image::damage;
use crate::policy::health;
use crate::storage::FileName;

impl Making<'_> {
    /// Reports which blocks of the previous revision are rotten.
    pub(super) fn report_rotten(&self, news: &Findings, revision: RevisionId) {
        let image = self.context.storage.path(FileName::IMAGE);
        let (listed, more) = damage::listed(news);
        let (blocks, count) = more;
        let more = (count > 0).then(|| (format!("{blocks} more blocks"), blocks));
        let listed = listed.iter().map(|range| (damage::name(*range), range.count));
        for (what, count) in listed.chain(more) {
            let (are, they, them) =
                if count == 1 { ("is", "it is", "it") } else { ("are", "they are", "them") };
            self.context.observer.event(&Event::Finding(format!(
                "{}: {what} of revision {revision} {are} not what was backed up; {they} lost for this revision and \
                 for older ones that share {them}",
                image.display()
            )));
        }
    }

    /// Reports once that the source is an image in another format.
    pub(super) fn report_container(&self, manifest: &Manifest, source: &SourceIdentity) {
        let known = manifest.source.as_ref().and_then(|known| known.container.as_ref());
        if let Some(what) = source.container_note().filter(|_| known != source.container.as_ref()) {
            self.context.observer.event(&Event::Finding(what));
        }
    }

    /// Reports that far more has changed than usual.
    pub(super) fn report_unusual(&self, manifest: &Manifest) {
        let own =
            health::freezes(manifest, &[]).into_iter().find(|f| f.revision == self.order.uuid);
        let Some(alarm) = own else { return };
        let frozen = match self.context.config.monitoring.freeze {
            true => "; nothing expires until 'backy maintenance --confirm'",
            false => "",
        };
        self.context.observer.event(&Event::Finding(format!("{}{frozen}", alarm.message)));
    }
}
