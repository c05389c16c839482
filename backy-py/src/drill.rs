//! `Archive.drill`.

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use backy_lib::config::TimeLimit;
use backy_lib::drill::{assemble, pick, read, run_command, timeout, words_on};
use backy_lib::progress::{Event, Observer};
use backy_lib::{Archive, DrillReport, Result, RevisionSpec, SystemClock};
use pyo3::prelude::*;

use crate::cancel::Control;
use crate::ending::Call;
use crate::finished::Finished;
use crate::operations::{Folder, changing, guard, writer};
use crate::outcall;
use crate::specification::{One, Wait};
use crate::watch::{Watch, run};

/// How long its command may take, how long it waits for the lock, and what stops it.
pub(crate) struct Conditions {
    /// Without one, what `backy.toml` says.
    pub(crate) limit: Option<TimeLimit>,
    pub(crate) wait: Wait,
    pub(crate) control: Control,
}

/// Makes a drill and records it.
pub(crate) fn drill(
    py: Python<'_>,
    folder: &Folder,
    revision: Option<One>,
    command: Option<Bound<'_, PyAny>>,
    dir: Option<PathBuf>,
    Conditions { limit, wait, control }: Conditions,
) -> PyResult<Finished<DrillReport>> {
    let (judging, recording) = (control.without_progress(), control.without_progress());
    let open = || -> Result<(Archive, usize)> {
        // It is recorded.
        let archive = folder.open()?.trusted()?;
        let number = choose(&archive, revision.as_ref())?;
        Ok((archive, number))
    };
    let report = match command {
        None => run(py, control, |watch| {
            let (archive, number) = open()?;
            read(&archive, number, None, &SystemClock, watch)
        })?
        .value()?,
        Some(command) => {
            let helpers = py.import("backy._drill")?;
            let dir: PathBuf = match dir {
                Some(dir) => dir,
                None => py.import("tempfile")?.call_method0("gettempdir")?.extract()?,
            };
            // None of a callable, which is called here.
            let words: Option<Vec<OsString>> =
                helpers.getattr("words")?.call1((&command, limit.is_some()))?.extract()?;
            let guard = words.as_ref().map(|_| guard(py)).transpose()?;
            let (report, assembled, limit) = run(py, control, |watch| {
                let (archive, number) = open()?;
                let limit = limit.unwrap_or_else(|| timeout(&archive));
                let (report, file) = assemble(&archive, number, &dir, None, &SystemClock, watch)?;
                Ok((report, file, limit))
            })?
            .value()?;
            match (assembled, words) {
                (None, _) => report,
                (Some(file), None) => {
                    let (call, file) = Call::begin_with(py, file)?;
                    let judge = helpers.getattr("judge")?;
                    let judged = outcall::call(&judge, (command, file.path().to_owned()));
                    if call.is_over() {
                        // The thread stays, and would never delete it.
                        drop(file);
                        call.stay(py);
                    }
                    let (program, why): (String, Option<String>) = judged?.extract()?;
                    report.judged(program, why.map_or(Ok(()), Err))
                }
                (Some(file), Some(given)) => {
                    let program = given.first().map(|word| word.to_string_lossy().into_owned());
                    let (call, file) = Call::begin_with(py, file)?;
                    drop(call);
                    let verdict = run(py, judging, move |watch| {
                        // Deleted at the end of this, wherever the calling thread is then.
                        let file = file;
                        let words = words_on(&given, file.path());
                        run_command(&words, limit.0, &guard.unwrap_or_default(), watch)
                    })?
                    .value()?;
                    report.judged(program.unwrap_or_default(), verdict)
                }
            }
        }
    };
    let recorded = run(py, recording, |watch| {
        changing(folder, watch, || {
            record(folder, &report, wait, watch);
            Ok(())
        })
    })?;
    Ok(recorded.map(|()| report))
}

fn choose(archive: &Archive, revision: Option<&One>) -> Result<usize> {
    let by_chance = || pick(archive.revisions().len(), RandomState::new().build_hasher().finish());
    match revision {
        Some(revision) => revision.resolve(archive),
        // Of no revisions there is none to pick: the newest is asked for, for the message.
        None => by_chance().map_or_else(|| RevisionSpec::Latest.resolve(archive.revisions()), Ok),
    }
}

/// Notes it for `status`; an archive that is in use, or cannot be written to, is told and no failure of the drill.
fn record(folder: &Folder, report: &DrillReport, wait: Wait, watch: &Watch) {
    let recorded = folder
        .open()
        .and_then(|archive| writer(archive, "drill", wait, watch))
        .and_then(|mut writer| writer.record_drill(report.clone(), &SystemClock, watch));
    if let Err(error) = recorded {
        let text = format!("cannot record this drill for status: {error}");
        watch.event(&Event::Finding(text));
    }
}
