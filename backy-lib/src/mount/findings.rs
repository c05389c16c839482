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
    reported: Mutex<HashSet<String>>,
}

impl Findings {
    pub(super) fn new(observer: Arc<dyn Observer + Send + Sync>) -> Self {
        Findings { observer, reported: Mutex::default() }
    }

    /// Reports that a revision could not be read at some place, unless that was reported before.
    pub(super) fn report(&self, revision: RevisionId, error: &Error) {
        let text = format!("revision {revision}: {error}");
        {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            if reported.len() > LIMIT || !reported.insert(text.clone()) {
                return;
            }
            if reported.len() > LIMIT {
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
