//! How a connection begins and ends: who calls, for which archive, in which version; and what came of it.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::frame::{FrameReader, FrameWriter, Kind, broken};
use super::message::{NO_REQUEST, Reason};
use super::{Patience, VERSIONS};
use crate::base::error::{Error, Result};
use crate::base::revision::RevisionId;

/// The most versions that a caller may offer.
const MOST_VERSIONS: usize = 64;

/// What the caller does after the hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It asks: a pull.
    Ask,
    /// It answers: a push.
    Answer,
}

/// What the caller of a push wishes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Push {
    /// The revisions to pull, by their names; without them, those that the schedule of the copy keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<Vec<RevisionId>>,
    /// Whether to plan only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// How long to wait while somebody else changes the copy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wait_seconds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The first message of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions of the protocol that it knows.
    pub versions: Vec<u32>,
    /// What it does.
    pub role: Role,
    /// The archive, below the folder that is served.
    pub archive: String,
    /// What calls, for messages.
    pub program: String,
    /// What it wishes of a push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
}

#[derive(Serialize, Deserialize)]
struct Welcome {
    version: u32,
    program: String,
}

/// How a push ended on the side that pulled.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct End {
    /// The report of the pull, as JSON; none at the end of a pull by the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<Box<serde_json::value::RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<Reason>,
}

/// Begins a connection as the caller, and returns once the other side has agreed.
///
/// # Errors
/// [`Error::Origin`] if what is there is no backy or knows no common version; the error that it reports if it refuses.
pub fn call<R: Read, W: Write>(
    streams: (R, W),
    name: &str,
    hello: &Hello,
    patience: Patience,
) -> Result<Connection<R, W>> {
    let mut writer = FrameWriter::new(streams.1, name, patience);
    let mut reader = FrameReader::new(streams.0, name, patience);
    let payload = serde_json::to_vec(hello).unwrap_or_default();
    let sent = writer.magic().and_then(|()| writer.write(Kind::Hello, &payload));
    writer.or_answered(sent)?;
    reader.magic()?;
    match reader.expect("a welcome")? {
        (Kind::Welcome, payload) => {
            let welcome = serde_json::from_slice::<Welcome>(payload);
            let version = welcome.map(|welcome| welcome.version).ok();
            if version.is_none_or(|version| !hello.versions.contains(&version)) {
                let found = format!("version {version:?} of the protocol");
                return Err(reader.wrong(found, format!("one of {:?}", hello.versions)));
            }
        }
        (Kind::Error, payload) => {
            let read = Reason::read(payload).map(|(_, reason)| reason.into_error(name));
            return Err(read.unwrap_or_else(|found| reader.wrong(found, "an error")));
        }
        (kind, _) => return Err(reader.wrong(format!("'{}'", kind.name()), "'welcome'")),
    }
    Ok(Connection { reader, writer })
}

/// A connection on which the caller and the called have agreed.
pub struct Connection<R, W> {
    pub(super) reader: FrameReader<R>,
    pub(super) writer: FrameWriter<W>,
}

/// A call that has been heard and not yet accepted or refused.
pub(super) struct Call<R, W> {
    connection: Connection<R, W>,
    version: u32,
    program: String,
}

/// Takes a call: reads the hello.
pub(super) fn listen<R: Read, W: Write>(
    streams: (R, W),
    program: &str,
    patience: Patience,
) -> Result<(Hello, Call<R, W>)> {
    let name = "the caller";
    let mut writer = FrameWriter::new(streams.1, name, patience);
    let mut reader = FrameReader::new(streams.0, name, patience);
    writer.magic()?;
    let hello = read_hello(&mut reader);
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) => return Err(refuse(&mut writer, error)),
    };
    let known = |version: &u32| hello.versions.contains(version);
    let Some(version) = VERSIONS.into_iter().rev().find(known) else {
        let found = format!("{:?} of the protocol ({})", hello.versions, clean(&hello.program));
        let error = format!("found versions {found}, expected one of {VERSIONS:?}");
        return Err(refuse(&mut writer, broken(name, error)));
    };
    let connection = Connection { reader, writer };
    Ok((hello, Call { connection, version, program: program.to_owned() }))
}

fn read_hello<R: Read>(reader: &mut FrameReader<R>) -> Result<Hello> {
    reader.magic()?;
    let (kind, _) = reader.expect("a hello")?;
    if kind != Kind::Hello {
        return Err(reader.wrong(format!("'{}'", kind.name()), "'hello'"));
    }
    let hello = serde_json::from_slice::<Hello>(reader.payload());
    let hello = hello.map_err(|error| reader.wrong(format!("a hello with {error}"), "a hello"))?;
    if hello.versions.len() > MOST_VERSIONS {
        let found = format!("{} versions", hello.versions.len());
        return Err(reader.wrong(found, format!("at most {MOST_VERSIONS}")));
    }
    Ok(hello)
}

impl<R: Read, W: Write> Call<R, W> {
    pub(super) fn accept(mut self) -> Result<Connection<R, W>> {
        let welcome = Welcome { version: self.version, program: self.program };
        let payload = serde_json::to_vec(&welcome).unwrap_or_default();
        self.connection.writer.write(Kind::Welcome, &payload)?;
        Ok(self.connection)
    }

    /// Refuses the call with this error, and returns it.
    pub(super) fn refuse(mut self, error: Error) -> Error {
        refuse(&mut self.connection.writer, error)
    }
}

fn refuse<W: Write>(writer: &mut FrameWriter<W>, error: Error) -> Error {
    // It may be the connection itself that fails.
    let _ = writer.write(Kind::Error, &Reason::of(&error).payload(NO_REQUEST));
    error
}

/// What another program calls itself, short enough for a message.
fn clean(program: &str) -> String {
    program.chars().take(100).collect()
}
