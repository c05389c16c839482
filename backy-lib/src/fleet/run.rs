//! One run: starts the jobs, watches them, and tries again what failed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::child::{JobProcess, Report, to_channel};
use super::ended::{Ended, judge};
use super::job::{Job, Operation};
use super::look::Looking;
use super::meeting::{Meeting, Told};
use super::plan::{FleetPlan, FleetRequest};
use super::queue::{Attempt, Next, Queue};
use super::report::{Done, FleetReport, JobReport, JobResult};
use super::{FLEET_SCHEMA, Severity};
use crate::base::clock::Clock;
use crate::base::error::Result;
use crate::base::report_path::ReportPath;
use crate::source::meeting::Word;

/// How often to look for a request to stop, the time, and jobs that are stuck.
const TICK: Duration = Duration::from_millis(100);

/// Something that happens in a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum FleetEvent<'a> {
    /// The run begins.
    Planned(&'a FleetPlan),
    /// A job begins.
    Started(&'a Job),
    /// A job reports something besides its progress.
    Message {
        /// The job.
        job: &'a Job,
        /// How important it is.
        severity: Severity,
        /// A full sentence.
        text: &'a str,
    },
    /// A job has made no progress for a long time. Comes once, and again if it happens again.
    Stuck(&'a Running),
    /// A job failed, and is tried again.
    Again {
        /// The job.
        job: &'a Job,
        /// Why it failed.
        why: &'a str,
    },
    /// A job has ended, with the report of its command if it succeeded.
    Ended(&'a JobReport, Option<&'a Done>),
    /// The state of the run, some ten times a second.
    Progress {
        /// The jobs that run.
        running: &'a [Running],
        /// How many have ended.
        ended: usize,
        /// How many wait.
        waiting: usize,
    },
}

/// A job that runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Running {
    /// The job.
    pub job: Job,
    /// The process that does it.
    pub process: u32,
    /// How long it has been running.
    pub time: Duration,
    /// For how long it has made no progress.
    pub silent: Duration,
    /// Its phase, by its name for programs; empty before the first one.
    pub phase: String,
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Bytes to do in this phase.
    pub total_bytes: u64,
}

/// Watches a run and may stop it.
pub trait FleetObserver {
    /// Something happened.
    fn event(&self, event: &FleetEvent<'_>);

    /// Polled some ten times a second. `true` stops all jobs in order, and starts none.
    fn cancelled(&self) -> bool {
        false
    }
}

impl FleetRequest {
    /// Does what is due. Each job is a process of its own: the program `itself`, with its first arguments, which must
    /// run the command `backy` with those that follow.
    ///
    /// # Errors
    /// Only errors of the process. What fails in an archive is in the report.
    pub fn run(
        &self,
        itself: &[OsString],
        clock: &Arc<dyn Clock>,
        observer: &dyn FleetObserver,
    ) -> Result<FleetReport> {
        let started = clock.now();
        let mut plan = self.planned(clock, true)?;
        observer.event(&FleetEvent::Planned(&plan));
        let limits = plan.limits.clone();
        let jobs = std::mem::take(&mut plan.jobs);
        let archives: BTreeSet<&ReportPath> = jobs.iter().map(|job| &job.archive).collect();
        let archives = archives.len() + plan.idle.len();
        let (sender, receiver) = channel();
        let mut run = Run {
            request: self,
            itself,
            clock,
            observer,
            known: jobs.iter().map(key).collect(),
            queue: Queue::new(&limits, jobs),
            began: Instant::now(),
            running: Vec::new(),
            meetings: Vec::new(),
            started: 0,
            sender,
            reports: Vec::new(),
            is_stopping: false,
        };
        run.go(&receiver)?;
        Ok(FleetReport {
            schema: FLEET_SCHEMA,
            started,
            finished: clock.now(),
            archives,
            jobs: run.reports,
            problems: plan.problems,
            interrupted: run.is_stopping,
        })
    }
}

fn key(job: &Job) -> (ReportPath, Operation) {
    (job.archive.clone(), job.operation)
}

struct Run<'a> {
    request: &'a FleetRequest,
    itself: &'a [OsString],
    clock: &'a Arc<dyn Clock>,
    observer: &'a dyn FleetObserver,
    queue: Queue<'a>,
    /// All jobs that there were: each is done once in a run.
    known: BTreeSet<(ReportPath, Operation)>,
    began: Instant,
    running: Vec<Active>,
    /// All that there were.
    meetings: Vec<Meeting>,
    /// How many processes were started, which numbers them.
    started: usize,
    sender: Sender<(usize, Report)>,
    reports: Vec<JobReport>,
    is_stopping: bool,
}

/// A process of a job.
struct Active {
    number: usize,
    attempt: Attempt,
    process: JobProcess,
    began: Instant,
    is_stuck: bool,
    seat: Option<Seat>,
}

/// A place in a meeting.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seat {
    meeting: usize,
    member: usize,
}

