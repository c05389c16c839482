//! Shows what an operation is doing: a bar on a terminal once it takes longer than a second, warnings, and notes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backy_lib::progress::{Counters, Event, Observer, Phase};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Verbosity;
use crate::interrupt::Interrupt;
use crate::output::Output;

/// What is over sooner needs no bar.
const QUIET_TIME: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(100);

const TEMPLATE: &str = "{msg} {percent:>3}% [{wide_bar}] {binary_bytes} of {binary_total_bytes}, \
                        {binary_bytes_per_sec}, {eta} left";

/// Watches one operation, and stops it when somebody asks to.
pub(crate) struct Reporter<'a> {
    output: &'a Output,
    verbosity: Verbosity,
    interrupt: &'a Interrupt,
    bar: Option<Bar>,
    findings: bool,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(output: &'a Output, verbosity: Verbosity, interrupt: &'a Interrupt) -> Self {
        let shown = output.can_draw() && verbosity > Verbosity::Quiet;
        Reporter { output, verbosity, interrupt, bar: shown.then(Bar::new), findings: true }
    }

    /// For operations whose result the findings are.
    pub(crate) fn without_findings(self) -> Self {
        Reporter { findings: false, ..self }
    }

    /// Runs `print` with the bar out of the way.
    fn beside_bar(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Observer for Reporter<'_> {
    fn event(&self, event: &Event) {
        match event {
            Event::Begin { phase, counters } => {
                if let Some(bar) = &self.bar {
                    bar.begin(*phase, counters);
                } else if self.verbosity == Verbosity::Verbose && *phase == Phase::Recover {
                    self.output.note("bringing the archive back in order");
                }
            }
            Event::Note(text) if self.verbosity == Verbosity::Verbose => {
                self.beside_bar(|| self.output.note(text));
            }
            Event::Note(_) => {}
            Event::Finding(text) if self.findings => {
                self.beside_bar(|| self.output.warning(text));
            }
            Event::Finding(_) => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.requested()
    }
}

/// A bar on standard error, drawn by a thread of its own from the counters of the present phase.
struct Bar {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    phase: Option<Running>,
    ended: bool,
}

struct Running {
    bar: ProgressBar,
    counters: Arc<Counters>,
    began: Instant,
}

impl Bar {
    fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // Without a thread there is no bar, which is no reason to fail.
        let drawer = std::thread::Builder::new().spawn(move || theirs.draw()).ok();
        Bar { shared, drawer }
    }

    fn begin(&self, phase: Phase, counters: &Arc<Counters>) {
        // Hidden at first, but counting: the rate is right from the first time that it is drawn.
        let target = ProgressDrawTarget::hidden();
        let bar = ProgressBar::with_draw_target(Some(counters.total_bytes()), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(match phase {
            Phase::Recover => "tidying up",
            Phase::CheckOldArchive => "checking",
            Phase::Backup => "backing up",
            Phase::CheckTarget => "looking for data",
            Phase::Merge => "merging",
            Phase::Scrub => "scrubbing",
            Phase::SaveTarget => "saving what is there",
            Phase::Restore => "restoring",
            Phase::Export => "exporting",
            Phase::Drill => "reading",
        });
        let running = Running { bar, counters: Arc::clone(counters), began: Instant::now() };
        if let Some(before) = self.shared.lock().phase.replace(running) {
            before.bar.finish_and_clear();
        }
    }

    fn suspend(&self, print: impl FnOnce()) {
        match &self.shared.lock().phase {
            Some(running) => running.bar.suspend(print),
            None => print(),
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
            if let Some(running) = &state.phase {
                running.bar.set_position(running.counters.done_bytes());
                if running.bar.is_hidden() && running.began.elapsed() > QUIET_TIME {
                    running.bar.set_draw_target(ProgressDrawTarget::stderr());
                    running.bar.tick();
                }
            }
        }
    }
}

impl Drop for Bar {
    /// Takes the bar off the screen.
    fn drop(&mut self) {
        let phase = {
            let mut state = self.shared.lock();
            state.ended = true;
            state.phase.take()
        };
        self.shared.ended.notify_all();
        if let Some(running) = phase {
            running.bar.finish_and_clear();
        }
        if let Some(drawer) = self.drawer.take() {
            // It does not panic; if it did, the operation would be none the worse.
            let _ = drawer.join();
        }
    }
}
