//! Python objects as a source.

use std::sync::{Arc, OnceLock};

use backy_lib::error::{Error, Result};
use backy_lib::extent::{Extent, gaps, rest_after};
use backy_lib::format::manifest::{Bookmark, SourceIdentity};
use backy_lib::mark::{ArchiveId, MarkName};
use backy_lib::source::{Marked, Opened, Source, Tracker, check_not_empty};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList, PyMemoryView, PyString, PyTuple};

use crate::outcall;
use crate::report::ToPython;
use crate::seen::Seen;
use crate::watch::Watch;

/// The name of the method that makes an object a source.
pub(crate) const READ: &str = "readinto_at";

/// The name of the method that makes a mark; an object that has it keeps marks.
const MARK: &str = "mark";

/// Its name in bookmarks.
const TRACKER: &str = "python";

/// An object with `size` and `readinto_at(offset, buffer)`.
pub(crate) struct PythonSource<'a> {
    object: Py<PyAny>,
    watch: &'a Watch,
    name: String,
    size_bytes: u64,
    answers: Arc<OnceLock<Answers>>,
}

/// What the object has said about its bytes.
#[derive(Default)]
struct Answers {
    /// Ascending, without overlaps; `None`: anything may be data.
    data: Option<Vec<Extent>>,
    /// The same; `None`: everything may differ.
    changed: Option<Vec<Extent>>,
}

impl<'a> PythonSource<'a> {
    /// Asks it how large it is. If it keeps no marks, also asks where it is zero, and what has changed since the
    /// newest revision.
    pub(crate) fn open(
        object: Py<PyAny>,
        watch: &'a Watch,
        newest: Option<&backy_lib::Revision>,
    ) -> Result<Opened<'a>> {
        let name = watch.attach(|py| Ok(name(object.bind(py))));
        let name = name.and_then(PyResult::ok).ok_or(Error::Interrupted)?;
        let answers = Arc::default();
        let mut source = PythonSource { object, watch, name, size_bytes: 0, answers };
        source.size_bytes = source.call(size)?;
        check_not_empty(&source)?;
        let tracker = source.call(|object| {
            let keeps_marks = object.getattr_opt(MARK)?.is_some();
            Ok(keeps_marks
                .then(|| PythonTracker { twin: source.twin(object.py()), newest: newest.cloned() }))
        })?;
        if tracker.is_none() {
            source.ask(newest)?;
        }
        let tracker = tracker.map(|tracker| Box::new(tracker) as Box<dyn Tracker + 'a>);
        Ok(Opened { source: Box::new(source), tracker })
    }

    /// The same object.
    fn twin(&self, py: Python<'_>) -> Self {
        PythonSource {
            object: self.object.clone_ref(py),
            watch: self.watch,
            name: self.name.clone(),
            size_bytes: self.size_bytes,
            answers: Arc::clone(&self.answers),
        }
    }

    /// Asks it where it is zero, and what has changed since a revision.
    fn ask(&self, since: Option<&backy_lib::Revision>) -> Result<()> {
        let data = self.ask_data()?;
        let changed = self.ask_changed(since)?;
        // Nobody has asked before.
        let _ = self.answers.set(Answers { data, changed });
        Ok(())
    }

    fn ask_data(&self) -> Result<Option<Vec<Extent>>> {
        let size_bytes = self.size_bytes;
        let holes = self.call(|object| asked(object, "holes", (), size_bytes))?;
        Ok(holes.map(|holes| gaps(&holes, size_bytes)))
    }

    fn ask_changed(&self, since: Option<&backy_lib::Revision>) -> Result<Option<Vec<Extent>>> {
        self.call(|object| {
            let since = since.map(Seen::newest).to_python(object.py())?;
            asked(object, "changed_extents", (since,), self.size_bytes)
        })
    }

