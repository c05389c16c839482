//! How Python names revisions, and gives tags, rates and budgets: as the command does, or with numbers and objects.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use backy_lib::config::parse_wait;
use backy_lib::select::When;
use backy_lib::units::parse_rate;
use backy_lib::{
    Archive, Clock, Error, Here, Result, RevisionSpec, RevisionsSpec, SystemClock, Tag,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDate, PyDateTime, PyString, PyTzInfo};

use crate::error::{exception, wrong};
use crate::reports::Revision;

/// What text means depends on when and where it is read.
fn here() -> Here {
    Here { now: SystemClock.now(), zone: TimeZone::system() }
}

/// One revision: text as the command takes it, a number, a time, or a `Revision`.
pub(crate) struct One(RevisionSpec);

impl One {
    pub(crate) fn latest() -> Self {
        One(RevisionSpec::Latest)
    }

    pub(crate) fn resolve(&self, archive: &Archive) -> Result<usize> {
        self.0.resolve(archive.revisions())
    }
}

impl<'py> FromPyObject<'_, 'py> for One {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return RevisionSpec::parse(&text.to_cow()?, &here()).map(One).map_err(exception);
        }
        if let Ok(revision) = object.cast::<Revision>() {
            let uuid = revision.getattr("uuid")?.extract::<String>()?;
            return Ok(One(RevisionSpec::Uuid(uuid)));
        }
        if let Ok(number) = object.extract::<i128>() {
            let message = |_| wrong(format!("{number} names no revision; 0 is the newest"));
            let number = usize::try_from(number).map_err(message)?;
            return Ok(One(RevisionSpec::Number(number)));
        }
        if let Ok(time) = object.cast::<PyDateTime>() {
            return Ok(One(RevisionSpec::NotAfter(moment(&time)?)));
        }
        if let Ok(day) = object.cast::<PyDate>() {
            let text = day.str()?;
            return RevisionSpec::parse(&text.to_cow()?, &here()).map(One).map_err(exception);
        }
        let found = object.get_type();
        let message = format!(
            "a revision is a str, an int, a datetime, a date or a backy.Revision, not {found}"
        );
        Err(PyTypeError::new_err(message))
    }
}

/// A datetime, which is local without a zone, as it is everywhere in Python.
fn moment(time: &Bound<'_, PyDateTime>) -> PyResult<When> {
    let in_utc = time.call_method1("astimezone", (PyTzInfo::utc(time.py())?,))?;
    let exactness = SignedDuration::from_micros(1);
    When::moment(in_utc.extract::<Timestamp>()?, exactness, TimeZone::system())
        .ok_or_else(|| wrong(format!("{time} names no revision; it is out of range")))
}

/// Several revisions: text as the command takes it, or one or more of what names one.
pub(crate) struct Several(Vec<Part>);

enum Part {
    Text(RevisionsSpec),
    One(One),
}

impl Several {
    pub(crate) fn all() -> Self {
        Several(vec![Part::Text(RevisionsSpec::all())])
    }

    pub(crate) fn is_all(&self) -> bool {
        let all = RevisionsSpec::all();
        self.0.iter().any(|part| matches!(part, Part::Text(text) if *text == all))
    }

    /// Numbers of the revisions, ascending and each once.
    pub(crate) fn resolve(&self, archive: &Archive) -> Result<Vec<usize>> {
        let mut numbers = BTreeSet::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => numbers.extend(text.resolve(archive.revisions())?),
                Part::One(one) => {
                    numbers.insert(one.resolve(archive)?);
                }
            }
        }
        Ok(numbers.into_iter().collect())
    }
}

impl<'py> FromPyObject<'_, 'py> for Several {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let part = |object: &Bound<'py, PyAny>| match object.cast::<PyString>() {
            Ok(text) => {
                RevisionsSpec::parse(&text.to_cow()?, &here()).map(Part::Text).map_err(exception)
            }
            // As text does, a time means what was made then: deleting takes nothing from before it.
            Err(_) => match object.extract()? {
                One(RevisionSpec::NotAfter(when)) => Ok(Part::Text(when.into())),
                one => Ok(Part::One(one)),
            },
        };
        if !object.is_instance_of::<PyString>()
            && let Ok(items) = object.try_iter()
        {
            return items.map(|item| part(&item?)).collect::<PyResult<_>>().map(Several);
        }
        Ok(Several(vec![part(&object)?]))
    }
}

/// Tags, from any iterable of strings.
#[derive(Default)]
pub(crate) struct Tags(pub(crate) BTreeSet<Tag>);

impl<'py> FromPyObject<'_, 'py> for Tags {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_instance_of::<PyString>() {
            let message = "tags are an iterable of str, such as [\"manual\"], not a str";
            return Err(PyTypeError::new_err(message));
        }
        let tag = |item: PyResult<Bound<'py, PyAny>>| {
            let text: String = item?.extract()?;
            text.parse::<Tag>().map_err(wrong)
        };
        object.try_iter()?.map(tag).collect::<PyResult<_>>().map(Tags)
    }
}

/// Bytes a second: a number, or text such as `100M`.
pub(crate) struct Rate(pub(crate) u64);

impl<'py> FromPyObject<'_, 'py> for Rate {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text = object.str()?;
        parse_rate(&text.to_cow()?).map(Rate).map_err(wrong)
    }
}

/// How long another writer is waited for: text such as `10m`, a number of seconds, or a `timedelta`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wait(pub(crate) Duration);

impl<'py> FromPyObject<'_, 'py> for Wait {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Wait::default());
        }
        if let Ok(text) = object.cast::<PyString>() {
            return parse_wait(&text.to_cow()?).map(Wait).map_err(wrong);
        }
        let seconds: f64 = match object.getattr_opt("total_seconds")? {
            Some(total) => total.call0()?.extract()?,
            None => object.extract()?,
        };
        Duration::try_from_secs_f64(seconds)
            .map(Wait)
            .map_err(|_| wrong(format!("wait: found {seconds} seconds, expected none or more")))
    }
}

/// Text that means something to the engine.
pub(crate) fn parse<T: FromStr<Err = String>>(text: Option<String>) -> PyResult<Option<T>> {
    text.map(|text| text.parse().map_err(wrong)).transpose()
}

/// For `ok_or_else`: there is no such number.
pub(crate) fn no_such(number: usize) -> impl FnOnce() -> Error {
    move || Error::NoSuchRevision { message: format!("there is no revision {number}") }
}
