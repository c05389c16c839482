//! `Archive.drill`.

use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use backy_lib::config::TimeLimit;
use backy_lib::drill::{assemble, choose, read, record, run_command, timeout, words_on};
use backy_lib::{Archive, DrillReport, Result, RevisionId, SystemClock};
use pyo3::prelude::*;

use crate::cancel::Control;
use crate::ending::Call;
use crate::finished::Finished;
use crate::operations::{Folder, caller, changing, guard};
use crate::outcall;
use crate::specification::{One, Wait};
use crate::watch::run;

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
    let open = || -> Result<(Archive, RevisionId)> {
        // It is recorded.
        let archive = folder.open()?.trusted()?;
        let seed = RandomState::new().build_hasher().finish();
        let id = choose(&archive, revision.as_ref().map(One::spec), seed)?;
        Ok((archive, id))
    };
    let report = match command {
        None => run(py, control, |watch| {
            let (archive, id) = open()?;
            read(&archive, id, None, &SystemClock, watch)
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
                let (archive, id) = open()?;
                let limit = limit.unwrap_or_else(|| timeout(&archive));
                let (report, file) = assemble(&archive, id, &dir, None, &SystemClock, watch)?;
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
            record(folder.open()?, &report, &caller(wait, watch));
            Ok(())
        })
    })?;
    Ok(recorded.map(|()| report))
}
