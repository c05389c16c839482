//! The settings of an archive, and where each comes from.

use backy_lib::settings::{Origin, SettingValue};
use pyo3::prelude::*;

use crate::report::{ToPython, report, word};

report! {
    /// The settings of an archive.
    ConfigReport of backy_lib::ConfigReport {
        /// Version of to_dict(): fields may be added within a version, never removed or changed.
        schema(r) = u64::from(r.schema);
        /// The archive's folder, without symbolic links.
        archive(r) = r.archive;
        /// backy.toml, then the files that it includes, in the order in which they are read.
        files(r) = r.files;
        /// The settings that apply, in the order of the manual page; without defaults if there are errors.
        settings(r) = r.settings;
        /// Why the settings cannot be used, a sentence for each problem.
        errors(r) = r.errors;
    }
}

report! {
    /// A file with settings.
    ConfigFile of backy_lib::settings::ConfigFile {
        /// Its path, as it is given where it is included.
        file(r) = r.file;
        /// Where it is included; None for backy.toml.
        included_by(r) = r.included_by;
    }
}

report! {
    /// A line of a file.
    FileLine of backy_lib::settings::FileLine {
        /// The file.
        file(r) = r.file;
        /// The line, counted from 1.
        line(r) = r.line;
    }
}

report! {
    /// A setting that applies.
    Setting of backy_lib::settings::Setting {
        /// Its name with that of its table, such as "schedule.daily.keep".
        key(r) = r.key;
        /// Its value, as it is written: text, a number, a truth value or a tuple of texts.
        value(r) = r.value;
        /// Whether the value is only a part: arguments of hooks are left out, since they may be secret.
        is_shortened(r) = r.is_shortened;
        /// The FileLine that sets it, or "default".
        origin(r) = r.origin;
    }
}

impl ToPython for SettingValue {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            SettingValue::Flag(flag) => flag.to_python(py),
            SettingValue::Number(number) => number.to_python(py),
            SettingValue::Text(text) => text.to_python(py),
            SettingValue::List(words) => words.to_python(py),
        }
    }
}

impl ToPython for Origin {
    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Origin::File(line) => line.to_python(py),
            Origin::Default(default) => word(default).to_python(py),
        }
    }
}
