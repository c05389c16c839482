//! `backy config`

use backy_lib::ConfigReport;
use backy_lib::escape;
use backy_lib::settings::{FileLine, Origin, Setting, SettingValue, config};

use crate::Session;
use crate::errors::Failure;
use crate::table;

/// Print the settings that apply, and where each comes from
///
/// Prints backy.toml together with the files that it includes, in the form of backy.toml: behind each setting stands
/// the file and line that sets it, or default. Settings that nothing sets are left out, and so are arguments of hooks,
/// which may be secret.
///
/// If the settings cannot be used, it prints what can be read, without defaults, and the problems; the exit status is 1
/// then.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    let report = config(&session.archive()?)?;
    match args.json {
        true => session.output.json(&report)?,
        false => session.output.result(describe(&report, table::width()).as_bytes())?,
    }
    let Some((first, others)) = report.errors.split_first() else { return Ok(()) };
    for error in others {
        session.output.warning(error);
    }
    Err(Failure::message(format!("{first}; 'backy man backy.toml' describes every key")))
}

/// Longer lines do not move the comments behind the others to the right.
const WIDEST_ALIGNED: usize = 44;

/// The settings in the form of a config, with a comment behind each.
fn describe(report: &ConfigReport, width: usize) -> String {
    let own = report.files.first().map_or("", |file| &file.file);
    let mut text = format!("# {}\n", escape::line(own));
    for file in report.files.iter().skip(1) {
        let by = file.included_by.as_ref().map_or_else(String::new, |line| place(line, own));
        text.push_str(&format!("# {by} includes {}\n", escape::line(&file.file)));
    }
    let lines: Vec<(&str, String, String)> =
        report.settings.iter().map(|setting| line(setting, own)).collect();
    let lengths = lines.iter().map(|(_, line, _)| line.chars().count());
    let aligned = lengths.filter(|length| *length <= WIDEST_ALIGNED).max().unwrap_or(0);
    let mut open = None;
    for (table, line, origin) in &lines {
        if open != Some(*table) {
            text.push('\n');
            if !table.is_empty() {
                text.push_str(&format!("[{}]\n", escape::line(table)));
            }
            open = Some(*table);
        }
        let comment = format!("# {origin}");
        let padded = format!("{line:<aligned$}  {comment}");
        match padded.chars().count() <= width {
            true => text.push_str(&padded),
            false => text.push_str(&format!("{line}\n  {comment}")),
        }
        text.push('\n');
    }
    text
}

/// The table of a setting, its line, and where it comes from.
fn line<'a>(setting: &'a Setting, own: &str) -> (&'a str, String, String) {
    let (table, name) = setting.key.rsplit_once('.').unwrap_or(("", &setting.key));
    let origin = match &setting.origin {
        Origin::File(line) => place(line, own),
        Origin::Default(_) => "default".to_owned(),
    };
    let value = value(&setting.value, setting.is_shortened);
    (table, escape::line(&format!("{name} = {value}")).into_owned(), origin)
}

/// A file, with a short name for the archive's own, and a line.
fn place(FileLine { file, line }: &FileLine, own: &str) -> String {
    let file: &str = if **file == *own { "backy.toml" } else { file };
    format!("{}:{line}", escape::line(file))
}

/// A value as TOML; what is left out is an ellipsis without quotation marks.
fn value(value: &SettingValue, is_shortened: bool) -> String {
    let text = |text: &str| match is_shortened && text == "…" {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    };
    match value {
        SettingValue::Flag(flag) => flag.to_string(),
        SettingValue::Number(number) => number.to_string(),
        SettingValue::Text(value) => text(value),
        SettingValue::List(words) => {
            let words: Vec<String> = words.iter().map(|word| text(word)).collect();
            format!("[{}]", words.join(", "))
        }
    }
}
