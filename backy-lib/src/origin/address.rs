//! Where another archive is: a folder here, or a folder that ssh reaches.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::base::error::{Error, Result};

/// Where another archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A folder that ssh reaches.
    Ssh(SshAddress),
}

/// A folder that ssh reaches: `ssh://[user@]host[:port]/path`. What it says is taken as it is, without `%` escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshAddress {
    /// The user there, if not the one that ssh takes by itself.
    pub user: Option<String>,
    /// The host, or its name in the config of ssh.
    pub host: String,
    /// The port, if not the one that ssh takes by itself.
    pub port: Option<u16>,
    /// The folder there, absolute.
    pub path: String,
}

const SCHEME: &str = "ssh://";

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.contains('\0') {
            return Err(wrong(text, "expected a folder or ssh://HOST/PATH"));
        }
        if let Some(rest) = text.strip_prefix(SCHEME) {
            return parse_ssh(text, rest).map(Address::Ssh);
        }
        let first = text.split('/').next().unwrap_or_default();
        match first.split_once(':') {
            None => Ok(Address::Folder(PathBuf::from(text))),
            Some((_, "")) if text.contains("://") => {
                Err(wrong(text, "expected a folder or ssh://HOST/PATH"))
            }
            // As scp and rsync have it.
            Some((host, _)) => {
                let path = text.get(host.len() + 1..).unwrap_or_default();
                let path = path.trim_start_matches('/');
                let expected = format!(
                    "for a folder on another machine, use ssh://{host}/{path}; for one here, ./{text}"
                );
                Err(wrong(text, &expected))
            }
        }
    }
}

fn parse_ssh(text: &str, rest: &str) -> Result<SshAddress> {
    let expected = "expected ssh://[USER@]HOST[:PORT]/PATH";
    let (place, _) = rest.split_once('/').ok_or_else(|| wrong(text, expected))?;
    let path = rest.get(place.len()..).unwrap_or_default().to_owned();
    let (user, host) = match place.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, place),
    };
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, after)) => (host, Some(after.strip_prefix(':').unwrap_or("none"))),
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let is_port = |port: &u16| *port > 0;
    let port =
        port.map(|port| port.parse().ok().filter(is_port).ok_or_else(|| wrong(text, expected)));
    // ssh would take a word that begins with '-' for an option, whatever comes before it.
    let is_word = |word: &str| {
        let allowed = |c: char| c.is_alphanumeric() || "._-:%+@\\".contains(c);
        !word.is_empty() && !word.starts_with('-') && word.chars().all(allowed)
    };
    if !is_word(host) || user.is_some_and(|user| !is_word(user)) {
        return Err(wrong(text, expected));
    }
    let (user, host) = (user.map(str::to_owned), host.to_owned());
    Ok(SshAddress { user, host, port: port.transpose()?, path })
}

fn wrong(text: &str, expected: &str) -> Error {
    Error::Specification { message: format!("'{}': {expected}", text.escape_debug()) }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Folder(path) => path.display().fmt(f),
            Address::Ssh(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

impl Address {
    /// The folder, if it is one of this machine.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Address::Folder(path) => Some(path),
            Address::Ssh(_) => None,
        }
    }
}

impl SshAddress {
    /// The arguments of ssh: options, the host, and the command there, which is one word for each of its words.
    pub(super) fn arguments(&self, batch: bool, command: &[&str]) -> Vec<String> {
        let mut words = vec!["-T".to_owned()];
        if batch {
            words.push("-oBatchMode=yes".to_owned());
        }
        if let Some(port) = self.port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        words.push("--".to_owned());
        words.push(match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        });
        words.extend(command.iter().map(|word| quoted(word)));
        words
    }
}

/// A word for the shell on the other side.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The words of a command as a person writes them: separated by spaces, with quotes around what has some.
///
/// # Errors
/// [`Error::Specification`] if there is no word, or a quote does not end.
pub fn split_words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word): (Vec<String>, Option<String>) = (Vec::new(), None);
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() || words.first().is_none_or(String::is_empty) {
        return Err(wrong(text, "expected a command, such as 'ssh -i KEY'"));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(text: &str) -> SshAddress {
        match text.parse() {
            Ok(Address::Ssh(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_address_is_a_folder_or_a_url_of_ssh() {
        for text in ["/srv/a", "a", "./a:b", "../x", "/a:b/c", "a/b:c", "~/x"] {
            let found: Address = text.parse().unwrap();
            assert_eq!(found.folder(), Some(Path::new(text)));
        }
        let all = ssh("ssh://me@host.example:2222/srv/with space/x");
        assert_eq!((all.user.as_deref(), all.port), (Some("me"), Some(2222)));
        assert_eq!((all.host.as_str(), all.path.as_str()), ("host.example", "/srv/with space/x"));
        assert_eq!(ssh("ssh://[fe80::1%eth0]:22/x").host, "fe80::1%eth0");
        for text in ["ssh://h/", "ssh://u@h:22/a", "ssh://[::1]/a", "ssh://[::1]:5/a b'c"] {
            assert_eq!(ssh(text).to_string(), text);
        }
    }

    /// A word that ssh would take for an option, and what somebody writes who thinks of scp, are refused with the form
    /// that is expected.
    #[test]
    fn other_addresses_are_refused_with_the_expected_form() {
        for text in [
            "",
            "ssh://",
            "ssh://host",
            "ssh:///x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-x@host/y",
            "ssh://a@-h/y",
            "ssh://h:0/x",
            "ssh://h:70000/x",
            "ssh://h:x/y",
            "ssh://h i/x",
            "ssh://h;i/x",
            "ssh://h\n/x",
            "ssh://[::1]x/y",
            "http://host/x",
            "host:/srv/x",
            "me@host:x",
            "a\0b",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("ssh://") && !error.contains('\n'), "{error}");
        }
        let error = "host:/srv/x".parse::<Address>().unwrap_err().to_string();
        assert!(error.contains("ssh://host/srv/x") && error.contains("./host:/srv/x"), "{error}");
    }

    /// The shell on the other side makes of the words what they were.
    #[test]
    fn words_reach_the_other_side_as_they_are() {
        for path in ["/srv/a", "/a b", "/it's", "/$(reboot)`x`", "/a\\b\"c", "/ü*?", "/;&|<>"] {
            let address = SshAddress { path: path.to_owned(), ..ssh("ssh://h/x") };
            let words = address.arguments(true, &["printf", "%s", &address.path]);
            assert_eq!(words[..4], ["-T", "-oBatchMode=yes", "--", "h"]);
            let shell =
                std::process::Command::new("sh").arg("-c").arg(words[4..].join(" ")).output();
            assert_eq!(String::from_utf8(shell.unwrap().stdout).unwrap(), path);
        }
        let words = ssh("ssh://me@h:7/x").arguments(false, &["backy"]);
        assert_eq!(words, ["-T", "-p", "7", "--", "me@h", "backy"]);
    }

    #[test]
    fn a_command_is_split_into_words() {
        assert_eq!(
            split_words(" ssh  -i 'a key' \"b c\"d ''").unwrap(),
            ["ssh", "-i", "a key", "b cd", ""]
        );
        for bad in ["", "  ", "ssh 'x", "'' ssh"] {
            assert!(split_words(bad).is_err(), "{bad}");
        }
    }
}
