//! The position of a file that is being read. Each step is atomic: a read takes its bytes first, as the kernel does
//! it for other files. So threads, and signal handlers that come in the middle of a read, neither wait for each other
//! nor lose a step.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

const SEEK_SET: i32 = 0;
const SEEK_CUR: i32 = 1;
const SEEK_END: i32 = 2;

#[derive(Debug, Default)]
pub(crate) struct Position(AtomicU64);

impl Position {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(SeqCst)
    }

    /// Takes up to `wanted` bytes of a file of `size`: where they begin, and how many there are.
    pub(crate) fn take(&self, wanted: u64, size: u64) -> (u64, u64) {
        let there = |start: u64| wanted.min(size.saturating_sub(start));
        let start = self.0.fetch_update(SeqCst, SeqCst, |start| Some(start + there(start)));
        let start = start.unwrap_or_else(|unchanged| unchanged);
        (start, there(start))
    }

    /// What was taken could not be read. Whoever has moved on meanwhile stays there.
    pub(crate) fn give_back(&self, (start, len): (u64, u64)) {
        let _ = self.0.compare_exchange(start + len, start, SeqCst, SeqCst);
    }

    /// Moves it; where it is then.
    pub(crate) fn seek(&self, offset: i64, whence: i32, size: u64) -> PyResult<u64> {
        let target = |from: u64| -> PyResult<u64> {
            let before = || {
                let place = i128::from(from) + i128::from(offset);
                PyValueError::new_err(format!(
                    "the position would be {place}, before the beginning"
                ))
            };
            let place = from.checked_add_signed(offset).ok_or_else(before)?;
            match i64::try_from(place) {
                Ok(_) => Ok(place),
                Err(_) => Err(PyOSError::new_err((libc::EOVERFLOW, "the position is too large"))),
            }
        };
        let fixed = match whence {
            SEEK_SET => target(0)?,
            SEEK_END => target(size)?,
            SEEK_CUR => {
                let mut from = self.get();
                loop {
                    let place = target(from)?;
                    match self.0.compare_exchange(from, place, SeqCst, SeqCst) {
                        Ok(_) => return Ok(place),
                        Err(moved) => from = moved,
                    }
                }
            }
            _ => {
                let message = format!("whence is {whence}; expected 0, 1 or 2");
                return Err(PyValueError::new_err(message));
            }
        };
        self.0.store(fixed, SeqCst);
        Ok(fixed)
    }
}
