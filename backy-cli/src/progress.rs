//! Shows what an operation is doing: a bar on a terminal once it takes longer than a second, warnings, and notes; the
//! phases in a log, and the progress to the service manager.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backy_lib::OperationId;
use backy_lib::progress::{Counters, Event, Observer, Phase};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Verbosity;
use crate::interrupt::UnderWay;
use crate::notify::Notifier;
use crate::output::{self, Output, size};
use crate::{Session, log};

/// A shorter operation needs no bar.
const QUIET_TIME: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);
/// How often the service manager learns how far it is.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

const TEMPLATE: &str = "{msg} {percent:>3}% [{wide_bar}] {binary_bytes} of {binary_total_bytes}, \
                        {binary_bytes_per_sec}, {eta} left";

/// Watches one operation, and stops it when somebody asks for that.
pub(crate) struct Reporter<'a> {
    session: &'a Session,
    verbosity: Verbosity,
    display: Option<Display>,
    _under_way: UnderWay<'a>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(session: &'a Session, verbosity: Verbosity) -> Self {
        let has_bar = session.output.can_draw() && verbosity > Verbosity::Quiet;
        let notifier = session.notifier.clone();
        let run = session.job.is_some().then(|| session.output.clone());
        let shows = Shows { has_bar, notifier, run };
        let display = shows.anything().then(|| Display::new(shows));
        let _under_way = session.interrupt.begin();
        Reporter { session, verbosity, display, _under_way }
    }

    /// Runs `print` with the bar out of the way.
    fn beside_bar(&self, print: impl FnOnce()) {
        match &self.display {
            Some(display) => display.suspend(print),
            None => print(),
        }
    }

    fn begin(&self, phase: Phase, counters: &Arc<Counters>) {
        if let Some(display) = &self.display {
            display.begin(phase, counters);
        }
        let output = &self.session.output;
        match self.verbosity {
            Verbosity::Verbose if output.is_logging() => {
                let total_bytes = counters.total_bytes();
                let text = match total_bytes {
                    0 => words(phase).to_owned(),
                    bytes => format!("{}, {}", words(phase), size(bytes)),
                };
                output.log(log::Event::Phase(phase, total_bytes), &text);
            }
            Verbosity::Verbose if phase == Phase::Recover && !output.can_draw() => {
                output.note("recovering from an interrupted operation");
            }
            _ => {}
        }
    }
}

impl Observer for Reporter<'_> {
    fn event(&self, event: &Event) {
        match event {
            Event::Begin { phase, counters } => self.begin(*phase, counters),
            Event::Note(text) if self.verbosity == Verbosity::Verbose => {
                self.beside_bar(|| self.session.output.note(text));
            }
            Event::Note(_) => {}
            Event::Finding(text) => self.beside_bar(|| self.session.output.finding(text)),
        }
    }

    fn cancelled(&self) -> bool {
        self.session.interrupt.requested()
    }

    fn hold_back(&self, held: bool) {
        output::hold_back(held);
    }

    fn operation(&self) -> Option<OperationId> {
        Some(self.session.operation)
    }
}

/// Prints what a plan finds. Nothing is under way, so the first Ctrl-C ends the process.
pub(crate) struct Planning<'a>(pub(crate) &'a Session);

impl Observer for Planning<'_> {
    fn event(&self, event: &Event) {
        if let Event::Finding(text) = event {
            self.0.output.finding(text);
        }
    }
}

/// The name of a phase for people.
fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Recover => "recovering",
        Phase::CheckOldArchive => "verifying",
        Phase::CompareSource => "comparing the source",
        Phase::Backup => "backing up",
        Phase::CheckTarget => "looking for data",
        Phase::CompareTarget => "comparing",
        Phase::Merge => "merging",
        Phase::Scrub => "scrubbing",
        Phase::SaveTarget => "saving the target",
        Phase::Restore => "restoring",
        Phase::Export => "exporting",
        Phase::Drill => "reading",
    }
}

