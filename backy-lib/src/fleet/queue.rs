//! The jobs of a run: which starts next, and which is tried again.
//!
//! A pure state machine: time is what the caller says. One archive has one job at a time. A job that failed waits
//! until all others have had their turn, and is tried twice more. Backups of the disks of one machine start together,
//! and take one place: they read one after the other.

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
    /// Which backups of disks of one machine it started with; `None` if alone.
    together: Option<usize>,
    /// Of those that start together, that of the first.
    claim: Claim,
    not_before: Duration,
}

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Start these together, and ask again. There is at least one.
    Start(Vec<Attempt>),
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
    /// How often several were started together.
    gatherings: usize,
}

impl<'a> Queue<'a> {
    pub(super) fn new(limits: &'a Limits, jobs: Vec<Job>) -> Self {
        let (lanes, waiting, running) = (Lanes::new(limits), Vec::new(), Vec::new());
        let mut queue = Queue { lanes, waiting, running, gatherings: 0 };
        jobs.into_iter().for_each(|job| queue.add(job));
        queue
    }

    /// Adds a job that has become due.
    pub(super) fn add(&mut self, job: Job) {
        self.insert(job, 1, Duration::ZERO);
    }

    fn insert(&mut self, job: Job, number: usize, not_before: Duration) {
        let claim = Claim { group: job.group.clone(), is_short: job.is_short() };
        let attempt = Attempt { job, number, together: None, claim, not_before };
        let is_before = |other: &Attempt| {
            other.number.cmp(&attempt.number).then_with(|| other.job.urgency(&attempt.job)).is_le()
        };
        let at = self.waiting.partition_point(is_before);
        self.waiting.insert(at, attempt);
    }

    /// What to do at `now`, a time since the run began.
    pub(super) fn next(&mut self, now: Duration) -> Next {
        let is_ready = |(_, attempt): &(usize, &Attempt)| {
            is_free(&self.running, attempt) && attempt.not_before <= now
        };
        let ready = self.waiting.iter().enumerate().filter(is_ready);
        let ready: Vec<(usize, &Claim)> = ready.map(|(at, it)| (at, &it.claim)).collect();
        let chosen = self.lanes.next(ready.iter().map(|(_, claim)| *claim));
        if let Some(&(at, _)) = chosen.and_then(|chosen| ready.get(chosen)) {
            let first = self.waiting.remove(at);
            self.lanes.start(&first.claim);
            return Next::Start(self.start(first));
        }
        if self.waiting.is_empty() && self.running.is_empty() {
            return Next::Done;
        }
        let times = self.waiting.iter().map(|attempt| attempt.not_before);
        Next::Wait(times.filter(|time| *time > now).min())
    }

    /// Starts an attempt, with those of the other disks of its machine.
    fn start(&mut self, first: Attempt) -> Vec<Attempt> {
        let joins = |other: &mut Attempt| {
            let (a, b) = (&first.job, &other.job);
            let is_same = (&a.machine, &a.group) == (&b.machine, &b.group);
            let is_first = (first.number, other.number) == (1, 1);
            is_same && a.machine.is_some() && is_first && is_free(&self.running, other)
        };
        let others: Vec<Attempt> = self.waiting.extract_if(.., joins).collect();
        let (together, claim) = (Some(self.gatherings), first.claim.clone());
        let mut started = vec![first];
        if !others.is_empty() {
            started.extend(others);
            for attempt in &mut started {
                (attempt.together, attempt.claim) = (together, claim.clone());
            }
            self.gatherings += 1;
        }
        self.running.extend(started.iter().cloned());
        started
    }

