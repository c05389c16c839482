//! What a person has to look at before anything expires, and what somebody has confirmed.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::unknown::keeps_unknown;
use super::{BlockRange, Manifest, Unknown};
use crate::base::revision::RevisionId;

/// A revision in which far more has changed than usual.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Alarm {
    /// The revision.
    pub revision: RevisionId,
    /// When it was noticed: when the backup was committed.
    pub raised: Timestamp,
    /// Bytes in blocks that differed from the previous revision.
    pub changed_bytes: u64,
    /// How many would have been usual.
    pub usual_bytes: u64,
    /// When somebody confirmed that this is all right.
    pub confirmed: Option<Timestamp>,
    /// Bytes of data of the previous revision that are gone, if that is most of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_bytes: Option<u64>,
    /// Bytes of data that the previous revision had; known if `lost_bytes` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub had_bytes: Option<u64>,
    /// How the source differs from the one backed up before, if it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_source: Option<String>,
    /// Size in bytes of the previous revision, if the source has shrunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk_from_bytes: Option<u64>,
    /// Changes that the source had not reported, if a comparison has found any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreported: Option<Unreported>,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Alarm {
    /// An alarm that nobody has confirmed.
    pub fn new(
        revision: RevisionId,
        raised: Timestamp,
        changed_bytes: u64,
        usual_bytes: u64,
    ) -> Self {
        Alarm {
            revision,
            raised,
            changed_bytes,
            usual_bytes,
            confirmed: None,
            lost_bytes: None,
            had_bytes: None,
            other_source: None,
            shrunk_from_bytes: None,
            unreported: None,
            unknown: Unknown::new(),
        }
    }
}

/// Changes that a source did not report. The revision that found them is right there; earlier ones may not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Unreported {
    /// The blocks, ascending; close ranges are joined, with the blocks between them, if there are very many.
    pub blocks: Vec<BlockRange>,
    /// When they were last compared: revisions that were made later may hold older content there.
    pub since: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

impl Unreported {
    /// These blocks, compared last at `since`.
    pub fn new(blocks: Vec<BlockRange>, since: Timestamp) -> Self {
        Unreported { blocks, since, unknown: Unknown::new() }
    }
}

/// Damage that somebody has confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct KnownDamage {
    /// The revision that cannot be read in full.
    pub revision: RevisionId,
    /// How many of its blocks were lost when it was confirmed.
    pub bad_blocks: u64,
    /// When somebody confirmed it.
    pub confirmed: Timestamp,
    #[serde(flatten, skip_deserializing)]
    unknown: Unknown,
}

keeps_unknown!(Alarm, KnownDamage, Unreported);

impl Manifest {
    /// Alarms that nobody has confirmed, about revisions that exist.
    pub fn open_alarms(&self) -> impl Iterator<Item = &Alarm> {
        let open = self.alarms.iter().filter(|alarm| alarm.confirmed.is_none());
        // Usually there is no alarm, and nobody needs the names.
        let there = if self.alarms.is_empty() { HashSet::new() } else { self.names() };
        open.filter(move |alarm| there.contains(&alarm.revision))
    }

    /// The damage that somebody has confirmed: the largest number of lost blocks of each revision.
    pub fn confirmed_damage(&self) -> HashMap<RevisionId, u64> {
        let mut most = HashMap::new();
        for known in &self.known_damage {
            let blocks: &mut u64 = most.entry(known.revision).or_default();
            *blocks = known.bad_blocks.max(*blocks);
        }
        most
    }

    /// Forgets confirmations after `latest`, from a wrong clock.
    pub(crate) fn forget_confirmations_after(&mut self, latest: Timestamp) {
        let flaws = self.revisions.iter_mut().flat_map(|revision| &mut revision.flaws);
        let confirmed = self.alarms.iter_mut().map(|alarm| &mut alarm.confirmed);
        for confirmed in confirmed.chain(flaws.map(|flaw| &mut flaw.confirmed)) {
            *confirmed = confirmed.filter(|time| *time <= latest);
        }
        self.known_damage.retain(|known| known.confirmed <= latest);
    }

