//! Reports problems found while reading, each one once: readers retry again and again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::error::Error;
use crate::base::progress::{Event, Observer};
use crate::base::revision::RevisionId;

/// After this many different ones, only the fact that there are more is reported.
const LIMIT: usize = 1000;

/// Remembers what was reported.
pub(super) struct Findings {
    observer: Arc<dyn Observer + Send + Sync>,
    told: Mutex<HashSet<String>>,
}

impl Findings {
    pub(super) fn new(observer: Arc<dyn Observer + Send + Sync>) -> Self {
        Findings { observer, told: Mutex::default() }
    }

    /// Reports that a revision could not be read at some place, unless that was reported before.
    pub(super) fn tell(&self, revision: RevisionId, error: &Error) {
        let text = format!("revision {revision}: {error}");
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() > LIMIT || !told.insert(text.clone()) {
                return;
            }
            if told.len() > LIMIT {
                let more = "more errors than backy logs one by one; 'backy scrub' lists them all";
                self.observer.event(&Event::Finding(format!("revision {revision}: {more}")));
                return;
            }
        }
        self.observer.event(&Event::Finding(text));
    }

    /// Reports something that is not about stored data.
    pub(super) fn note(&self, text: String) {
        self.observer.event(&Event::Note(text));
    }
}