impl Active {
    fn look(&self) -> Running {
        let progress = self.process.progress();
        Running {
            job: self.attempt.job.clone(),
            process: self.process.id(),
            time: self.began.elapsed(),
            silent: progress.at.elapsed(),
            phase: progress.phase,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
        }
    }
}

impl Run<'_> {
    fn go(&mut self, receiver: &Receiver<(usize, Report)>) -> Result<()> {
        loop {
            self.check_time();
            let wait = match self.queue.next(self.began.elapsed()) {
                Next::Start(attempts) => {
                    self.start_all(attempts);
                    continue;
                }
                Next::Wait(until) => {
                    let left = until.map(|until| until.saturating_sub(self.began.elapsed()));
                    left.unwrap_or(TICK).min(TICK)
                }
                Next::Done => return Ok(()),
            };
            match receiver.recv_timeout(wait) {
                Ok((number, report)) => self.take(number, report)?,
                // There is always the sender of this run itself.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.tick(),
            }
        }
    }

    /// Whether to start no more: it is too late, or somebody asks to stop.
    fn check_time(&mut self) {
        if self.observer.cancelled() && !self.is_stopping {
            self.is_stopping = true;
            self.running.iter().for_each(|active| active.process.end());
            self.give_up(JobResult::Interrupted);
        }
        if self.request.until.is_some_and(|until| self.clock.now() >= until) {
            self.give_up(JobResult::NotStarted);
        }
    }

    fn give_up(&mut self, result: JobResult) {
        for job in self.queue.close() {
            self.report(&job, Ended::without(result), 0, Duration::ZERO);
        }
    }

    fn start_all(&mut self, attempts: Vec<Attempt>) {
        let (members, meeting) = (attempts.len(), self.meetings.len());
        if members > 1 {
            self.meetings.push(Meeting::new(members));
        }
        for (member, attempt) in attempts.into_iter().enumerate() {
            self.start(attempt, (members > 1).then_some(Seat { meeting, member }));
        }
    }

    /// Starts the process of a job; with a seat, one that meets others.
    fn start(&mut self, attempt: Attempt, seat: Option<Seat>) {
        let job = &attempt.job;
        let words = job.command.iter().skip(1).map(|word| word.as_path().into());
        // Making an archive has no report.
        let json = (job.operation != Operation::Init).then(|| OsString::from("--json"));
        let arguments = words.chain(json);
        let number = self.started;
        self.started += 1;
        let report = to_channel(number, self.sender.clone());
        let beside = (self.queue.at_once(), seat.is_some());
        match JobProcess::start(self.itself, arguments, beside, report) {
            Ok(process) => {
                self.observer.event(&FleetEvent::Started(job));
                let (began, is_stuck) = (Instant::now(), false);
                self.running.push(Active { number, attempt, process, began, is_stuck, seat });
            }
            Err(error) => {
                let ended = Ended::failed(format!("cannot start a process: {error}"), true);
                self.ended(&attempt, ended, Duration::ZERO);
                self.has_gone(seat);
            }
        }
    }

    /// Does something in a meeting, and tells the processes what comes of it.
    fn meet(&mut self, meeting: usize, act: impl FnOnce(&mut Meeting, Duration) -> Told) {
        let now = self.began.elapsed();
        let told = self.meetings.get_mut(meeting).map(|meeting| act(meeting, now));
        for (member, reply) in told.unwrap_or_default() {
            let seat = Some(Seat { meeting, member });
            if let Some(active) = self.running.iter().find(|active| active.seat == seat) {
                active.process.tell(&reply);
            }
        }
    }

    fn has_gone(&mut self, seat: Option<Seat>) {
        if let Some(Seat { meeting, member }) = seat {
            self.meet(meeting, |meeting, now| meeting.gone(member, now));
        }
    }

    fn hear(&mut self, at: usize, word: Word) {
        let Some(active) = self.running.get(at) else { return };
        let Some(Seat { meeting, member }) = active.seat else { return };
        if let (Word::Failed(why), job) = (&word, &active.attempt.job) {
            let machine = job.machine.as_deref().unwrap_or_default();
            let text = format!("the disks of {machine} are not backed up as at one moment: {why}");
            let severity = Severity::Warning;
            self.observer.event(&FleetEvent::Message { job, severity, text: &text });
        }
        self.meet(meeting, |meeting, now| meeting.hear(member, word, now));
    }

    fn take(&mut self, number: usize, report: Report) -> Result<()> {
        let Some(at) = self.running.iter().position(|active| active.number == number) else {
            return Ok(());
        };
        match report {
            Report::Message(severity, text) => {
                if let Some(active) = self.running.get(at) {
                    let job = &active.attempt.job;
                    self.observer.event(&FleetEvent::Message { job, severity, text: &text });
                }
            }
            Report::Word(word) => self.hear(at, word),
            Report::Closed { failure, printed } => {
                let Active { attempt, process, began, seat, .. } = self.running.swap_remove(at);
                self.has_gone(seat);
                let ended = judge(attempt.job.operation, process.wait(), failure, &printed);
                let is_done = ended.result == JobResult::Ok;
                self.ended(&attempt, ended, began.elapsed());
                if is_done {
                    self.look_again(&attempt.job)?;
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, attempt: &Attempt, ended: Ended, time: Duration) {
        let again = ended.again && !self.is_stopping;
        if self.queue.ended(&attempt.job, again, self.began.elapsed()) {
            let why = ended.message.as_deref().unwrap_or_default();
            self.observer.event(&FleetEvent::Again { job: &attempt.job, why });
            return;
        }
        let result = match ended.result {
            JobResult::Failed if self.is_stopping => JobResult::Interrupted,
            result => result,
        };
        self.report(&attempt.job, Ended { result, ..ended }, attempt.number, time);
    }

    fn report(&mut self, job: &Job, ended: Ended, attempts: usize, time: Duration) {
        let mut report = JobReport {
            archive: job.archive.clone(),
            operation: job.operation,
            result: ended.result,
            attempts,
            message: ended.message,
            seconds: time.as_secs_f64(),
            revision: None,
            read_bytes: None,
            stored_bytes: None,
        };
        if let Some(done) = &ended.done {
            done.fill_in(&mut report);
        }
        self.observer.event(&FleetEvent::Ended(&report, ended.done.as_ref()));
        self.reports.push(report);
    }

    /// Adds what has become due in an archive because a job was done there, such as maintenance after a backup.
    fn look_again(&mut self, job: &Job) -> Result<()> {
        let clock = Arc::clone(self.clock);
        let looking = Looking { trust: self.request.trust, clock, notes: false };
        let looked = looking.look_at_all(vec![job.archive.as_path().to_owned()])?;
        if self.is_stopping {
            return Ok(());
        }
        for job in looked.into_iter().flat_map(|(_, looked)| looked.jobs) {
            if self.known.insert(key(&job)) {
                self.queue.add(job);
            }
        }
        Ok(())
    }

    fn tick(&mut self) {
        for meeting in 0..self.meetings.len() {
            self.meet(meeting, Meeting::tick);
        }
        let stall = self.request.settings.stall();
        let mut running = Vec::with_capacity(self.running.len());
        for active in &mut self.running {
            let state = active.look();
            let waits = |seat: Seat| {
                self.meetings.get(seat.meeting).is_some_and(|all| all.is_waiting(seat.member))
            };
            let is_stuck = state.silent >= stall && !active.seat.is_some_and(waits);
            if is_stuck && !active.is_stuck {
                self.observer.event(&FleetEvent::Stuck(&state));
            }
            active.is_stuck = is_stuck;
            running.push(state);
        }
        let (ended, waiting) = (self.reports.len(), self.queue.waiting());
        self.observer.event(&FleetEvent::Progress { running: &running, ended, waiting });
    }
}
