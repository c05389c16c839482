//! Hooks in their order, at every fault: `before`, the source is opened, read and closed, `after`, and only
//! then the commit.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backy_lib::extent::Extent;
use backy_lib::format::manifest::SourceIdentity;
use backy_lib::hooks::{Ended, Hooks, Occasion, Outcome};
use backy_lib::progress::{Observer, Silent};
use backy_lib::source::{Opened, Source};
use backy_lib::storage::sim::SimStorage;
use backy_lib::{BackupOptions, BackupReport, Error, ErrorKind, Result, RevisionId};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, World};

use super::{Scenario, scenarios, sweep_beside};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap_or_else(PoisonError::into_inner).push(what.into());
}

fn noted(log: &Log) -> Vec<String> {
    log.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Hooks that record when they are called, and what is committed at that moment.
struct Recorded {
    log: Log,
    disk: SimStorage,
    revision: Rc<RefCell<Option<RevisionId>>>,
    before: Result<()>,
    after: Option<Ended>,
    deadline: Option<Duration>,
    began: Option<Instant>,
}

impl Recorded {
    fn new(log: &Log, disk: &SimStorage) -> Self {
        Recorded {
            log: Arc::clone(log),
            disk: disk.clone(),
            revision: Rc::default(),
            before: Ok(()),
            after: None,
            deadline: None,
            began: None,
        }
    }

    /// Whether the revision is committed, looked up in a copy of the disk, so that the calls that can fail are not
    /// counted.
    fn is_committed(&self) -> bool {
        let archive = world::open(&self.disk.fork());
        let wanted = *self.revision.borrow();
        archive.is_ok_and(|archive| archive.revisions().first().map(|r| r.uuid) == wanted)
    }
}

impl Hooks for Recorded {
    fn before(&mut self, occasion: Occasion<'_>, _observer: &dyn Observer) -> Result<()> {
        self.began = Some(Instant::now());
        *self.revision.borrow_mut() = Some(occasion.revision);
        note(&self.log, "before");
        std::mem::replace(&mut self.before, Ok(()))
    }

    fn after(&mut self, outcome: Outcome, _observer: &dyn Observer) -> Ended {
        assert!(!self.is_committed(), "committed before the source was let go");
        note(&self.log, format!("after {}", outcome.word()));
        self.after.take().unwrap_or(Ended::Well)
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.began? + self.deadline?)
    }
}

/// A source that records when it is opened, read and closed.
struct Watched {
    inner: MemorySource,
    log: Log,
    slow: Duration,
    panics: bool,
}

impl Watched {
    fn open(inner: MemorySource, log: &Log) -> Self {
        note(log, "open");
        Watched { inner, log: Arc::clone(log), slow: Duration::ZERO, panics: false }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        note(&self.log, "close");
    }
}

impl Source for Watched {
    fn identity(&self) -> SourceIdentity {
        self.inner.identity()
    }

    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.inner.current_size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        assert!(!self.panics, "a source that panics");
        note(&self.log, "read");
        std::thread::sleep(self.slow);
        self.inner.read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.inner.next_data(offset)
    }
}

fn backup(disk: &SimStorage, hooks: &mut Recorded, source: MemorySource) -> Result<BackupReport> {
    let log = Arc::clone(&hooks.log);
    backup_of(disk, hooks, move || Ok(Watched::open(source, &log)))
}

fn backup_of(
    disk: &SimStorage,
    hooks: &mut Recorded,
    open: impl FnOnce() -> Result<Watched>,
) -> Result<BackupReport> {
    backup_with(disk, hooks, open, 1)
}

fn backup_with(
    disk: &SimStorage,
    hooks: &mut Recorded,
    open: impl FnOnce() -> Result<Watched>,
    threads: usize,
) -> Result<BackupReport> {
    let mut writer = world::writer(disk)?;
    let open = |_: &backy_lib::Archive| open().map(Opened::untracked);
    let options = BackupOptions { threads: Some(threads), ..world::options() };
    let done = writer.backup_from(open, hooks, &options, &world::clock(), &Silent)?;
    Ok(done.expect("a forced backup is made"))
}

/// The steps of one backup ran in their order, as far as they ran: `after` exactly once if `before` was called, when
/// the source was closed.
fn check_order(place: &str, log: &[String]) {
    let steps: Vec<&str> = log.iter().map(String::as_str).collect();
    let mut steps: Vec<&str> = steps.into_iter().filter(|step| *step != "read").collect();
    let outcome = match steps.last() {
        None => return,
        Some(last) => last.strip_prefix("after ").unwrap_or_else(|| panic!("{place}: {log:?}")),
    };
    assert!(["ok", "failed"].contains(&outcome), "{place}: {log:?}");
    steps.pop();
    assert!(steps == ["before"] || steps == ["before", "open", "close"], "{place}: {log:?}");
    let reads: Vec<usize> = (0..log.len()).filter(|&at| log[at] == "read").collect();
    let within = |at: &usize| {
        log[..*at].contains(&"open".to_owned()) && log[*at..].contains(&"close".to_owned())
    };
    assert!(reads.iter().all(within), "{place}: {log:?}");
}

