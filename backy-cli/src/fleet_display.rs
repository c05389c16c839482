//! Shows a run of many jobs: on a terminal one line for each job that runs and a total; otherwise a line for each job
//! that failed and, with -v, for each that did something.

use std::cell::RefCell;

use backy_lib::escape;
use backy_lib::fleet::{
    Done, FleetEvent, FleetObserver, Job, JobReport, JobResult, Running, Severity,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::Session;
use crate::cli::Verbosity;
use crate::commands::{backup, pull, scrub};
use crate::interrupt::UnderWay;
use crate::output::{duration, size};
use crate::plan;

/// Watches a run, and stops it when somebody asks for that.
pub(crate) struct Display<'a> {
    session: &'a Session,
    bars: Option<RefCell<Bars>>,
    _under_way: UnderWay<'a>,
}

/// The lines on a terminal.
struct Bars {
    all: MultiProgress,
    jobs: Vec<ProgressBar>,
    total: ProgressBar,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(line());
        Bars { all, jobs: Vec::new(), total }
    }

    fn show(&mut self, running: &[Running], ended: usize, waiting: usize) {
        self.shorten(running.len());
        while self.jobs.len() < running.len() {
            self.jobs.push(self.all.insert_before(&self.total, line()));
        }
        for (bar, job) in self.jobs.iter().zip(running) {
            bar.set_message(progress(job));
        }
        let running = running.len();
        self.total.set_message(format!("{ended} done, {running} running, {waiting} waiting"));
    }

    /// Takes away the lines of jobs that have ended.
    fn shorten(&mut self, count: usize) {
        for bar in self.jobs.drain(count.min(self.jobs.len())..) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }
}

/// A line without anything on it yet.
fn line() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
        bar.set_style(style);
    }
    bar
}

/// `backup  45 % of 12.0 GiB, 230 MiB/s  /srv/backup/mynode`
fn progress(running: &Running) -> String {
    let (done, total) = (running.done_bytes, running.total_bytes);
    let far = match (u128::from(done) * 100).checked_div(u128::from(total)) {
        None if running.phase.is_empty() => "starting".to_owned(),
        None => running.phase.clone(),
        Some(percent) => format!("{percent:>3} % of {}", size(total)),
    };
    let name = running.job.operation.name();
    let time = duration(running.time.as_secs_f64());
    format!("{name:<11} {far:<18} {time:>12}  {}", escape::line(&running.job.archive))
}

impl<'a> Display<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        let has_bars = session.output.can_draw() && session.verbosity > Verbosity::Quiet;
        let bars = has_bars.then(|| RefCell::new(Bars::new()));
        Display { session, bars, _under_way: session.interrupt.begin() }
    }

    /// Runs `print` with the lines of the terminal out of the way.
    fn beside_bars(&self, print: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.borrow().all.suspend(print),
            None => print(),
        }
    }

    fn is_verbose(&self) -> bool {
        self.session.verbosity == Verbosity::Verbose
    }

    fn warn(&self, job: &Job, text: &str) {
        let text = format!("{}: {}: {text}", job.archive, job.operation.name());
        self.beside_bars(|| self.session.output.warning(&text));
    }

    fn note(&self, archive: &str, text: &str) {
        let text = format!("{archive}: {text}");
        self.beside_bars(|| self.session.output.note(&text));
    }

    fn ended(&self, report: &JobReport, done: Option<&Done>) {
        let name = report.operation.name();
        let message = report.message.as_deref().unwrap_or_default();
        match report.result {
            JobResult::Failed => {
                let tries = match report.attempts {
                    0 | 1 => String::new(),
                    count => format!(" ({count} attempts)"),
                };
                let text = format!("{}: {name} failed{tries}: {message}", report.archive);
                self.beside_bars(|| self.session.output.failure(&text));
            }
            JobResult::Ok if self.is_verbose() => {
                let text = format!("{}: {}", report.archive, summary(report, done));
                self.beside_bars(|| self.session.output.done(&text));
            }
            JobResult::Skipped if self.is_verbose() => {
                self.note(&report.archive, &format!("{name} skipped: {message}"));
            }
            _ => {}
        }
    }
}

fn summary(report: &JobReport, done: Option<&Done>) -> String {
    match done {
        Some(Done::Backup(done)) => backup::summary(done),
        Some(Done::Pull(done)) => pull::summary(done),
        Some(Done::Maintenance(done)) => plan::summary(done),
        Some(Done::Scrub(done)) => scrub::summary(done),
        _ => format!("{} finished", report.operation.name()),
    }
}

impl FleetObserver for Display<'_> {
    fn event(&self, event: &FleetEvent<'_>) {
        match event {
            FleetEvent::Message { severity: Severity::Info, .. } if !self.is_verbose() => {}
            FleetEvent::Message { job, severity: Severity::Info, text } => {
                self.note(&job.archive, text);
            }
            FleetEvent::Message { job, text, .. } => self.warn(job, text),
            FleetEvent::Stuck(running) => {
                let silent = duration(running.silent.as_secs_f64());
                let process = running.process;
                self.warn(
                    &running.job,
                    &format!("no progress for {silent} (process {process}); it is still running"),
                );
            }
            FleetEvent::Again { job, why } if self.is_verbose() => {
                let name = job.operation.name();
                self.note(&job.archive, &format!("{name} failed, and is tried again: {why}"));
            }
            FleetEvent::Ended(report, done) => self.ended(report, *done),
            FleetEvent::Progress { running, ended, waiting } => {
                if let Some(bars) = &self.bars {
                    bars.borrow_mut().show(running, *ended, *waiting);
                }
                self.session.notify(|manager| {
                    let running = running.len();
                    manager.status(&format!("{ended} done, {running} running, {waiting} waiting"));
                });
            }
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.session.interrupt.requested()
    }
}

impl Drop for Display<'_> {
    /// Takes the lines off the screen.
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            bars.borrow_mut().shorten(0);
            bars.borrow().total.finish_and_clear();
        }
    }
}
