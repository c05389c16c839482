//! How reports are shown: `repr`, with values as Python writes them, and nested ones in short.

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::report::Report;

/// Texts are cut there.
const MAX_CHARS: usize = 120;
/// Longest tuple that is shown whole.
const MAX_ITEMS: usize = 6;
/// Whole pages, which are allocated each time.
const PAGES: [&str; 2] = ["nagios", "prometheus"];

/// A report with all its properties.
pub(crate) fn report(report: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut text = format!("<backy.{}", report.get_type().name()?);
    for property in properties(report)? {
        if !PAGES.contains(&&*property) {
            text += &format!(" {property}={}", value(&report.getattr(&*property)?)?);
        }
    }
    text.push('>');
    Ok(text)
}

fn properties(report: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    report.get_type().getattr("__match_args__")?.extract()
}

fn value(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if value.is_instance_of::<Report>() {
        return short(value);
    }
    if let Ok(items) = value.cast::<PyTuple>() {
        return tuple(items);
    }
    if let Ok(text) = value.cast::<PyString>() {
        let text = text.to_string_lossy();
        if let Some((cut, _)) = text.char_indices().nth(MAX_CHARS) {
            let begins = PyString::new(value.py(), text.get(..cut).unwrap_or_default());
            return Ok(format!("{}...", begins.repr()?));
        }
    }
    Ok(value.repr()?.to_string())
}

/// What distinguishes a report in a report from others of its class: its first property.
fn short(report: &Bound<'_, PyAny>) -> PyResult<String> {
    let name = report.get_type().name()?;
    let Some(first) = properties(report)?.into_iter().next() else {
        return Ok(format!("<backy.{name}>"));
    };
    let shown = report.getattr(&*first)?;
    let shown = match shown.is_instance_of::<Report>() {
        true => short(&shown)?,
        false => value(&shown)?,
    };
    Ok(format!("<backy.{name} {first}={shown} ...>"))
}

fn tuple(items: &Bound<'_, PyTuple>) -> PyResult<String> {
    let shown = match items.iter().next() {
        Some(first) if first.is_instance_of::<Report>() => {
            format!("<{} backy.{}>", items.len(), first.get_type().name()?)
        }
        Some(first) if items.len() > MAX_ITEMS => {
            format!("<{} {}>", items.len(), first.get_type().name()?)
        }
        _ => items.repr()?.to_string(),
    };
    Ok(shown)
}