/// Shows the progress of the present phase, from its counters, in a thread of its own: as a bar on standard error,
/// and to the service manager.
struct Display {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

struct Shared {
    shows: Shows,
    state: Mutex<State>,
    ended: Condvar,
}

struct Shows {
    has_bar: bool,
    notifier: Option<Arc<Notifier>>,
    /// Where the run that started this job reads.
    run: Option<Output>,
}

impl Shows {
    fn anything(&self) -> bool {
        self.has_bar || self.notifier.is_some() || self.run.is_some()
    }
}

#[derive(Default)]
struct State {
    phase: Option<Running>,
    ended: bool,
}

struct Running {
    phase: Phase,
    bar: Option<ProgressBar>,
    counters: Arc<Counters>,
    began: Instant,
    /// When the service manager was last notified.
    told: Instant,
    /// Bytes done when the run was last told.
    done: Option<u64>,
}

impl Running {
    fn begin(phase: Phase, counters: &Arc<Counters>, has_bar: bool) -> Self {
        // Hidden at first, but counting: the rate is right from the first time that it is drawn.
        let bar = has_bar.then(|| {
            let target = ProgressDrawTarget::hidden();
            let bar = ProgressBar::with_draw_target(Some(counters.total_bytes()), target);
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.with_message(words(phase))
        });
        let (counters, now) = (Arc::clone(counters), Instant::now());
        Running { phase, bar, counters, began: now, told: now, done: None }
    }

    fn draw(&mut self, shows: &Shows) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.counters.done_bytes());
            if bar.is_hidden() && self.began.elapsed() > QUIET_TIME {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.tick();
            }
        }
        if self.told.elapsed() < STATUS_INTERVAL && self.done.is_some() {
            return;
        }
        self.told = Instant::now();
        if let Some(notifier) = &shows.notifier {
            notifier.status(&self.status());
        }
        let done = Some(self.counters.done_bytes());
        if let Some(output) = &shows.run
            && self.done != done
        {
            output.progress(self.phase, self.counters.done_bytes(), self.counters.total_bytes());
        }
        self.done = done;
    }

    /// `backing up: 45 % of 12.0 GiB, 230 MiB/s`
    fn status(&self) -> String {
        let (done, total) = (self.counters.done_bytes(), self.counters.total_bytes());
        let words = words(self.phase);
        let Some(percent) = (u128::from(done) * 100).checked_div(u128::from(total)) else {
            return words.to_owned();
        };
        let rate = (done as f64 / self.began.elapsed().as_secs_f64()) as u64;
        format!("{words}: {percent} % of {}, {}/s", size(total), size(rate))
    }

    fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Display {
    fn new(shows: Shows) -> Self {
        let shared = Arc::new(Shared { shows, state: Mutex::default(), ended: Condvar::default() });
        let theirs = Arc::clone(&shared);
        // Without a thread there is no bar, which is no reason to fail.
        let drawer = std::thread::Builder::new().spawn(move || theirs.draw()).ok();
        Display { shared, drawer }
    }

    fn begin(&self, phase: Phase, counters: &Arc<Counters>) {
        let shows = &self.shared.shows;
        if let Some(notifier) = &shows.notifier {
            notifier.status(words(phase));
        }
        let running = Running::begin(phase, counters, shows.has_bar);
        let before = self.shared.lock().phase.replace(running);
        if let Some(before) = before {
            before.end();
        }
    }

    fn suspend(&self, print: impl FnOnce()) {
        match &self.shared.lock().phase {
            Some(Running { bar: Some(bar), .. }) => bar.suspend(print),
            _ => print(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) {
        let mut state = self.lock();
        while !state.ended {
            let woken = self.ended.wait_timeout(state, TICK);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            if let Some(running) = &mut state.phase {
                running.draw(&self.shows);
            }
        }
    }
}

impl Drop for Display {
    /// Takes the bar off the screen.
    fn drop(&mut self) {
        let phase = {
            let mut state = self.shared.lock();
            state.ended = true;
            state.phase.take()
        };
        self.shared.ended.notify_all();
        if let Some(running) = phase {
            running.end();
        }
        if let Some(drawer) = self.drawer.take() {
            // It does not panic. If it did, that would not harm the operation.
            let _ = drawer.join();
        }
    }
}
