//! `[origin]`: the archive from which a copy takes over revisions.
//!
//! Without `url` there is no origin: an included file may set the other keys for several copies.

use std::path::Path;

use jiff::SignedDuration;
use serde::Deserialize;
use toml::Spanned;

use super::{Flaw, flaw, parse_time};
use crate::base::escape;
use crate::base::units::parse_size;

/// How often a pull is due, unless `interval` is set.
const DEFAULT_INTERVAL: SignedDuration = SignedDuration::from_hours(24);

/// The beginning of the URL of an archive on another host.
const SSH: &str = "ssh://";

/// The origin of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginConfig {
    /// Its absolute path, or its URL on another host.
    pub url: String,
    /// How often a pull is due.
    pub interval: SignedDuration,
    /// The program that connects to another host, with its arguments; `None` for `ssh`.
    pub ssh: Option<Vec<String>>,
    /// The most bytes per second that a pull reads from the origin.
    pub limit_rate: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "a section [origin] with url")]
pub(super) struct RawOrigin {
    url: Option<Spanned<String>>,
    interval: Option<Spanned<String>>,
    ssh: Option<Spanned<Vec<String>>>,
    limit_rate: Option<Spanned<String>>,
}

pub(super) fn check(
    raw: RawOrigin,
    source: Option<&Spanned<String>>,
) -> Result<Option<OriginConfig>, Flaw> {
    let interval = raw
        .interval
        .map(|text| parse_time("interval", text.get_ref()).map_err(|message| flaw(&text, message)));
    let interval = interval.transpose()?.unwrap_or(DEFAULT_INTERVAL);
    let ssh = raw.ssh.map(check_ssh).transpose()?;
    let limit_rate = raw.limit_rate.map(check_rate).transpose()?;
    let Some(url) = raw.url else { return Ok(None) };
    check_url("url", url.get_ref()).map_err(|message| flaw(&url, message))?;
    if source.is_some() {
        let message = "url: this archive also has a source; expected one of them, since a copy has only what its \
                       origin has";
        return Err(flaw(&url, message.to_owned()));
    }
    Ok(Some(OriginConfig { url: url.into_inner(), interval, ssh, limit_rate }))
}

/// Checks the value of `key`, the place of an origin, as far as that goes without looking for it.
pub(crate) fn check_url(key: &str, url: &str) -> Result<(), String> {
    let is_host = url.strip_prefix(SSH).is_some_and(|rest| !rest.is_empty());
    match (is_host || Path::new(url).is_absolute()) && !url.chars().any(escape::is_unsafe) {
        true => Ok(()),
        false => Err(format!(
            "{key}: found {url:?}, expected \"ssh://HOST/PATH\" or an absolute path, since cron and you start in \
             different folders"
        )),
    }
}

fn check_ssh(words: Spanned<Vec<String>>) -> Result<Vec<String>, Flaw> {
    match words.get_ref().first().is_some_and(|program| !program.is_empty()) {
        true => Ok(words.into_inner()),
        false => {
            let message =
                "ssh: found no program, expected one with its arguments, like [\"ssh\", \"-4\"]";
            Err(flaw(&words, message.to_owned()))
        }
    }
}

fn check_rate(text: Spanned<String>) -> Result<u64, Flaw> {
    let found = text.get_ref();
    let rate = parse_size(found).ok().filter(|rate| *rate > 0);
    rate.ok_or_else(|| {
        flaw(&text, format!("limit_rate: found {found:?}, expected bytes per second, like \"20M\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::Config;

    fn parse(text: &str) -> Result<Option<OriginConfig>, String> {
        let config = Config::parse(text, Path::new("x")).map_err(|error| error.to_string())?;
        Ok(config.origin)
    }

    #[test]
    fn an_origin_has_a_url_and_may_have_more() {
        let all = "[origin]\nurl = \"ssh://me@host:23/srv/a\"\ninterval = \"6h\"\nssh = [\"ssh\", \"-4\"]\n\
                   limit_rate = \"20M\"";
        let expected = OriginConfig {
            url: "ssh://me@host:23/srv/a".to_owned(),
            interval: SignedDuration::from_hours(6),
            ssh: Some(vec!["ssh".to_owned(), "-4".to_owned()]),
            limit_rate: Some(20 << 20),
        };
        assert_eq!(parse(all), Ok(Some(expected)));
        let plain = parse("[origin]\nurl = \"/srv/a\"").unwrap().unwrap();
        assert_eq!((plain.interval, plain.ssh), (DEFAULT_INTERVAL, None));
        // As for a file that many copies include.
        assert_eq!(parse("source = \"/a\"\n[origin]\ninterval = \"6h\""), Ok(None));
    }

    #[test]
    fn wrong_values_are_named() {
        for (text, word) in [
            ("[origin]\nurl = \"a\"", "absolute path"),
            ("[origin]\nurl = \"\"", "absolute path"),
            ("[origin]\nurl = \"ssh://\"", "absolute path"),
            ("[origin]\nurl = \"/a\\u001B\"", "absolute path"),
            ("[origin]\ninterval = \"6\"", "interval"),
            ("[origin]\nssh = []", "no program"),
            ("[origin]\nlimit_rate = \"0\"", "bytes per second"),
            ("source = \"/a\"\n[origin]\nurl = \"/b\"", "also has a source"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
