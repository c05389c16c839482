//! What a hint program is asked: one run for each request, which is one line of JSON on its standard input.

use std::fs::File;
use std::io::{PipeReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;

use super::answer::{self, Known, Made, VERSION};
use crate::base::error::{Error, describe_io};
use crate::base::escape;
use crate::base::mark::{ArchiveId, MarkName};
use crate::format::manifest::Bookmark;
use crate::policy::config::HookCommand;
use crate::source::program::{Failed, Misread, prepared, quoted, run_reading};

/// How long a request may take.
const WITHIN: Duration = Duration::from_secs(5 * 60);

/// How long a request may take whose answer has extents.
const EXTENTS_WITHIN: Duration = Duration::from_secs(60 * 60);

type Answer<T> = std::result::Result<T, String>;

/// A program, and the source that it is asked about.
#[derive(Debug, Clone)]
pub(super) struct HintProgram {
    pub command: HookCommand,
    pub source: PathBuf,
}

#[derive(Serialize)]
struct Request<'r> {
    version: u64,
    source: String,
    #[serde(flatten)]
    question: Question<'r>,
}

#[derive(Serialize)]
#[serde(tag = "request", rename_all = "snake_case")]
enum Question<'r> {
    Identity,
    Mark { name: String, archive: String, revision: String },
    ChangedExtents { name: String, since: Since<'r> },
    Holes { name: String },
    Settle { archive: String, keep: Option<String> },
}

#[derive(Serialize)]
struct Since<'r> {
    name: String,
    id: &'r str,
}

impl HintProgram {
    pub(super) fn identity(&self) -> Answer<String> {
        self.ask(Question::Identity, WITHIN, answer::identity)
    }

    pub(super) fn mark(&self, name: MarkName) -> Answer<Made> {
        let (archive, revision) = (name.archive.to_string(), name.revision.to_string());
        let name = name.to_string();
        self.ask(Question::Mark { name, archive, revision }, WITHIN, answer::made)
    }

    /// What has changed between two marks of a source of this size.
    pub(super) fn changed_extents(
        &self,
        name: MarkName,
        (since, bookmark): (MarkName, &Bookmark),
        size_bytes: u64,
    ) -> Answer<Known> {
        let since = Since { name: since.to_string(), id: &bookmark.id };
        let question = Question::ChangedExtents { name: name.to_string(), since };
        let read = move |printed| answer::changed(printed, size_bytes);
        self.ask(question, EXTENTS_WITHIN, read)
    }

    /// Where a source of this size may have data at a mark.
    pub(super) fn data(&self, name: MarkName, size_bytes: u64) -> Answer<Known> {
        let read = move |printed| answer::data(printed, size_bytes);
        self.ask(Question::Holes { name: name.to_string() }, EXTENTS_WITHIN, read)
    }

    pub(super) fn settle(&self, archive: ArchiveId, keep: Option<MarkName>) -> Answer<()> {
        let (archive, keep) = (archive.to_string(), keep.map(|keep| keep.to_string()));
        self.ask(Question::Settle { archive, keep }, WITHIN, answer::nothing)
    }

    pub(super) fn error(&self, why: &str) -> Error {
        let message = escape::line(why).into_owned();
        Error::Source { path: self.source.clone(), message }
    }

    fn ask<T: Send + 'static>(
        &self,
        question: Question<'_>,
        within: Duration,
        read: impl FnOnce(PipeReader) -> std::result::Result<T, Misread> + Send + 'static,
    ) -> Answer<T> {
        let program = self.command.program();
        let not_run =
            |error: std::io::Error| format!("cannot run '{program}': {}", describe_io(&error));
        let request = line(&self.source, question).map_err(|error| not_run(error.into()))?;
        let input = in_memory(&request).map_err(not_run)?;
        let arguments = self.command.words().get(1..).unwrap_or_default();
        let mut command = prepared(program, arguments);
        command.stdin(Stdio::from(input));
        let found = run_reading(command, within, read);
        found.map_err(|failed| match failed {
            Failed::Unstarted(error) => not_run(error),
            Failed::Misread(why) => {
                format!("'{program}' printed something else than expected: {why}")
            }
            Failed::Ended { how, said } => {
                let said: Vec<String> =
                    said.iter().map(|line| self.command.without_values(line)).collect();
                format!("'{program}' {how}{}", quoted(&said))
            }
        })
    }
}

fn line(source: &Path, question: Question<'_>) -> serde_json::Result<Vec<u8>> {
    let source = source.to_string_lossy().into_owned();
    let mut line = serde_json::to_vec(&Request { version: VERSION, source, question })?;
    line.push(b'\n');
    Ok(line)
}

/// A file to read from that nobody has to write to while the program runs.
fn in_memory(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("request", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::base::revision::RevisionId;

    /// A program gets the request, and one that hangs is ended in time with what it has started.
    #[test]
    fn a_program_is_asked_within_its_time() {
        let program = |line: &str| HintProgram {
            command: HookCommand::of_line(line),
            source: PathBuf::from("/dev/a"),
        };
        let minute = Duration::from_secs(60);
        let echo = "read -r line; echo '{\"version\": 1}'; echo \"{\\\"identity\\\": \\\"${#line}\\\"}\"; \
                    echo '{\"done\": true}'";
        let found = program(echo).ask(Question::Identity, minute, answer::identity);
        let length = line(Path::new("/dev/a"), Question::Identity).unwrap().len() - 1;
        assert_eq!(found, Ok(length.to_string()));
        let began = std::time::Instant::now();
        let hanging = program("echo '{\"version\": 1}'; echo waiting >&2; sleep 60 & sleep 60");
        let late = hanging.ask(Question::Identity, Duration::from_millis(300), answer::identity);
        let expected = "'/bin/sh' did not end within 0.3 s and was stopped: waiting";
        assert_eq!(late, Err(expected.to_owned()));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    /// A request is one line with its version, the source, and what it asks for.
    #[test]
    fn requests_are_one_line() {
        let time = Timestamp::from_second(1).unwrap();
        let name = MarkName { archive: ArchiveId::new(time), revision: RevisionId::new(time) };
        let text = name.to_string();
        let since = Since { name: text.clone(), id: "a\nb" };
        let of =
            |question| String::from_utf8(line(Path::new("/dev/a b"), question).unwrap()).unwrap();
        assert_eq!(
            of(Question::Identity),
            "{\"version\":1,\"source\":\"/dev/a b\",\"request\":\"identity\"}\n"
        );
        let changed = of(Question::ChangedExtents { name: text.clone(), since });
        assert!(changed.contains("\"request\":\"changed_extents\""), "{changed}");
        let expected = format!("\"since\":{{\"name\":\"{text}\",\"id\":\"a\\nb\"}}}}\n");
        assert!(changed.ends_with(&expected), "{changed}");
        let settle = of(Question::Settle { archive: name.archive.to_string(), keep: None });
        assert!(settle.ends_with("\"keep\":null}\n"), "{settle}");
    }
}