/// Whatever call of a backup fails, in whatever way: `before` and `after` run once or not at all, the source is read
/// only between them, nothing is committed before `after`, and the archive is as a backup without hooks leaves it.
#[test]
fn the_order_holds_at_every_fault() {
    for (clones, _) in world::UPDATES {
        let chosen = |scenario: &Scenario| ["first", "third", "grown"].contains(&scenario.0);
        for (name, before, new, later) in scenarios().into_iter().filter(chosen) {
            let world = World::with_backups(clones, &before);
            let log = Log::default();
            let operation = |disk: &SimStorage| {
                log.lock().unwrap_or_else(PoisonError::into_inner).clear();
                let mut hooks = Recorded::new(&log, disk);
                backup(disk, &mut hooks, MemorySource::new(&new)).map(|_| ())
            };
            sweep_beside(&world, 3, operation, |place, mut world, result| {
                let place = format!("{name}, clones {clones}: {place}");
                let log = noted(&log);
                check_order(&place, &log);
                assert!(result.is_err() || log.last().is_some_and(|last| last == "after ok"));
                let committed = world.check_committed(Some(&new)).expect(&place);
                assert!(committed || result.is_err(), "{place}: it is not there");
                world.backup(&later);
                world.check_committed(None).and_then(|_| world.check_tidy()).expect(&place);
            });
        }
    }
}

/// A `before` that fails, and a source that cannot be opened, read or trusted afterwards: `after` learns of it, and
/// the archive is as it was, without even a new manifest.
#[test]
fn after_hook_receives_the_failure() {
    let (_, before, new, _) = scenarios().swap_remove(2);
    let world = World::with_backups(false, &before);
    let hook_error = |hook| Error::Hook { hook, message: "a test".to_owned() };
    let run = |prepare: &dyn Fn(&mut Recorded), source: Option<MemorySource>| {
        let disk = world.fork().disk;
        let log = Log::default();
        let mut hooks = Recorded::new(&log, &disk);
        prepare(&mut hooks);
        let open = || match source {
            Some(source) => Ok(Watched::open(source, &log)),
            None => Err(Error::Source { path: "/none".into(), message: "a test".to_owned() }),
        };
        let done = backup_of(&disk, &mut hooks, open);
        let mut trial = World { disk, expected: world.expected.clone() };
        let committed = trial.check_committed(Some(&new)).expect("it reads right");
        trial.check_tidy().expect("it is tidy");
        (done, committed, noted(&log))
    };
    let whole = || Some(MemorySource::new(&new));

    let (done, committed, log) = run(&|hooks| hooks.before = Err(hook_error("before")), whole());
    assert_eq!(done.expect_err("before failed").kind(), ErrorKind::Hook);
    assert_eq!((committed, log), (false, vec!["before".to_owned(), "after failed".to_owned()]));

    let (done, committed, log) = run(&|_| {}, None);
    assert_eq!(done.expect_err("no source").kind(), ErrorKind::Source);
    assert_eq!((committed, log), (false, vec!["before".to_owned(), "after failed".to_owned()]));

    let failing = Some(MemorySource::new(&new).failing_at(1));
    let (done, committed, log) =
        run(&|hooks| hooks.after = Some(Ended::Failed(hook_error("after"))), failing);
    let error = done.expect_err("a source that fails");
    assert_eq!((error.kind(), committed), (ErrorKind::Io, false));
    assert!(error.to_string().ends_with("; hook after: a test"), "{error}");
    assert_eq!(log.last().expect("a log"), "after failed");

    let (done, committed, _) =
        run(&|hooks| hooks.after = Some(Ended::Failed(hook_error("after"))), whole());
    let error = done.expect_err("after failed");
    assert_eq!((error.kind(), committed), (ErrorKind::Hook, true));
    assert!(error.to_string().ends_with("was made nevertheless"), "{error}");

    let (done, committed, _) =
        run(&|hooks| hooks.after = Some(Ended::TooEarly(hook_error("after"))), whole());
    assert_eq!(done.expect_err("let go too early").kind(), ErrorKind::Hook);
    assert!(!committed, "what was read after the source was let go of has been committed");
}

/// backy releases a source at once that is held longer than allowed, and does not commit what it read.
#[test]
fn the_time_is_limited() {
    let (_, before, new, _) = scenarios().swap_remove(2);
    let mut world = World::with_backups(false, &before);
    let log = Log::default();
    let mut hooks = Recorded::new(&log, &world.disk);
    hooks.deadline = Some(Duration::from_millis(50));
    let open = || {
        let mut source = Watched::open(MemorySource::new(&new), &log);
        source.slow = Duration::from_millis(120);
        Ok(source)
    };
    let error = backup_of(&world.disk.clone(), &mut hooks, open).expect_err("it took too long");
    assert_eq!(error.kind(), ErrorKind::Hook, "{error}");
    assert!(error.to_string().contains("max_hold"), "{error}");
    assert_eq!(noted(&log).last().expect("a log"), "after failed");
    assert!(!world.check_committed(Some(&new)).expect("it reads right"));
}

/// A panic in the middle is an error: `after` runs all the same, the archive is as it was, and the next backup works.
/// The same holds with more threads, of which one panics while the others wait for it.
#[test]
fn a_panic_runs_after() {
    for threads in [1, 3] {
        panic_in_a_backup(threads);
    }
}

fn panic_in_a_backup(threads: usize) {
    let (_, before, new, later) = scenarios().swap_remove(2);
    let mut world = World::with_backups(false, &before);
    let log = Log::default();
    let disk = world.disk.clone();
    let mut hooks = Recorded::new(&log, &disk);
    let open = || {
        let mut source = Watched::open(MemorySource::new(&new), &log);
        source.panics = true;
        Ok(source)
    };
    let error = backup_with(&disk, &mut hooks, open, threads).expect_err("a panic");
    assert_eq!(error.kind(), ErrorKind::Panic, "{error}");
    assert!(error.to_string().contains("a source that panics"), "{error}");
    assert_eq!(noted(&log), ["before", "open", "close", "after failed"]);
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("it is as it was");
    world.backup(&later);
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("all is well");
}
