//! The jobs of a run: which starts next, and which is tried again.
//!
//! A pure state machine: time is what the caller says. One archive has one job at a time. A job that failed waits
//! until all others have had their turn, and is tried twice more.

use std::time::Duration;

use super::job::Job;
use super::lanes::{Claim, Lanes, Limits};

/// How long to wait before the second and the third attempt.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// A job with the number of its attempt, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attempt {
    pub(super) job: Job,
    pub(super) number: usize,
    claim: Claim,
    not_before: Duration,
}

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Start this one, and ask again.
    Start(Box<Attempt>),
    /// Nothing before a running job ends, or this time comes.
    Wait(Option<Duration>),
    /// Nothing is left, and nothing runs.
    Done,
}

/// Jobs that wait, and those that run.
pub(super) struct Queue<'a> {
    lanes: Lanes<'a>,
    /// Most urgent first.
    waiting: Vec<Attempt>,
    running: Vec<Attempt>,
}

impl<'a> Queue<'a> {
    pub(super) fn new(limits: &'a Limits, jobs: Vec<Job>) -> Self {
        let mut queue =
            Queue { lanes: Lanes::new(limits), waiting: Vec::new(), running: Vec::new() };
        jobs.into_iter().for_each(|job| queue.add(job));
        queue
    }

    /// Adds a job that has become due.
    pub(super) fn add(&mut self, job: Job) {
        let claim = Claim { group: job.group.clone(), is_short: job.is_short() };
        self.insert(Attempt { job, number: 1, claim, not_before: Duration::ZERO });
    }

    fn insert(&mut self, attempt: Attempt) {
        let is_before = |other: &Attempt| {
            other.number.cmp(&attempt.number).then_with(|| other.job.urgency(&attempt.job)).is_le()
        };
        let at = self.waiting.partition_point(is_before);
        self.waiting.insert(at, attempt);
    }

    /// What to do at `now`, a time since the run began.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        let is_free = |attempt: &Attempt| {
            let same = |other: &Attempt| other.job.archive == attempt.job.archive;
            !self.running.iter().any(same)
        };
        let free: Vec<usize> = (0..self.waiting.len())
            .filter(|&at| self.waiting.get(at).is_some_and(is_free))
            .collect();
        let claim = |&at: &usize| {
            let attempt = self.waiting.get(at)?;
            (attempt.not_before <= now).then_some((at, &attempt.claim))
        };
        let ready: Vec<(usize, &Claim)> = free.iter().filter_map(claim).collect();
        let chosen = self.lanes.next(ready.iter().map(|(_, claim)| *claim));
        if let Some(&(at, _)) = chosen.and_then(|chosen| ready.get(chosen)) {
            let attempt = self.waiting.remove(at);
            self.lanes.start(&attempt.claim);
            self.running.push(attempt.clone());
            return Next::Start(attempt.into());
        }
        if self.waiting.is_empty() && self.running.is_empty() {
            return Next::Done;
        }
        let times = self.waiting.iter().map(|attempt| attempt.not_before);
        Next::Wait(times.filter(|time| *time > now).min())
    }

    /// A job that was started has ended. With `again` it is tried once more, if it may be; returns whether it is.
    pub(super) fn ended(&mut self, job: &Job, again: bool, now: Duration) -> bool {
        let is_it = |attempt: &Attempt| attempt.job.archive == job.archive;
        let Some(at) = self.running.iter().position(is_it) else { return false };
        let attempt = self.running.swap_remove(at);
        self.lanes.end(&attempt.claim);
        let Some(pause) = PAUSES.get(attempt.number - 1).filter(|_| again) else { return false };
        let (number, not_before) = (attempt.number + 1, now + *pause);
        self.insert(Attempt { number, not_before, ..attempt });
        true
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Starts nothing more; returns what was waiting.
    pub(super) fn close(&mut self) -> Vec<Job> {
        self.waiting.drain(..).map(|attempt| attempt.job).collect()
    }
}

