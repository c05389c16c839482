//! Which job starts next: at most so many at a time, at most so many of a group, and one place that long jobs leave
//! to short ones.
//!
//! A pure state machine. It keeps no place free for a job that cannot start, so nothing waits without a reason.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::policy::config::Group;

/// How many jobs may run at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of all archives together.
    pub jobs: NonZeroUsize,
    /// Of the archives of one group. A group without an entry has one job at a time.
    pub groups: BTreeMap<Group, NonZeroUsize>,
}

impl Limits {
    fn of_group(&self, group: &Group) -> usize {
        self.groups.get(group).map_or(1, |limit| limit.get())
    }
}

/// What decides whether a job may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// What it has to share with others, such as a volume group or a pool.
    pub(super) group: Option<Group>,
    /// Whether it is expected to end soon.
    pub(super) is_short: bool,
}

/// The jobs that run.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    limits: &'a Limits,
    long: usize,
    short: usize,
    of_group: BTreeMap<Group, usize>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Lanes { limits, long: 0, short: 0, of_group: BTreeMap::new() }
    }

    /// How many may run.
    pub(super) fn places(&self) -> usize {
        self.limits.jobs.get()
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.long + self.short
    }

    /// The position of the job to start now, of those that wait, most urgent first; `None` when all have to wait for
    /// one that runs.
    ///
    /// With two places or more, long jobs that have all but the last one leave that to the first short job that can
    /// start.
    pub(super) fn next<'b>(
        &self,
        waiting: impl Iterator<Item = &'b Claim> + Clone,
    ) -> Option<usize> {
        let places = self.places();
        if self.running() >= places {
            return None;
        }
        let can_start = |claim: &Claim| self.group_has_place(claim.group.as_ref());
        let is_last_of_long = places > 1 && self.long + 1 >= places;
        let short = waiting.clone().position(|claim| claim.is_short && can_start(claim));
        short.filter(|_| is_last_of_long).or_else(|| waiting.clone().position(can_start))
    }

    fn group_has_place(&self, group: Option<&Group>) -> bool {
        let Some(group) = group else { return true };
        let running = self.of_group.get(group).copied().unwrap_or_default();
        running < self.limits.of_group(group)
    }

    /// A job has been started.
    pub(super) fn start(&mut self, claim: &Claim) {
        *self.lane(claim) += 1;
        if let Some(group) = &claim.group {
            *self.of_group.entry(group.clone()).or_default() += 1;
        }
    }

    /// A job that was started has ended.
    pub(super) fn end(&mut self, claim: &Claim) {
        let lane = self.lane(claim);
        *lane = lane.saturating_sub(1);
        if let Some(running) = claim.group.as_ref().and_then(|group| self.of_group.get_mut(group)) {
            *running = running.saturating_sub(1);
        }
    }

    fn lane(&mut self, claim: &Claim) -> &mut usize {
        if claim.is_short { &mut self.short } else { &mut self.long }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(jobs: usize, groups: &[(&str, usize)]) -> Limits {
        let limit = |count: usize| NonZeroUsize::new(count).unwrap();
        let groups = groups.iter().map(|&(name, count)| (name.parse().unwrap(), limit(count)));
        Limits { jobs: limit(jobs), groups: groups.collect() }
    }

    fn claim(group: &str, is_short: bool) -> Claim {
        Claim { group: (!group.is_empty()).then(|| group.parse().unwrap()), is_short }
    }

    /// A long job never takes the last place while a short one could start.
    #[test]
    fn the_last_place_goes_to_a_short_job() {
        let limits = limits(2, &[]);
        let mut lanes = Lanes::new(&limits);
        let waiting = [claim("", false), claim("", false), claim("", true)];
        assert_eq!(lanes.next(waiting.iter()), Some(0));
        lanes.start(&waiting[0]);
        assert_eq!(lanes.next(waiting[1..].iter()), Some(1));
        assert_eq!(lanes.next(waiting[1..2].iter()), Some(0), "no short job waits");
    }

    /// With one place, jobs start in their order, however long they are.
    #[test]
    fn a_single_place_knows_no_lanes() {
        let limits = limits(1, &[]);
        let waiting = [claim("", false), claim("", true)];
        assert_eq!(Lanes::new(&limits).next(waiting.iter()), Some(0));
    }

    /// A job of another group overtakes one whose group is full.
    #[test]
    fn a_full_group_holds_up_no_other() {
        let limits = limits(3, &[("vg0", 1)]);
        let mut lanes = Lanes::new(&limits);
        let waiting = [claim("vg0", false), claim("vg0", false), claim("vg1", false)];
        lanes.start(&waiting[0]);
        assert_eq!(lanes.next(waiting[1..].iter()), Some(1));
        lanes.end(&waiting[0]);
        assert_eq!(lanes.next(waiting[1..].iter()), Some(0));
    }

    /// A job and how many steps it takes.
    fn job() -> impl Strategy<Value = (Claim, u32)> {
        let group = prop_oneof![Just(""), Just("a"), Just("b"), Just("unlimited")];
        (group, any::<bool>(), 1..20u32).prop_map(|(group, is_short, steps)| {
            (claim(group, is_short), if is_short { steps % 3 + 1 } else { steps })
        })
    }

    proptest! {
        /// Whatever the jobs and limits: no limit is exceeded, every job is done, no place is free for which one could
        /// start, and no job is overtaken but for the two reasons that there are.
        #[test]
        fn every_job_gets_its_turn(
            jobs in prop::collection::vec(job(), 0..40), places in 1..6usize, a in 1..4usize, b in 1..4usize,
        ) {
            let limits = limits(places, &[("a", a), ("b", b)]);
            let mut lanes = Lanes::new(&limits);
            let mut waiting: Vec<usize> = (0..jobs.len()).collect();
            let mut running: Vec<(usize, u32)> = Vec::new();
            let mut done = 0;
            while done < jobs.len() {
                while let Some(at) = lanes.next(waiting.iter().map(|&job| &jobs[job].0)) {
                    let index = waiting.remove(at);
                    let (claim, steps) = &jobs[index];
                    let long = running.iter().filter(|&&(job, _)| !jobs[job].0.is_short).count();
                    for &passed in &waiting[..at] {
                        let passed = &jobs[passed].0;
                        let is_full = passed.group.as_ref().is_some_and(|group| {
                            let same = |&&(job, _): &&(usize, u32)| jobs[job].0.group.as_ref() == Some(group);
                            running.iter().filter(same).count() >= limits.of_group(group)
                        });
                        let leaves_place = places > 1 && long + 1 >= places && claim.is_short && !passed.is_short;
                        prop_assert!(is_full || leaves_place, "a job was overtaken without a reason");
                    }
                    lanes.start(claim);
                    running.push((index, *steps));
                }
                prop_assert!(!running.is_empty(), "jobs wait and none runs");
                prop_assert!(running.len() <= places);
                prop_assert_eq!(running.len(), lanes.running());
                for group in ["a", "b", "unlimited"].map(|name| name.parse::<Group>().unwrap()) {
                    let same = running.iter().filter(|&&(job, _)| jobs[job].0.group.as_ref() == Some(&group));
                    prop_assert!(same.count() <= limits.of_group(&group));
                }
                let mut left = Vec::new();
                for (job, steps) in running.drain(..) {
                    match steps {
                        1 => { lanes.end(&jobs[job].0); done += 1; }
                        steps => left.push((job, steps - 1)),
                    }
                }
                running = left;
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
