//! A connection to the monitor of a QEMU: one command at a time, each with its answer.
//!
//! Source: "QEMU Machine Protocol Specification", `docs/interop/qmp-spec.rst` of QEMU. What QEMU sends is bounded and
//! may be anything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::base::error::describe_io;
use crate::base::escape;
use crate::base::fork::Withheld;
use crate::source::nbd::open_unix;
use crate::source::scratch::Owner;

/// Longest message.
const MOST_BYTES: u64 = 16 << 20;

/// Until QEMU takes the connection and greets: it does so for one client at a time.
const TO_CONNECT: Duration = Duration::from_secs(10);

/// For the whole answer to a command. A backup point waits for what the guest has under way.
const TO_ANSWER: Duration = Duration::from_secs(2 * 60);

/// Characters of an error of QEMU that a message shows.
const MOST_SHOWN: usize = 500;

/// A connection on which QEMU takes commands.
pub(super) struct Monitor {
    stream: BufReader<Link>,
    path: PathBuf,
    asked: u64,
}

/// The socket. A forked child does not have it: QEMU would wait for its end before it takes another client.
struct Link(Withheld<UnixStream>);

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream: &UnixStream = &self.0;
        stream.read(buffer)
    }
}

/// What QEMU sends after its greeting.
#[derive(Deserialize)]
struct Message {
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Monitor {
    /// Connects and agrees on the capabilities, of which it needs none.
    ///
    /// # Errors
    /// A sentence: what was tried, what was found, and what to do.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let stream = open_unix(path, TO_CONNECT).map_err(|error| {
            let how = describe_io(&error);
            let path = path.display();
            match error.kind() {
                io::ErrorKind::PermissionDenied => format!("cannot connect to {path}: {how}"),
                _ => format!(
                    "no QEMU listens at {path}: {how}; does the virtual machine run? While it does not, its image can \
                     be backed up with source = \"qcow2:PATH\""
                ),
            }
        })?;
        stream
            .set_write_timeout(Some(TO_CONNECT))
            .map_err(|error| format!("{}: {}", path.display(), describe_io(&error)))?;
        let mut monitor = Monitor {
            stream: BufReader::new(Link(Withheld::new(stream))),
            path: path.to_owned(),
            asked: 0,
        };
        let greeting: Value = monitor.line(Instant::now() + TO_CONNECT).map_err(|why| {
            format!("{}: no greeting of QEMU: {why}; is another program connected?", path.display())
        })?;
        if greeting.get("QMP").is_none() {
            return Err(format!(
                "{}: found something else than QEMU's monitor, expected one that speaks QMP",
                path.display()
            ));
        }
        monitor.run("qmp_capabilities", Value::Null)?;
        Ok(monitor)
    }

    /// Who runs QEMU.
    pub(super) fn owner(&self) -> io::Result<Owner> {
        let found = socket_peercred(&*self.stream.get_ref().0)?;
        Ok(Owner { user: found.uid.as_raw(), group: found.gid.as_raw() })
    }

    /// Runs a command; `arguments` is an object, or null for none.
    ///
    /// # Errors
    /// A sentence: what QEMU says, or why there is no answer.
    pub(super) fn run(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        self.asked += 1;
        let id = self.asked;
        let mut message = json!({ "execute": command, "id": id });
        if let (Value::Object(message), false) = (&mut message, arguments.is_null()) {
            message.insert("arguments".to_owned(), arguments);
        }
        let broken = |path: &Path, why: String| {
            format!("{}: no answer of QEMU to '{command}': {why}", path.display())
        };
        let mut line = message.to_string();
        line.push('\n');
        let mut stream: &UnixStream = &self.stream.get_ref().0;
        let sent = stream.write_all(line.as_bytes());
        sent.map_err(|error| broken(&self.path, describe_io(&error)))?;
        let until = Instant::now() + TO_ANSWER;
        loop {
            // Events, and answers that nobody waited for, come in between.
            let message: Message = self.line(until).map_err(|why| broken(&self.path, why))?;
            match message {
                Message { error: Some(refusal), .. } => {
                    return Err(format!("QEMU refuses '{command}': {}", shown(&refusal.desc)));
                }
                Message { id: Some(found), returned: Some(value), .. } if found == id => {
                    return Ok(value);
                }
                _ => {}
            }
        }
    }

    /// As [`Monitor::run`], with an answer of a known form.
    pub(super) fn ask<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<T, String> {
        let value = self.run(command, arguments)?;
        serde_json::from_value(value)
            .map_err(|error| format!("QEMU answers '{command}' with something else: {error}"))
    }

    fn line<T: DeserializeOwned>(&mut self, until: Instant) -> Result<T, String> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("not in time".to_owned());
            }
            let limited = self.stream.get_ref().0.set_read_timeout(Some(left));
            limited.map_err(|error| describe_io(&error))?;
            let room = MOST_BYTES.saturating_sub(line.len() as u64);
            match self.stream.by_ref().take(room).read_until(b'\n', &mut line) {
                Ok(0) if room == 0 => return Err(format!("it is longer than {MOST_BYTES} bytes")),
                Ok(0) => return Err("the connection has ended".to_owned()),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                        return Err("not in time".to_owned());
                    }
                    _ => return Err(describe_io(&error)),
                },
            }
        }
        serde_json::from_slice(&line).map_err(|error| format!("it is no message: {error}"))
    }
}

