//! How Python names revisions, and passes tags, rates and budgets: as the command does, or with numbers and objects.

use std::collections::BTreeSet;
use std::time::Duration;

use backy_lib::config::{TimeLimit, parse_wait};
use backy_lib::select::When;
use backy_lib::units::parse_rate;
use backy_lib::{
    Archive, Budget, Clock, Here, Result, RevisionId, RevisionSpec, RevisionsSpec, SystemClock, Tag,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDate, PyDateTime, PyInt, PyString, PyTzInfo};

use crate::error::{exception, wrong};
use crate::reports::Revision;
use crate::verdicts::RevisionStatus;

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

    pub(crate) fn spec(&self) -> &RevisionSpec {
        &self.0
    }

    pub(crate) fn resolve(&self, archive: &Archive) -> Result<RevisionId> {
        self.0.resolve(archive.revisions())
    }
}

impl<'py> FromPyObject<'_, 'py> for One {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return RevisionSpec::parse(&text.to_cow()?, &here()).map(One).map_err(exception);
        }
        if object.is_instance_of::<Revision>() || object.is_instance_of::<RevisionStatus>() {
            let uuid = object.getattr("uuid")?.extract::<String>()?;
            return Ok(One(RevisionSpec::Uuid(uuid)));
        }
        if is_uuid(&object)? {
            return Ok(One(RevisionSpec::Uuid(object.str()?.to_string())));
        }
        // True is an int, but hardly anybody means revision 1 by it.
        if !object.is_instance_of::<PyBool>()
            && let Ok(number) = object.extract::<i128>()
        {
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
        let found = object.get_type().name()?;
        let message = format!(
            "a revision is a str, an int, a uuid.UUID, a datetime, a date or a backy.Revision, not {found}"
        );
        Err(PyTypeError::new_err(message))
    }
}

/// Whether it is a `uuid.UUID`. Nobody has one without that module, which takes long to import.
fn is_uuid(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let modules = object.py().import("sys")?.getattr("modules")?;
    let module = modules.call_method1("get", ("uuid",))?;
    match module.getattr_opt("UUID")? {
        Some(class) => object.is_instance(&class),
        None => Ok(false),
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
pub(crate) struct Several(pub(crate) RevisionsSpec);

impl Several {
    pub(crate) fn all() -> Self {
        Several(RevisionsSpec::all())
    }

    /// The revisions, newest first and each once.
    pub(crate) fn resolve(&self, archive: &Archive) -> Result<Vec<RevisionId>> {
        self.0.resolve(archive.revisions())
    }
}

impl<'py> FromPyObject<'_, 'py> for Several {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let part = |object: &Bound<'py, PyAny>| match object.cast::<PyString>() {
            Ok(text) => RevisionsSpec::parse(&text.to_cow()?, &here()).map_err(exception),
            Err(_) => object.extract::<One>().map(|One(one)| one.into()),
        };
        if !object.is_instance_of::<PyString>()
            && let Ok(items) = object.try_iter()
        {
            return items.map(|item| part(&item?)).collect::<PyResult<_>>().map(Several);
        }
        part(&object).map(Several)
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
        let is_number = object.is_instance_of::<PyInt>() && !object.is_instance_of::<PyBool>();
        if !is_number && !object.is_instance_of::<PyString>() {
            let found = object.get_type().name()?;
            let message = format!("found {found}, expected a number, or text such as '100M'");
            return Err(PyTypeError::new_err(message));
        }
        let text = object.str()?;
        parse_rate(&text.to_cow()?).map(Rate).map_err(wrong)
    }
}

/// An argument that is a time or like one: text as the command takes it, a `timedelta`, or, for most, a number of
/// seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given<T>(pub(crate) T);

/// How long to wait for another writer.
pub(crate) type Wait = Given<Duration>;
/// How long the command of a drill may take.
pub(crate) type Limit = Given<TimeLimit>;
/// How much a scrub may read.
pub(crate) type GivenBudget = Given<Budget>;

/// What an argument that is a time becomes.
pub(crate) trait Timed: Sized {
    /// The forms that it takes.
    const EXPECTED: &'static str;
    /// Whether a number means seconds.
    const TAKES_NUMBERS: bool;

    fn parse(text: &str) -> std::result::Result<Self, String>;
    fn of(time: Duration) -> std::result::Result<Self, String>;
}

impl Timed for Duration {
    const EXPECTED: &'static str = "seconds, a timedelta, or text such as '10m'";
    const TAKES_NUMBERS: bool = true;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        parse_wait(text)
    }

    fn of(time: Duration) -> std::result::Result<Self, String> {
        Ok(time)
    }
}

impl Timed for TimeLimit {
    const EXPECTED: &'static str = "seconds, a timedelta, or text such as '30m' or 'none'";
    const TAKES_NUMBERS: bool = true;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        text.parse()
    }

    fn of(time: Duration) -> std::result::Result<Self, String> {
        match time.is_zero() {
            true => Err("found 0 seconds, expected more, or 'none' for no limit".to_owned()),
            false => Ok(TimeLimit(Some(time))),
        }
    }
}

impl Timed for Budget {
    const EXPECTED: &'static str = "a timedelta, or text such as '30m' or '10%'";
    // It could be seconds, a share or bytes.
    const TAKES_NUMBERS: bool = false;

    fn parse(text: &str) -> std::result::Result<Self, String> {
        text.parse()
    }

    fn of(time: Duration) -> std::result::Result<Self, String> {
        match time.is_zero() {
            true => Err("found no time at all".to_owned()),
            false => Ok(Budget::Time(time)),
        }
    }
}

impl<'py, T: Timed> FromPyObject<'_, 'py> for Given<T> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return T::parse(&text.to_cow()?).map(Given).map_err(wrong);
        }
        let is_refused = !T::TAKES_NUMBERS && object.extract::<f64>().is_ok();
        match duration(&object)?.filter(|_| !is_refused) {
            Some(time) => T::of(time).map(Given).map_err(wrong),
            None => {
                let found = object.get_type().name()?;
                Err(PyTypeError::new_err(format!("found {found}, expected {}", T::EXPECTED)))
            }
        }
    }
}

/// A `timedelta`, or a number of seconds; `None` of anything else.
fn duration(object: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    let seconds = match object.getattr_opt("total_seconds")? {
        Some(total) => total.call0()?.extract::<f64>()?,
        None if object.is_instance_of::<PyBool>() => return Ok(None),
        None => match object.extract::<f64>() {
            Ok(seconds) => seconds,
            Err(_) => return Ok(None),
        },
    };
    let time = Duration::try_from_secs_f64(seconds);
    time.map(Some).map_err(|_| wrong(format!("found {seconds} seconds, expected none or more")))
}
