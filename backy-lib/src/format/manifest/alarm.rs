//! What a person has to look at before anything expires, and what has been looked at.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Manifest;
use crate::revision::RevisionId;

/// A revision of which far more had changed than usual.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The revision.
    pub revision: RevisionId,
    /// When it was noticed: when the backup was committed.
    pub raised: Timestamp,
    /// Bytes in blocks that differed from the revision before.
    pub changed_bytes: u64,
    /// As many would have been usual.
    pub usual_bytes: u64,
    /// When somebody confirmed that it is in order.
    pub confirmed: Option<Timestamp>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Alarm {
    /// One that nobody has confirmed.
    pub fn new(
        revision: RevisionId,
        raised: Timestamp,
        changed_bytes: u64,
        usual_bytes: u64,
    ) -> Self {
        let (confirmed, unknown) = (None, Map::new());
        Alarm { revision, raised, changed_bytes, usual_bytes, confirmed, unknown }
    }
}

/// Damage that somebody knows of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownDamage {
    /// The revision that cannot be read in full.
    pub revision: RevisionId,
    /// How many of its blocks were lost when it was confirmed.
    pub bad_blocks: u64,
    /// When that was.
    pub confirmed: Timestamp,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

impl Manifest {
    /// Alarms that nobody has confirmed, about revisions that are there.
    pub fn open_alarms(&self) -> impl Iterator<Item = &Alarm> {
        let there = |alarm: &&Alarm| self.has(alarm.revision);
        self.alarms.iter().filter(|alarm| alarm.confirmed.is_none()).filter(there)
    }

    /// Whether somebody has confirmed that so many blocks of a revision are lost.
    pub fn is_known_damage(&self, revision: RevisionId, bad_blocks: u64) -> bool {
        self.known_damage
            .iter()
            .any(|known| known.revision == revision && known.bad_blocks >= bad_blocks)
    }

    /// Takes note that somebody has looked at all alarms and at this damage: lost blocks by revision.
    pub fn confirm(&mut self, damage: &[(RevisionId, u64)], now: Timestamp) {
        for alarm in &mut self.alarms {
            alarm.confirmed.get_or_insert(now);
        }
        for &(revision, bad_blocks) in damage {
            if self.is_known_damage(revision, bad_blocks) {
                continue;
            }
            self.known_damage.retain(|known| known.revision != revision);
            let unknown = Map::new();
            self.known_damage.push(KnownDamage { revision, bad_blocks, confirmed: now, unknown });
        }
    }

    /// Forgets what is about revisions that are not there any more.
    pub(super) fn forget_alarms_of_gone(&mut self) {
        let mut alarms = std::mem::take(&mut self.alarms);
        alarms.retain(|alarm| self.has(alarm.revision));
        self.alarms = alarms;
        let mut known = std::mem::take(&mut self.known_damage);
        known.retain(|known| self.has(known.revision));
        self.known_damage = known;
    }

    fn has(&self, id: RevisionId) -> bool {
        self.revisions.iter().any(|revision| revision.uuid == id)
    }
}