/// Words of QEMU, on one line.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(MOST_SHOWN).collect();
    escape::line(short.trim()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";

    /// Greets with `greeting`, and answers each line with the next of `answers`; then it ends the connection.
    fn asked(greeting: &'static str, answers: &[&str]) -> (Result<Value, String>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let qemu = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting.as_bytes()).unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut heard = String::new();
            for answer in answers {
                heard = lines.next().unwrap().unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        let answer =
            Monitor::open(&path).and_then(|mut monitor| monitor.run("query-x", json!({"a": 1})));
        (answer, qemu.join().unwrap())
    }

    /// Events are passed over, and so are answers to something else; an error of QEMU is shown on one line.
    #[test]
    fn answers_are_told_from_events() {
        const AGREED: &str = "{\"return\": {}, \"id\": 1}\n";
        let event = "{\"event\": \"RESUME\", \"data\": {}}\n{\"return\": 7, \"id\": 9}\n\
                     {\"return\": [5], \"id\": 2}\n";
        let (answer, heard) = asked(GREETING, &[AGREED, event]);
        assert_eq!(answer, Ok(json!([5])));
        let heard: Value = serde_json::from_str(&heard).unwrap();
        assert_eq!(heard, json!({"execute": "query-x", "id": 2, "arguments": {"a": 1}}));
        let refused = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\\nsuch\"}}\n";
        let (answer, _) = asked(GREETING, &[AGREED, refused]);
        let expected = format!("QEMU refuses 'query-x': {}", escape::line("no\nsuch"));
        assert_eq!(answer, Err(expected));
    }

    /// Whatever is sent instead is an error that says so.
    #[test]
    fn anything_else_is_an_error() {
        const AGREED: &str = "{\"return\": {}, \"id\": 1}\n";
        let cases: [(&'static str, &[&str], &str); 6] = [
            ("{\"VNC\": 1}\n", &[], "expected one that speaks QMP"),
            ("RFB 003.008\n", &[], "no greeting"),
            ("", &[], "no greeting"),
            (GREETING, &[""], "no answer of QEMU to 'qmp_capabilities': the connection has ended"),
            (GREETING, &[AGREED, "{\"return\": "], "no answer of QEMU to 'query-x'"),
            (GREETING, &[AGREED, "[]\n"], "it is no message"),
        ];
        for (greeting, answers, part) in cases {
            let (answer, _) = asked(greeting, answers);
            let error = answer.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let none = Monitor::open(Path::new("/nonexistent/qmp")).map(drop).unwrap_err();
        assert!(none.contains("does the virtual machine run?"), "{none}");
    }
}
