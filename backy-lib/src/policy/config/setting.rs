//! The settings that apply, each with its value and where that comes from.

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::Files;
use super::include::merged;
use super::keys::{KEYS, Key, SCHEDULE, TABLES};
use crate::base::report_path::ReportPath;

/// A setting that applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name with that of its table, as in a header: `schedule.daily.keep`.
    pub key: String,
    /// Its value, as it is written.
    pub value: SettingValue,
    /// Whether the value is only a part: arguments of hooks are left out, since they may be secret.
    pub is_shortened: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SettingValue {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
    /// A program and its arguments.
    List(Vec<String>),
}

/// Where a setting comes from; in JSON a file and a line, or `"default"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// A line of a file.
    File(FileLine),
    /// No file sets it.
    Default(DefaultWord),
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// The file.
    pub file: ReportPath,
    /// The line, counted from 1.
    pub line: usize,
}

/// The word `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultWord {
    /// No file sets it.
    Default,
}

/// What is left out of a value.
const LEFT_OUT: &str = "…";

/// The settings of several files, in the order of the manual page. Defaults only with `with_defaults`: without all
/// files, nobody knows whether a default applies.
pub(crate) fn settings(files: &Files, with_defaults: bool) -> Vec<Setting> {
    let Ok(all) = merged(files, 0) else { return Vec::new() };
    let lister = Lister { files, with_defaults };
    let mut settings = Vec::new();
    for table in &TABLES {
        let keys = || KEYS.iter().filter(|key| key.table == table.name);
        match table.name {
            "" => settings.extend(keys().filter_map(|key| lister.setting("", Some(&all), key))),
            SCHEDULE => {
                for (tag, inner) in inner(&all, "schedule").into_iter().flatten() {
                    let prefix = format!("schedule.{}.", quoted(tag.get_ref()));
                    let inner = inner.get_ref().as_table();
                    settings.extend(keys().filter_map(|key| lister.setting(&prefix, inner, key)));
                }
            }
            name => {
                let (prefix, inner) = (format!("{name}."), inner(&all, name));
                settings.extend(keys().filter_map(|key| lister.setting(&prefix, inner, key)));
            }
        }
    }
    settings
}

fn inner<'t, 'a>(table: &'t DeTable<'a>, name: &str) -> Option<&'t DeTable<'a>> {
    table.get(name)?.get_ref().as_table()
}

/// The name of a tag, as in a header.
fn quoted(tag: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match !tag.is_empty() && tag.chars().all(is_bare) {
        true => tag.to_owned(),
        false => super::toml_string(tag),
    }
}

struct Lister<'a> {
    files: &'a Files,
    with_defaults: bool,
}

impl Lister<'_> {
    fn setting(&self, prefix: &str, table: Option<&DeTable<'_>>, key: &Key) -> Option<Setting> {
        let name = format!("{prefix}{}", key.name);
        let Some((found, value)) = table.and_then(|table| table.get_key_value(key.name)) else {
            let default = key.default.filter(|_| self.with_defaults)?;
            let parsed = DeValue::parse(default).ok()?.into_inner();
            let (origin, value) = (Origin::Default(DefaultWord::Default), as_it_is(&parsed));
            return Some(Setting { key: name, value, is_shortened: false, origin });
        };
        let is_command = key.table == "hooks" && ["before", "after"].contains(&key.name);
        let (value, is_shortened) = match value.get_ref() {
            value if is_command => shortened(value),
            value if (key.table, key.name) == ("origin", "ssh") => (words(value), false),
            value => (as_it_is(value), false),
        };
        let place = self.files.place(found.span().start);
        let origin = Origin::File(FileLine { file: place.path.into(), line: place.line });
        Some(Setting { key: name, value, is_shortened, origin })
    }
}

/// The program of a hook. Its arguments may be secret, and so may be anything in its place that is not a hook.
fn shortened(value: &DeValue<'_>) -> (SettingValue, bool) {
    match value {
        DeValue::Array(words) => match words.iter().map(Spanned::get_ref).collect::<Vec<_>>()[..] {
            [] => (SettingValue::List(Vec::new()), false),
            [DeValue::String(program)] => (SettingValue::List(vec![program.to_string()]), false),
            [DeValue::String(program), ..] => {
                (SettingValue::List(vec![program.to_string(), LEFT_OUT.to_owned()]), true)
            }
            _ => (SettingValue::Text(LEFT_OUT.to_owned()), true),
        },
        DeValue::String(line) if line.trim().is_empty() => {
            (SettingValue::Text(line.to_string()), false)
        }
        _ => (SettingValue::Text(LEFT_OUT.to_owned()), true),
    }
}

/// A list of words.
fn words(value: &DeValue<'_>) -> SettingValue {
    let DeValue::Array(words) = value else { return as_it_is(value) };
    let words = words.iter().map(|word| match word.get_ref() {
        DeValue::String(word) => word.to_string(),
        _ => LEFT_OUT.to_owned(),
    });
    SettingValue::List(words.collect())
}

fn as_it_is(value: &DeValue<'_>) -> SettingValue {
    match value {
        DeValue::String(text) => SettingValue::Text(text.to_string()),
        DeValue::Boolean(flag) => SettingValue::Flag(*flag),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or_else(|_| SettingValue::Text(number.to_string()), SettingValue::Number)
        }
        DeValue::Float(number) => SettingValue::Text(number.to_string()),
        DeValue::Datetime(time) => SettingValue::Text(time.to_string()),
        // A mistake, which is reported as such.
        DeValue::Array(_) | DeValue::Table(_) => SettingValue::Text(LEFT_OUT.to_owned()),
    }
}