/// The order in which jobs start if each takes as long as expected. One about which nothing is known takes an hour.
pub(super) fn order(limits: &Limits, jobs: Vec<Job>) -> Vec<Job> {
    let mut queue = Queue::new(limits, jobs);
    let mut running: Vec<(Duration, Job)> = Vec::new();
    let (mut order, mut now) = (Vec::new(), Duration::ZERO);
    loop {
        match queue.next(now) {
            Next::Start(attempt) => {
                let seconds = attempt.job.expected_seconds.unwrap_or(3600.0);
                let takes = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                running.push((now.saturating_add(takes), attempt.job.clone()));
                order.push(attempt.job);
            }
            Next::Wait(_) => {
                let first =
                    (0..running.len()).min_by_key(|&at| running.get(at).map(|(end, _)| *end));
                let Some(first) = first else { return order };
                let (end, job) = running.swap_remove(first);
                now = end;
                queue.ended(&job, false, now);
            }
            Next::Done => return order,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::base::report_path::ReportPath;
    use crate::fleet::job::Operation;
    use crate::fleet::look;

    fn limits(jobs: usize) -> Limits {
        Limits { jobs: NonZeroUsize::new(jobs).unwrap(), groups: BTreeMap::new() }
    }

    fn job(archive: &str, operation: Operation, overdue: Option<f64>) -> Job {
        let job = look::job(operation, String::new(), None, overdue);
        Job { archive: archive.to_owned().into(), expected_seconds: Some(1.0), ..job }
    }

    fn started(queue: &mut Queue<'_>, now: Duration) -> Option<Job> {
        match queue.next(now) {
            Next::Start(attempt) => Some(attempt.job),
            _ => None,
        }
    }

    /// Backups before pulls before maintenance before scrubs; what was never done first, then what is most overdue.
    #[test]
    fn the_most_urgent_job_comes_first() {
        use Operation::{Backup, Maintenance, Pull, Scrub};
        let jobs = vec![
            job("/a", Scrub, Some(9.0)),
            job("/b", Maintenance, Some(0.0)),
            job("/c", Backup, Some(0.1)),
            job("/d", Backup, Some(2.5)),
            job("/e", Backup, None),
            job("/f", Backup, Some(0.1)),
            job("/g", Pull, None),
            job("/h", Pull, Some(3.0)),
        ];
        let order: Vec<String> =
            order(&limits(1), jobs).into_iter().map(|job| job.archive.to_string()).collect();
        assert_eq!(order, ["/e", "/d", "/c", "/f", "/g", "/h", "/b", "/a"]);
    }

    /// One archive has one job at a time, however many places are free.
    #[test]
    fn an_archive_has_one_job_at_a_time() {
        let limits = limits(4);
        let [backup, scrub] = [Operation::Backup, Operation::Scrub].map(|it| job("/a", it, None));
        let mut queue = Queue::new(&limits, vec![scrub.clone(), backup.clone()]);
        assert_eq!(started(&mut queue, Duration::ZERO), Some(backup.clone()));
        assert_eq!(queue.next(Duration::ZERO), Next::Wait(None));
        assert!(!queue.ended(&backup, false, Duration::ZERO));
        assert_eq!(started(&mut queue, Duration::ZERO), Some(scrub));
    }

    /// What failed has its turn after all others, after a pause, and at most twice more.
    #[test]
    fn what_failed_is_tried_again_after_the_others() {
        let limits = limits(1);
        let (bad, good) = (job("/a", Operation::Backup, None), job("/b", Operation::Scrub, None));
        let mut queue = Queue::new(&limits, vec![bad.clone(), good.clone()]);
        let mut now = Duration::ZERO;
        assert_eq!(started(&mut queue, now), Some(bad.clone()));
        assert!(queue.ended(&bad, true, now));
        assert_eq!(started(&mut queue, now), Some(good.clone()));
        assert!(!queue.ended(&good, false, now));
        for (pause, is_last) in [(1, false), (5, true)] {
            let until = now + Duration::from_secs(pause);
            assert_eq!(queue.next(now), Next::Wait(Some(until)));
            now = until;
            assert_eq!(started(&mut queue, now), Some(bad.clone()));
            assert_eq!(queue.ended(&bad, true, now), !is_last);
        }
        assert_eq!(queue.next(now), Next::Done);
    }

    #[derive(Debug, Clone)]
    struct Planned {
        job: Job,
        seconds: u64,
        failures: usize,
    }

    fn planned() -> impl Strategy<Value = Planned> {
        let operation = prop_oneof![
            Just(Operation::Backup),
            Just(Operation::Pull),
            Just(Operation::Maintenance),
            Just(Operation::Scrub)
        ];
        let group = prop_oneof![Just(None), Just(Some("a")), Just(Some("b"))];
        let overdue = prop::option::of(0.0..9.0);
        let times = (0.0..2000.0, 1..40_u64, 0..4_usize);
        (0..12, operation, group, overdue, times).prop_map(
            |(archive, operation, group, overdue, times)| {
                let (expected, seconds, failures) = times;
                let job = job(&format!("/{archive}"), operation, overdue);
                let group = group.map(|name| name.parse().unwrap());
                Planned {
                    job: Job { group, expected_seconds: Some(expected), ..job },
                    seconds,
                    failures,
                }
            },
        )
    }

    proptest! {
        /// Whatever is due, however long it takes and however often it fails: no limit is exceeded, no archive has
        /// two jobs, nothing due is left out or done twice, what fails is tried three times in all, and nobody waits
        /// while a place is free for a job that may start.
        #[test]
        fn a_run_does_all_that_is_due(
            all in prop::collection::vec(planned(), 0..30), places in 1..5_usize, of_a in 1..4_usize,
        ) {
            let mut unique: BTreeMap<(ReportPath, Operation), Planned> = BTreeMap::new();
            for one in all {
                unique.insert((one.job.archive.clone(), one.job.operation), one);
            }
            let count = |number: usize| NonZeroUsize::new(number).unwrap();
            let groups = BTreeMap::from([("a".parse().unwrap(), count(of_a))]);
            let limits = Limits { jobs: count(places), groups };
            let jobs = unique.values().map(|one| one.job.clone()).collect();
            let mut queue = Queue::new(&limits, jobs);
            let (mut now, mut running) = (Duration::ZERO, Vec::<(Duration, Job)>::new());
            let mut attempts: BTreeMap<(ReportPath, Operation), usize> = BTreeMap::new();
            let mut done = BTreeSet::new();
            loop {
                let until = match queue.next(now) {
                    Next::Start(attempt) => {
                        let key = (attempt.job.archive.clone(), attempt.job.operation);
                        let tries = attempts.entry(key.clone()).or_default();
                        *tries += 1;
                        prop_assert_eq!(*tries, attempt.number);
                        running.push((now + Duration::from_secs(unique[&key].seconds), attempt.job));
                        let archives: BTreeSet<_> = running.iter().map(|(_, job)| &job.archive).collect();
                        prop_assert_eq!(archives.len(), running.len());
                        prop_assert!(running.len() <= places);
                        for (name, most) in [("a", of_a), ("b", 1)] {
                            let group = Some(name.parse().unwrap());
                            let same = running.iter().filter(|(_, job)| job.group == group);
                            prop_assert!(same.count() <= most);
                        }
                        continue;
                    }
                    Next::Wait(until) => until,
                    Next::Done => break,
                };
                let first = running.iter().map(|(end, _)| *end).min();
                prop_assert!(first.is_some() || until.is_some(), "nobody runs, and all wait");
                now = first.into_iter().chain(until).min().unwrap();
                while let Some(at) = running.iter().position(|(end, _)| *end <= now) {
                    let (_, job) = running.swap_remove(at);
                    let key = (job.archive.clone(), job.operation);
                    let fails = attempts[&key] <= unique[&key].failures;
                    let again = queue.ended(&job, fails, now);
                    prop_assert_eq!(again, fails && attempts[&key] < 3);
                    if !again {
                        prop_assert!(done.insert(key), "it was done twice");
                    }
                }
            }
            prop_assert!(running.is_empty());
            prop_assert_eq!(done.len(), unique.len());
        }
    }
}