    /// A job that was started has ended. With `again` it is tried once more, if it may be; returns whether it is.
    pub(super) fn ended(&mut self, job: &Job, again: bool, now: Duration) -> bool {
        let is_it = |attempt: &Attempt| attempt.job.archive == job.archive;
        let Some(at) = self.running.iter().position(is_it) else { return false };
        let attempt = self.running.swap_remove(at);
        let has_others = attempt.together.is_some()
            && self.running.iter().any(|other| other.together == attempt.together);
        if !has_others {
            self.lanes.end(&attempt.claim);
        }
        let Some(pause) = PAUSES.get(attempt.number - 1).filter(|_| again) else { return false };
        self.insert(attempt.job, attempt.number + 1, now + *pause);
        true
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many may run at a time from now on, with those that do.
    pub(super) fn at_once(&self) -> usize {
        self.lanes.places().min(self.lanes.running() + self.waiting.len())
    }

    /// Starts nothing more; returns what was waiting.
    pub(super) fn close(&mut self) -> Vec<Job> {
        self.waiting.drain(..).map(|attempt| attempt.job).collect()
    }
}

/// Whether no job of the archive runs.
fn is_free(running: &[Attempt], attempt: &Attempt) -> bool {
    !running.iter().any(|other| other.job.archive == attempt.job.archive)
}

/// The order in which jobs start if each takes as long as expected. One about which nothing is known takes an hour.
pub(super) fn order(limits: &Limits, jobs: Vec<Job>) -> Vec<Job> {
    let mut queue = Queue::new(limits, jobs);
    let mut running: Vec<(Duration, Job)> = Vec::new();
    let (mut order, mut now) = (Vec::new(), Duration::ZERO);
    loop {
        match queue.next(now) {
            Next::Start(attempts) => {
                let mut end = now;
                for Attempt { job, .. } in attempts {
                    let seconds = job.expected_seconds.unwrap_or(3600.0);
                    let takes = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                    end = end.saturating_add(takes);
                    running.push((end, job.clone()));
                    order.push(job);
                }
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
            Next::Start(mut attempts) if attempts.len() == 1 => attempts.pop().map(|it| it.job),
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

    /// Backups of the disks of one machine start together, in one place; what fails of them is tried again alone.
    #[test]
    fn disks_of_a_machine_are_backed_up_together() {
        let limits = limits(2);
        let disk = |archive: &str, machine: &str, group: Option<&str>| {
            let group = group.map(|name| name.parse().unwrap());
            Job { machine: Some(machine.into()), group, ..job(archive, Operation::Backup, None) }
        };
        let (a, b) = (disk("/a", "libvirt:one", None), disk("/b", "libvirt:one", None));
        let (c, d) = (disk("/c", "libvirt:two", None), disk("/d", "libvirt:one", Some("group")));
        let jobs = vec![d.clone(), c.clone(), b.clone(), a.clone()];
        let mut queue = Queue::new(&limits, jobs.clone());
        let next = |queue: &mut Queue<'_>| match queue.next(Duration::ZERO) {
            Next::Start(attempts) => attempts.into_iter().map(|attempt| attempt.job).collect(),
            _ => Vec::new(),
        };
        assert_eq!(next(&mut queue), [a.clone(), b.clone()]);
        assert_eq!(next(&mut queue), [c]);
        assert_eq!(queue.next(Duration::ZERO), Next::Wait(None));
        assert!(queue.ended(&a, true, Duration::ZERO));
        // The other one still has its place.
        assert_eq!(queue.next(Duration::ZERO), Next::Wait(Some(Duration::from_secs(1))));
        assert!(!queue.ended(&b, false, Duration::ZERO));
        assert_eq!(next(&mut queue), [d]);
        let order: Vec<String> =
            order(&limits, jobs).into_iter().map(|job| job.archive.to_string()).collect();
        assert_eq!(order, ["/a", "/b", "/c", "/d"]);
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
        let machine = prop_oneof![Just(None), Just(Some("m")), Just(Some("n"))];
        let overdue = prop::option::of(0.0..9.0);
        let times = (0.0..2000.0, 1..40_u64, 0..4_usize);
        (0..12, operation, (group, machine), overdue, times).prop_map(
            |(archive, operation, (group, machine), overdue, times)| {
                let (expected, seconds, failures) = times;
                let job = job(&format!("/{archive}"), operation, overdue);
                let group = group.map(|name| name.parse().unwrap());
                let machine = machine.filter(|_| operation == Operation::Backup).map(str::to_owned);
                let job = Job { group, machine, expected_seconds: Some(expected), ..job };
                Planned { job, seconds, failures }
            },
        )
    }

    proptest! {
        /// Whatever is due, however long it takes and however often it fails: no limit is exceeded by what starts
        /// separately, no archive has two jobs, nothing due is left out or done twice, what fails is tried three times
        /// in all, and nobody waits while a place is free for a job that may start.
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
            let (mut now, mut running) = (Duration::ZERO, Vec::<(Duration, Job, usize)>::new());
            let mut starts = 0;
            let mut attempts: BTreeMap<(ReportPath, Operation), usize> = BTreeMap::new();
            let mut done = BTreeSet::new();
            loop {
                let until = match queue.next(now) {
                    Next::Start(together) => {
                        starts += 1;
                        for attempt in together {
                            let key = (attempt.job.archive.clone(), attempt.job.operation);
                            let tries = attempts.entry(key.clone()).or_default();
                            *tries += 1;
                            prop_assert_eq!(*tries, attempt.number);
                            running.push((now + Duration::from_secs(unique[&key].seconds), attempt.job, starts));
                        }
                        let archives: BTreeSet<_> = running.iter().map(|(_, job, _)| &job.archive).collect();
                        prop_assert_eq!(archives.len(), running.len());
                        let separate = |group: Option<&str>| {
                            let group = group.map(|name| name.parse().unwrap());
                            let same = running.iter().filter(|(_, job, _)| group.is_none() || job.group == group);
                            same.map(|(_, _, start)| start).collect::<BTreeSet<_>>().len()
                        };
                        prop_assert!(separate(None) <= places);
                        prop_assert!(separate(Some("a")) <= of_a && separate(Some("b")) <= 1);
                        continue;
                    }
                    Next::Wait(until) => until,
                    Next::Done => break,
                };
                let first = running.iter().map(|(end, ..)| *end).min();
                prop_assert!(first.is_some() || until.is_some(), "nobody runs, and all wait");
                now = first.into_iter().chain(until).min().unwrap();
                while let Some(at) = running.iter().position(|(end, ..)| *end <= now) {
                    let (_, job, _) = running.swap_remove(at);
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