    /// What identifies the object from one backup to the next.
    fn ask_identity(&self) -> Result<String> {
        let text = self.call(|object| text(object, "identity", ()))?;
        Ok(text.unwrap_or_default())
    }

    /// The next of these extents; without any, all the rest.
    fn next_of(&self, extents: Option<&[Extent]>, offset: u64) -> Option<Extent> {
        match extents {
            Some(extents) => rest_after(extents, offset),
            None => (offset < self.size_bytes).then(|| Extent::between(offset, self.size_bytes)),
        }
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
        let data = self.answers.get().and_then(|answers| answers.data.as_deref());
        Ok(self.next_of(data, offset))
    }

    fn knows_holes(&self) -> bool {
        self.answers.get().is_some_and(|answers| answers.data.is_some())
    }

    fn gives_hints(&self) -> bool {
        self.answers.get().is_some_and(|answers| answers.changed.is_some())
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        let changed = self.answers.get().and_then(|answers| answers.changed.as_deref());
        Ok(self.next_of(changed, offset))
    }
}

/// The marks of an object that keeps them.
struct PythonTracker<'a> {
    twin: PythonSource<'a>,
    newest: Option<backy_lib::Revision>,
}

impl Tracker for PythonTracker<'_> {
    fn name(&self) -> &str {
        TRACKER
    }

    fn mark(&mut self, name: MarkName, since: Option<(MarkName, &Bookmark)>) -> Result<Marked> {
        let twin = &self.twin;
        let id = twin.call(|object| text(object, MARK, (name.revision.to_string(),)))?;
        let identity = twin.ask_identity()?;
        let doubt = match since {
            _ if id.is_none() => Some(format!("{} has made no mark", twin.name)),
            None => Some("there is no earlier mark".to_owned()),
            Some((_, known)) if known.identity != identity => Some(other(known, &identity)),
            Some(_) => None,
        };
        let newest = self.newest.as_ref().filter(|_| doubt.is_none());
        let data = twin.ask_data()?;
        let changed = match newest {
            Some(newest) => twin.ask_changed(Some(newest))?,
            None => None,
        };
        let silent = || format!("{} does not know what has changed", twin.name);
        let doubt = doubt.or_else(|| changed.is_none().then(silent));
        // There is one mark for each time that it is opened.
        let _ = twin.answers.set(Answers { data, changed });
        let bookmark = id.map(|id| Bookmark::new(TRACKER, id, identity, 1));
        Ok(Marked { bookmark, doubt })
    }

    fn doubt(&self, _name: MarkName, bookmark: &Bookmark) -> Result<Option<String>> {
        let identity = self.twin.ask_identity()?;
        Ok((bookmark.identity != identity).then(|| other(bookmark, &identity)))
    }

    /// The object does not list them.
    fn marks(&self, _archive: ArchiveId) -> Result<Vec<MarkName>> {
        Ok(Vec::new())
    }

    fn settle(&mut self, _archive: ArchiveId, keep: Option<MarkName>) -> Result<()> {
        let keep = keep.map(|keep| keep.revision.to_string());
        self.twin.call(|object| {
            let Some(settle) = object.getattr_opt("settle")? else { return Ok(()) };
            outcall::call(&settle, (keep,)).map(drop)
        })
    }
}

fn other(known: &Bookmark, found: &str) -> String {
    let (found, expected) = (found.escape_debug(), known.identity.escape_debug());
    format!("it is another source: found {found}, expected {expected}")
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

/// A text that a method returns that an object may have; `None` if it has none, or returns none.
fn text<'py, A>(object: &Bound<'py, PyAny>, name: &str, arguments: A) -> PyResult<Option<String>>
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>,
{
    let Some(ask) = object.getattr_opt(name)? else { return Ok(None) };
    let answer = outcall::call(&ask, arguments)?;
    answer.extract().map_err(|_| {
        PyTypeError::new_err(format!("{name}() gave {}; expected a str or None", answer.get_type()))
    })
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
