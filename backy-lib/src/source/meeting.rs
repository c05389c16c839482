//! Backups that meet: each disk of a virtual machine is backed up in a process of its own, and all of them are read as
//! they were at one backup point.
//!
//! The run that starts the processes is in the middle: each has a connection to it, over which both write lines in
//! JSON. A process says when its disk is ready. When all are, one of them begins the point for all. Then they read, one
//! after the other, and the last one ends the point. `fleet/meeting.rs` has the other side.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::error::describe_io;
use crate::base::mark::MarkName;
use crate::source::scratch::Folder;

/// A longer line is none.
const MOST_LINE_BYTES: u64 = 1 << 20;

/// A disk that is ready: nothing else than the point is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Participant {
    /// What the machine calls it.
    pub target: String,
    /// The revision that is made of it.
    pub name: MarkName,
    /// Whether a mark is wanted.
    pub is_marked: bool,
    /// Report what has been written since this mark.
    pub since: Option<MarkName>,
    /// The configured folder for scratch files.
    pub scratch: PathBuf,
    /// Whether the file systems of the guest are to be frozen for the moment of the point.
    pub freezes: bool,
}

impl Participant {
    /// The folder of its scratch file.
    pub(super) fn folder(&self) -> Folder {
        Folder::of(&self.scratch, self.name)
    }
}

/// A point that has begun for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// Who began it: the disks are served in its folder.
    pub by: Participant,
    /// Why it is not known what has been written since the earlier marks.
    pub doubt: Option<String>,
    /// The disks that have no mark, and why.
    pub unmarked: BTreeMap<MarkName, String>,
}

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Word {
    /// Its disk is ready; or it takes no part in a point, and only waits until it may read.
    Arrived(Option<Participant>),
    /// It has begun the point, and reads.
    Begun(Begun),
    /// It could not begin the point.
    Failed(String),
    /// It does not need the point any more.
    Left,
}

/// What the run replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// Begin a point for all these; one of them is your own.
    Begin(Vec<Participant>),
    /// The point has begun.
    Begun(Begun),
    /// There is none for all. Your turn comes later, with a point of your own.
    Apart,
    /// Read now.
    Turn,
}

/// What comes of arriving.
pub(super) enum Came {
    /// There is no point for all; it is not one's turn yet.
    Apart,
    /// To begin a point for these.
    Begin(Vec<Participant>),
    /// There is a point; it is not one's turn yet.
    Begun(Begun),
}

/// The connection of a process to the run that started it, for a backup that meets others.
#[derive(Debug, Clone)]
pub struct Meeting(Arc<Mutex<BufReader<UnixStream>>>);

impl Meeting {
    /// Over the connection that the run has given to this process.
    pub fn over(stream: UnixStream) -> Self {
        Meeting(Arc::new(Mutex::new(BufReader::new(stream))))
    }

    /// Says that all is ready but the point, and waits for the others.
    ///
    /// # Errors
    /// A sentence, if the run has ended.
    pub(super) fn arrive(&self, participant: Participant) -> Result<Came, String> {
        self.say(&Word::Arrived(Some(participant)))?;
        match self.hear()? {
            Reply::Apart => Ok(Came::Apart),
            Reply::Begin(all) => Ok(Came::Begin(all)),
            Reply::Begun(begun) => Ok(Came::Begun(begun)),
            other => Err(unexpected(&other)),
        }
    }

    /// Without a part in a point: waits for one's turn to read.
    pub(super) fn arrive_apart(&self) -> Result<(), String> {
        self.say(&Word::Arrived(None))?;
        self.wait()
    }

    /// Says that the point has begun for all.
    pub(super) fn begun(&self, begun: &Begun) -> Result<(), String> {
        self.say(&Word::Begun(begun.clone()))
    }

    /// Says that there is none.
    pub(super) fn failed(&self, why: String) -> Result<(), String> {
        self.say(&Word::Failed(why))
    }

    /// Waits for one's turn to read.
    pub(super) fn wait(&self) -> Result<(), String> {
        match self.hear()? {
            Reply::Turn => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Says that this process does not need the point any more.
    pub(super) fn leave(&self) {
        // A run that has ended need not know.
        let _ = self.say(&Word::Left);
    }

    fn say(&self, word: &Word) -> Result<(), String> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write(stream.get_ref(), word).map_err(|error| ended(&error))
    }

    fn hear(&self) -> Result<Reply, String> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = read(&mut stream).map_err(|error| ended(&error))?;
        reply.ok_or_else(|| "the run that started this backup has stopped".to_owned())
    }
}

fn ended(error: &std::io::Error) -> String {
    format!("cannot talk to the run that started this backup: {}", describe_io(error))
}

fn unexpected(reply: &Reply) -> String {
    format!("the run that started this backup says something that it should not say now: {reply:?}")
}

/// Writes a line.
pub(crate) fn write(mut stream: &UnixStream, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    stream.write_all(&text)
}

/// Reads a line; `None` at the end.
pub(crate) fn read<T: DeserializeOwned>(
    stream: &mut BufReader<UnixStream>,
) -> std::io::Result<Option<T>> {
    let mut line = Vec::new();
    stream.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