    /// Records that somebody has looked at all alarms and flaws and at this damage: lost blocks by revision.
    pub fn confirm(&mut self, damage: &[(RevisionId, u64)], now: Timestamp) {
        for alarm in &mut self.alarms {
            alarm.confirmed.get_or_insert(now);
        }
        for flaw in self.revisions.iter_mut().flat_map(|revision| &mut revision.flaws) {
            flaw.confirmed.get_or_insert(now);
        }
        let before = self.confirmed_damage();
        let mut more: HashMap<RevisionId, u64> = HashMap::new();
        let is_more =
            |(id, count): &(RevisionId, u64)| before.get(id).is_none_or(|known| known < count);
        more.extend(damage.iter().copied().filter(is_more));
        for known in &mut self.known_damage {
            if let Some(bad_blocks) = more.remove(&known.revision) {
                (known.bad_blocks, known.confirmed) = (bad_blocks, now);
            }
        }
        for &(revision, _) in damage {
            if let Some(bad_blocks) = more.remove(&revision) {
                let (confirmed, unknown) = (now, Unknown::new());
                self.known_damage.push(KnownDamage { revision, bad_blocks, confirmed, unknown });
            }
        }
    }

    /// Forgets everything about revisions that no longer exist.
    pub(super) fn forget_alarms_of_gone(&mut self) {
        if self.alarms.is_empty() && self.known_damage.is_empty() {
            return;
        }
        let there = self.names();
        self.alarms.retain(|alarm| there.contains(&alarm.revision));
        self.known_damage.retain(|known| there.contains(&known.revision));
    }

    fn names(&self) -> HashSet<RevisionId> {
        self.revisions.iter().map(|revision| revision.uuid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::base::units::BlockSize;
    use crate::format::manifest::{Revision, Statistics};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// With `count` revisions, and their names.
    fn manifest(count: i64) -> (Manifest, Vec<RevisionId>) {
        let mut manifest = Manifest::new(BlockSize::DEFAULT);
        for second in 1..=count {
            let (time, digest) = (at(second), Digest::of(b""));
            let id = RevisionId::new(time);
            let statistics = Statistics::default();
            manifest.push_newest(Revision::newest(id, time, time, 0, digest, statistics));
        }
        let ids = manifest.revisions.iter().map(|revision| revision.uuid).collect();
        (manifest, ids)
    }

    /// An alarm is open until it is confirmed, and as long as its revision exists; the time of the first confirmation
    /// stays.
    #[test]
    fn an_alarm_is_open_until_it_is_confirmed() {
        let (mut manifest, ids) = manifest(2);
        let gone = RevisionId::new(at(9));
        manifest.alarms = [ids[0], gone].map(|id| Alarm::new(id, at(5), 7, 1)).to_vec();
        let open = |manifest: &Manifest| {
            manifest.open_alarms().map(|alarm| alarm.revision).collect::<Vec<_>>()
        };
        assert_eq!(open(&manifest), [ids[0]]);
        manifest.confirm(&[], at(6));
        manifest.confirm(&[], at(7));
        assert_eq!(open(&manifest), []);
        assert_eq!(manifest.alarms[0].confirmed, Some(at(6)));
    }

    /// Confirmed damage covers as many blocks as were confirmed; if there are more, the last confirmation counts, for
    /// that revision alone.
    #[test]
    fn damage_is_known_as_far_as_it_was_confirmed() {
        let (mut manifest, ids) = manifest(2);
        let known = |manifest: &Manifest, id| manifest.confirmed_damage().get(&id).copied();
        assert_eq!(known(&manifest, ids[0]), None);
        manifest.confirm(&[(ids[0], 3), (ids[1], 1)], at(6));
        assert_eq!([known(&manifest, ids[0]), known(&manifest, ids[1])], [Some(3), Some(1)]);
        // Less damage than confirmed is nothing new.
        manifest.confirm(&[(ids[0], 2)], at(7));
        assert_eq!(manifest.known_damage[0].confirmed, at(6));
        manifest.confirm(&[(ids[0], 5)], at(8));
        assert_eq!([known(&manifest, ids[0]), known(&manifest, ids[1])], [Some(5), Some(1)]);
        assert_eq!(manifest.known_damage.len(), 2);
    }

    /// Deleting a revision deletes everything about it, and nothing else.
    #[test]
    fn what_is_about_a_revision_goes_with_it() {
        let (mut manifest, ids) = manifest(2);
        manifest.alarms = ids.iter().map(|&id| Alarm::new(id, at(5), 7, 1)).collect();
        manifest.confirm(&[(ids[0], 3), (ids[1], 1)], at(6));
        manifest.revisions.remove(1);
        manifest.forget_alarms_of_gone();
        let alarms = manifest.alarms.iter().map(|alarm| alarm.revision);
        assert_eq!(alarms.collect::<Vec<_>>(), [ids[0]]);
        let known = manifest.known_damage.iter().map(|known| known.revision);
        assert_eq!(known.collect::<Vec<_>>(), [ids[0]]);
    }
}
