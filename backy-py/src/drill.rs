//! `Archive.drill`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

use backy_lib::drill::{assemble, pick, read};
use backy_lib::progress::{Event, Observer};
use backy_lib::{Archive, DrillReport, Result, RevisionSpec, SystemClock};
use pyo3::prelude::*;

use crate::operations::{Folder, changing, writer};
use crate::specification::{One, Wait};
use crate::watch::{Watch, run};

/// Makes a drill and records it.
pub(crate) fn drill(
    py: Python<'_>,
    folder: &Folder,
    revision: Option<One>,
    command: Option<Bound<'_, PyAny>>,
    dir: Option<PathBuf>,
    wait: Wait,
    progress: Option<Py<PyAny>>,
) -> PyResult<DrillReport> {
    let open = || -> Result<(Archive, usize)> {
        // It is recorded.
        let archive = folder.open()?.trusted()?;
        let number = choose(&archive, revision.as_ref())?;
        Ok((archive, number))
    };
    let report = match command {
        None => run(py, progress, |watch| {
            let (archive, number) = open()?;
            read(&archive, number, None, &SystemClock, watch)
        })?,
        Some(command) => {
            let helpers = py.import("backy._drill")?;
            let dir: PathBuf = match dir {
                Some(dir) => dir,
                None => py.import("tempfile")?.call_method0("gettempdir")?.extract()?,
            };
            let (report, assembled) = run(py, progress, |watch| {
                let (archive, number) = open()?;
                assemble(&archive, number, &dir, None, &SystemClock, watch)
            })?;
            match assembled {
                None => report,
                Some(file) => {
                    let judged = helpers.getattr("judge")?.call1((command, file.path()))?;
                    let (program, why): (String, Option<String>) = judged.extract()?;
                    report.judged(program, why.map_or(Ok(()), Err))
                }
            }
        }
    };
    run(py, None, |watch| {
        changing(folder, watch, || {
            record(folder, &report, wait, watch);
            Ok(())
        })
    })?;
    Ok(report)
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
        let text = format!("status will not know of this drill: {error}");
        watch.event(&Event::Finding(text));
    }
}
