//! `backy.Mount`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use backy_lib::fork::Maker;
use backy_lib::mount::{MountOptions, Mounted, group_number, mount};
use backy_lib::progress::{Event, Observer};
use backy_lib::{Error, Result};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

use crate::ending::{self, Call};
use crate::error::{exception, wrong};
use crate::logging::{Line, log};
use crate::named;
use crate::operations::Folder;

/// How long somebody who uses the mount at its end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);

/// A group, as Python gives it.
pub(crate) enum Group {
    Number(u32),
    Name(String),
}

impl<'py> FromPyObject<'_, 'py> for Group {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(name) = object.cast::<PyString>() {
            return Ok(Group::Name(name.to_cow()?.into_owned()));
        }
        if object.is_instance_of::<PyInt>() && !object.is_instance_of::<PyBool>() {
            return object.extract().map(Group::Number);
        }
        let found = object.get_type().name()?;
        let message = format!("found {found}, expected the number or the name of a group");
        Err(PyTypeError::new_err(message))
    }
}

impl Group {
    fn number(self) -> PyResult<u32> {
        match self {
            Group::Number(number) => group_number(&number.to_string()),
            Group::Name(name) => group_number(&name),
        }
        .map_err(wrong)
    }
}

pub(crate) struct MountArguments {
    pub(crate) mountpoint: PathBuf,
    pub(crate) writable: bool,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) gid: Option<Group>,
    pub(crate) allow_other: bool,
    pub(crate) cache: u64,
}

/// An archive that is mounted: what Archive.mount() gives, for a `with` block.
///
/// When nothing refers to it any more it is taken from its place. In a child that this process forks it can be looked
/// at; the child neither takes it away when it ends, nor may it.
#[pyclass(module = "backy", frozen)]
pub(crate) struct Mount {
    path: PathBuf,
    /// In a child, a thread that is not there may hold the lock below.
    maker: Maker,
    is_entered: AtomicBool,
    /// `None` once it is unmounted. Only locked without the interpreter, which the holder may need.
    mounted: Shared,
}

type Shared = Arc<Mutex<Option<Mounted>>>;

/// What there may still be at the end of the process. Only locked with the interpreter, or when there is none any more.
static MADE: Mutex<Vec<Weak<Mutex<Option<Mounted>>>>> = Mutex::new(Vec::new());

/// Has the interpreter take away at its very end what is still mounted, as when a thread refers to it that does not
/// end.
#[expect(unsafe_code, reason = "the interpreter has no safe form of it")]
pub(crate) fn arrange() {
    // SAFETY: the function uses nothing of Python. There is space for some dozens of them at most; without it, only
    // unreferenced ones are unmounted.
    let _ = unsafe { pyo3::ffi::Py_AtExit(Some(take_all_away)) };
}

extern "C" fn take_all_away() {
    let made = std::mem::take(&mut *MADE.lock().unwrap_or_else(PoisonError::into_inner));
    for mounted in made.iter().filter_map(Weak::upgrade) {
        // Whoever has it locked is unmounting it.
        if let Ok(mut mounted) = mounted.try_lock() {
            drop(mounted.take());
        }
    }
}

fn remember(mounted: &Shared) {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.retain(|other| other.strong_count() > 0);
    made.push(Arc::downgrade(mounted));
}

