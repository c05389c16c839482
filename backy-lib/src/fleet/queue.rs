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
                let first = (0..running.len()).min_by_key(|&at| running.get(at).map(|(end, _)| *end));
                let Some(first) = first else { return order };
                let (end, job) = running.swap_remove(first);
                now = end;
                queue.ended(&job, false, now);
            }
            Next::Done => return order,
        }
    }
}
