//! Python objects as a source.

use backy_lib::error::{Error, Result};
use backy_lib::extent::Extent;
use backy_lib::format::manifest::SourceIdentity;
use backy_lib::source::{Source, check_not_empty};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList, PyMemoryView, PyString, PyTuple};

use crate::outcall;
use crate::report::ToPython;
use crate::seen::Seen;
use crate::watch::Watch;

/// The name of the method that makes an object a source.
pub(crate) const READ: &str = "readinto_at";

/// An object with `size` and `readinto_at(offset, buffer)`.
pub(crate) struct PythonSource<'a> {
    object: Py<PyAny>,
    watch: &'a Watch,
    name: String,
    size_bytes: u64,
    /// Ascending, without overlaps; `None`: anything may be data.
    data: Option<Vec<Extent>>,
    /// The same; `None`: everything may differ.
    changed: Option<Vec<Extent>>,
}

impl<'a> PythonSource<'a> {
    /// Asks it how large it is.
    pub(crate) fn open(object: Py<PyAny>, watch: &'a Watch) -> Result<Self> {
        let name = watch.attach(|py| Ok(name(object.bind(py))));
        let name = name.and_then(PyResult::ok).ok_or(Error::Interrupted)?;
        let mut source =
            PythonSource { object, watch, name, size_bytes: 0, data: None, changed: None };
        source.size_bytes = source.call(size)?;
        check_not_empty(&source)?;
        Ok(source)
    }

    /// Asks it where it is zero, and what has changed since the revision that was made last.
    pub(crate) fn ask(&mut self, newest: Option<&backy_lib::Revision>) -> Result<()> {
        let size_bytes = self.size_bytes;
        let holes = self.call(|object| asked(object, "holes", (), size_bytes))?;
        self.data = holes.map(|holes| between(&holes, size_bytes));
        self.changed = self.call(|object| {
            let newest = newest.map(Seen::newest).to_python(object.py())?;
            asked(object, "changed_extents", (newest,), size_bytes)
        })?;
        Ok(())
    }

    /// The next of these extents; without any, all the rest.
    fn next_of(&self, extents: Option<&[Extent]>, offset: u64) -> Option<Extent> {
        let extent = match extents {
            Some(extents) => {
                *extents.get(extents.partition_point(|extent| extent.end() <= offset))?
            }
            None => Extent::between(offset, self.size_bytes),
        };
        let rest = Extent::between(extent.offset.max(offset), extent.end());
        (rest.len > 0).then_some(rest)
    }

    /// An exception of the object stops the operation, and is raised unchanged.
    fn call<T>(&self, call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T> {
        let called = self.watch.attach(|py| call(self.object.bind(py)));
        called.ok_or(Error::Interrupted)?.map_err(|error| {
            let message = error.to_string();
            self.watch.raise_by(error, &self.object);
            Error::Source { path: self.name.clone().into(), message }
        })
    }
}

impl Source for PythonSource<'_> {
    fn identity(&self) -> SourceIdentity {
        SourceIdentity::new(self.name.clone(), "Python object")
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.call(size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let count = self.call(|object| read_some(object, rest, offset + done as u64))?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        Ok(self.next_of(self.data.as_deref(), offset))
    }

    fn knows_holes(&self) -> bool {
        self.data.is_some()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        Ok(self.next_of(self.changed.as_deref(), offset))
    }
}

/// The extents between those that are given, up to the end.
fn between(given: &[Extent], size_bytes: u64) -> Vec<Extent> {
    let starts = std::iter::once(0).chain(given.iter().map(|extent| extent.end()));
    let ends = given.iter().map(|extent| extent.offset).chain([size_bytes]);
    starts
        .zip(ends)
        .filter(|(start, end)| start < end)
        .map(|(start, end)| Extent::between(start, end))
        .collect()
}

/// What the manifest calls it.
fn name(object: &Bound<'_, PyAny>) -> String {
    let own = outcall::get(object, "name").ok();
    let own = own.filter(|name| name.is_instance_of::<PyString>()).map(|name| name.to_string());
    own.or_else(|| Some(object.get_type().name().ok()?.to_string())).unwrap_or_default()
}

fn size(object: &Bound<'_, PyAny>) -> PyResult<u64> {
    outcall::get(object, "size")?.extract()
}

fn read_some(object: &Bound<'_, PyAny>, buffer: &mut [u8], offset: u64) -> PyResult<usize> {
    let py = object.py();
    let bytes = PyByteArray::new_with(py, buffer.len(), |_| Ok(()))?;
    let count = outcall::call_method(object, READ, (offset, PyMemoryView::from(&bytes)?))?;
    let count: usize = count.extract().map_err(|_| {
        let found = count.get_type();
        PyTypeError::new_err(format!("{READ}() gave {found}; expected how many bytes it has read"))
    })?;
    let Some(part) = buffer.get_mut(..count) else {
        let message = format!("{READ}() gave {count}; the buffer has {} bytes", buffer.len());
        return Err(PyValueError::new_err(message));
    };
    let found = bytes.to_vec();
    let Some(found) = found.get(..count) else {
        return Err(PyValueError::new_err(format!("{READ}() has shortened its buffer")));
    };
    part.copy_from_slice(found);
    Ok(count)
}

/// What a method returns that an object may have; `None` if it has none, or does not know.
fn asked<'py, A>(
    object: &Bound<'py, PyAny>,
    name: &str,
    arguments: A,
    size_bytes: u64,
) -> PyResult<Option<Vec<Extent>>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    let Some(ask) = object.getattr_opt(name)? else { return Ok(None) };
    let answer = outcall::call(&ask, arguments)?;
    if answer.is_none() { Ok(None) } else { extents(&answer, size_bytes).map(Some) }
}

/// Pairs of offset and length in any order, as the engine wants them.
fn extents(answer: &Bound<'_, PyAny>, size_bytes: u64) -> PyResult<Vec<Extent>> {
    let pair = |item: PyResult<Bound<'_, PyAny>>| {
        let (offset, len): (u64, u64) = item?.extract()?;
        Ok(Extent::between(offset, offset.saturating_add(len).min(size_bytes)))
    };
    // A generator runs while it is iterated.
    let answer = outcall::call(&answer.py().get_type::<PyList>(), (answer,))?;
    let mut given: Vec<Extent> = answer.try_iter()?.map(pair).collect::<PyResult<_>>()?;
    given.retain(|extent| extent.len > 0);
    given.sort_unstable();
    let mut joined: Vec<Extent> = Vec::with_capacity(given.len());
    for extent in given {
        match joined.last_mut() {
            Some(last) if extent.offset <= last.end() => {
                *last = Extent::between(last.offset, last.end().max(extent.end()));
            }
            _ => joined.push(extent),
        }
    }
    Ok(joined)
}