impl Mount {
    pub(crate) fn new(py: Python<'_>, folder: &Folder, given: MountArguments) -> PyResult<Self> {
        let writable = match (given.writable, given.dir) {
            (true, Some(dir)) => Some(dir),
            (true, None) => Some(py.import("tempfile")?.call_method0("gettempdir")?.extract()?),
            (false, None) => None,
            (false, Some(_)) => {
                return Err(wrong("dir is for what is written; give writable=True".to_owned()));
            }
        };
        let options = MountOptions {
            allow_other: given.allow_other,
            gid: given.gid.map(Group::number).transpose()?,
            writable,
            cache_bytes: given.cache,
            ..MountOptions::default()
        };
        let path = given.mountpoint;
        // At the end, wait for what is being mounted, so that it can be unmounted.
        let _call = Call::begin(py)?;
        let mounted = py.detach(|| {
            let path = std::path::absolute(&path).map_err(Error::io(&path, "find the folder"))?;
            let archive = folder.open()?;
            let mounted = mount(&archive, &path, &options, Arc::new(Log::start()?))?;
            Ok((path, mounted))
        });
        let (path, mounted) = mounted.map_err(exception)?;
        let (maker, is_entered) = (Maker::this(), AtomicBool::new(false));
        let mounted = Arc::new(Mutex::new(Some(mounted)));
        remember(&mounted);
        Ok(Mount { path, maker, is_entered, mounted })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Mounted>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a child it is only looked at.
    fn check_own(&self) -> PyResult<()> {
        if self.maker.is_this() {
            return Ok(());
        }
        let message = format!("it belongs to process {}; unmount it there", self.maker);
        Err(exception(Error::Mount { path: self.path.clone(), message }))
    }

    /// Takes it away, and waits until its threads have ended.
    fn take_away(&self) -> Result<()> {
        let mut mounted = self.lock();
        if let Some(mounted) = &*mounted {
            mounted.unmount()?;
        }
        mounted.take().map_or(Ok(()), Mounted::join)
    }
}

#[pymethods]
impl Mount {
    /// The folder where it is mounted.
    #[getter]
    fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still in its place: not after unmount(), nor after `umount`.
    #[getter]
    fn is_mounted(&self, py: Python<'_>) -> bool {
        py.detach(|| match self.maker.is_this() {
            true => self.lock().as_ref().is_some_and(Mounted::is_mounted),
            false => self
                .mounted
                .try_lock()
                .is_ok_and(|mounted| mounted.as_ref().is_some_and(Mounted::is_mounted)),
        })
    }

    /// Take it away; nothing happens when that has been done.
    ///
    /// Raises MountError when it is still in use after some seconds, or in a child of the process that has mounted
    /// it; then it stays. `lazy`: take it from its place at once; programs keep what they have open,
    /// as long as this process lives.
    #[pyo3(signature = (*, lazy=false))]
    fn unmount(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = named::lazy)] lazy: bool,
    ) -> PyResult<()> {
        self.check_own()?;
        let _call = Call::begin(py)?;
        if lazy {
            let detached = || self.lock().as_ref().map_or(Ok(()), Mounted::detach);
            return py.detach(detached).map_err(exception);
        }
        let began = Instant::now();
        loop {
            match py.detach(|| self.take_away()) {
                Err(Error::Mount { .. }) if began.elapsed() < PATIENCE => {}
                done => return done.map_err(exception),
            }
            py.check_signals()?;
            py.detach(|| std::thread::sleep(TICK));
        }
    }

    /// The folder where it is mounted.
    ///
    /// Raises ValueError when it is not mounted any more, or when this is within a `with` block of it already.
    fn __enter__(&self, py: Python<'_>) -> PyResult<&Path> {
        if !self.is_mounted(py) {
            let message = "it is not mounted any more; call Archive.mount() again";
            return Err(PyValueError::new_err(format!("{}: {message}", self.path.display())));
        }
        if self.is_entered.swap(true, Relaxed) {
            let message = "it is in a 'with' block already, whose end unmounts it";
            return Err(PyValueError::new_err(format!("{}: {message}", self.path.display())));
        }
        Ok(&self.path)
    }

    /// Unmounts; not in a child, which leaves the block of its parent.
    #[pyo3(signature = (*_exception))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _exception: &Bound<'_, pyo3::types::PyTuple>,
    ) -> PyResult<()> {
        self.is_entered.store(false, Relaxed);
        if self.maker.is_this() { self.unmount(py, false) } else { Ok(()) }
    }

    fn __reduce__(&self) -> PyResult<()> {
        let message = "a backy.Mount cannot be pickled or copied: it is a mount of this process";
        Err(PyTypeError::new_err(message))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let path = self.path.as_os_str().into_pyobject(py)?;
        Ok(format!("<backy.Mount {}>", path.repr()?))
    }
}

/// Takes what is found wrong to Python's log, by a thread of its own: those that serve the mount must never wait for
/// the interpreter, since whoever holds that may be waiting for them.
struct Log {
    lines: Sender<Line>,
}

impl Log {
    fn start() -> Result<Self> {
        let (sender, receiver) = channel();
        let write = move || {
            for line in receiver {
                // Nobody would learn that the log does not work, or that the interpreter has ended.
                let _ = ending::attach(|py| log(py, line));
            }
        };
        let thread = std::thread::Builder::new().name("backy log".to_owned()).spawn(write);
        thread.map_err(Error::io("backy", "start a thread"))?;
        Ok(Log { lines: sender })
    }
}

impl Observer for Log {
    fn event(&self, event: &Event) {
        if let Event::Finding(text) | Event::Note(text) = event {
            let _ = self.lines.send(Line::Warning(text.clone()));
        }
    }
}
