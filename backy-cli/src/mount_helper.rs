//! Calls by `mount(8)`, from a line of `/etc/fstab` or a systemd mount.
//!
//! There are two forms. `mount.fuse`, of the package fuse3, runs `backy ARCHIVE MOUNTPOINT -o OPTIONS`: an archive is
//! given with its whole path, so its '/' distinguishes it from a command. Where there is a link
//! `/sbin/mount.fuse.backy` to backy, `mount` runs that, as
//! `mount.fuse.backy ARCHIVE MOUNTPOINT [-sfnv] [-o OPTIONS]`. Both become the arguments of `backy mount`, and the
//! rest of the command knows only these.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The required name of the link.
const HELPER: &str = "mount.fuse.backy";

/// What `mount` itself acts on, or what does not matter for files that only backy can make. `rw` is the default of
/// `mount`.
const WITHOUT_EFFECT: [&str; 35] = [
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "defaults",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "dirsync",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "nomand",
];

/// The permitted options of `backy mount`.
const FLAGS: [&str; 2] = ["allow_other", "writable"];
const VALUES: [&str; 5] = ["cache", "log", "log_format", "dir", "gid"];

/// The arguments of this process as those of `backy`. Nothing when `mount` needs no action.
///
/// # Errors
/// One line about the mistake in the arguments.
pub(crate) fn translate(args: Vec<OsString>) -> Result<Option<Vec<OsString>>, String> {
    let name = args.first().and_then(|name| Path::new(name).file_name());
    let is_path =
        |arg: &OsString| arg.as_bytes().contains(&b'/') && !arg.as_bytes().starts_with(b"-");
    let by_mount = args.get(1).is_some_and(is_path);
    if name != Some(OsStr::new(HELPER)) && !by_mount {
        return Ok(Some(args));
    }
    let call = Call::parse(args)?;
    if call.fake {
        return Ok(None);
    }
    call.arguments().map(Some)
}

/// What `mount` asks for.
#[derive(Debug, Default)]
struct Call {
    places: Vec<OsString>,
    options: Vec<OsString>,
    sloppy: bool,
    fake: bool,
    verbose: bool,
}

impl Call {
    fn parse(args: Vec<OsString>) -> Result<Self, String> {
        let mut call = Call::default();
        let mut rest: VecDeque<OsString> = args.into_iter().skip(1).collect();
        while let Some(arg) = rest.pop_front() {
            let Some(flags) = arg.as_bytes().strip_prefix(b"-").filter(|flags| !flags.is_empty())
            else {
                call.places.push(arg);
                continue;
            };
            let (first, value) = flags.split_first().unwrap_or((&b'-', &[]));
            // Those with a value, which may be part of the same word.
            if b"oNt".contains(first) {
                let value = match value.is_empty() {
                    true => rest.pop_front().ok_or_else(|| format!("{}: no value", shown(&arg)))?,
                    false => OsString::from_vec(value.to_vec()),
                };
                if *first == b'o' {
                    let parts = value.as_bytes().split(|&byte| byte == b',');
                    let parts = parts.filter(|part| !part.is_empty());
                    call.options.extend(parts.map(|part| OsString::from_vec(part.to_vec())));
                }
                continue;
            }
            for flag in flags {
                match flag {
                    b's' => call.sloppy = true,
                    b'f' => call.fake = true,
                    b'v' => call.verbose = true,
                    b'n' => {}
                    _ => return Err(format!("unknown argument {}; {FORM}", shown(&arg))),
                }
            }
        }
        Ok(call)
    }

    fn arguments(self) -> Result<Vec<OsString>, String> {
        let [archive, mountpoint]: [OsString; 2] = self.places.try_into().map_err(|places| {
            let places: Vec<OsString> = places;
            let found: Vec<String> = places.iter().map(|place| shown(place)).collect();
            format!("expected an archive and a mountpoint, found {}; {FORM}", listed(&found))
        })?;
        let mut args: Vec<OsString> = vec!["backy".into(), "-b".into(), archive, "mount".into()];
        let mut read_only = false;
        for option in &self.options {
            read_only |= option == "ro";
            match argument(option) {
                Some(arg) => args.extend(arg),
                None if self.sloppy => {}
                None => {
                    let known = "those of backy are gid=, allow_other, writable, dir=, cache=, log= and log_format=";
                    return Err(format!("unknown mount option {}; {known}", shown(option)));
                }
            }
        }
        if read_only && args.iter().any(|arg| arg == "--writable") {
            return Err(
                "the mount options 'ro' and 'writable' exclude each other; omit one".to_owned()
            );
        }
        args.extend(self.verbose.then(|| "-v".into()));
        args.extend(["--".into(), mountpoint]);
        Ok(args)
    }
}

const FORM: &str =
    "this form is for mount(8): backy ARCHIVE MOUNTPOINT [-o OPTIONS]; see 'backy mount --help'";

/// The argument of `backy mount` that an option becomes, if any; `None` for an unknown one.
fn argument(option: &OsStr) -> Option<Option<OsString>> {
    let bytes = option.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=');
    let (name, value) = match at {
        Some(at) => (bytes.get(..at)?, bytes.get(at + 1..)),
        None => (bytes, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    let long = format!("--{}", name.replace('_', "-"));
    match value {
        None if FLAGS.contains(&name) => Some(Some(long.into())),
        None if name == "ro" || WITHOUT_EFFECT.contains(&name) => Some(None),
        Some(value) if VALUES.contains(&name) => {
            let mut arg = OsString::from(long);
            arg.push("=");
            arg.push(OsStr::from_bytes(value));
            Some(Some(arg))
        }
        Some(_) if name == "comment" => Some(None),
        _ if name.starts_with("x-") || name.starts_with("X-") => Some(None),
        _ => None,
    }
}

fn shown(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy())
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "neither".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &str) -> Result<Option<String>, String> {
        let words = line.split(' ').map(OsString::from).collect();
        let joined = |args: Vec<OsString>| args.join(OsStr::new(" ")).into_string().unwrap();
        translate(words).map(|args| args.map(joined))
    }

    /// The calls of mount(8) and mount.fuse become a call of `backy mount`. Everything else stays.
    #[test]
    fn both_forms_are_understood() {
        for (line, expected) in [
            ("backy status", "backy status"),
            ("backy -b /a mount /m", "backy -b /a mount /m"),
            ("backy --backupdir=/a status", "backy --backupdir=/a status"),
            ("backy -b/a status", "backy -b/a status"),
            ("backy", "backy"),
            ("backy /a /m -o rw,dev,suid", "backy -b /a mount -- /m"),
            ("/usr/bin/backy ./a m", "backy -b ./a mount -- m"),
            (
                "backy /a /m -o rw,allow_other,gid=disk,x-systemd.automount,cache=128M,log=/l=1",
                "backy -b /a mount --allow-other --gid=disk --cache=128M --log=/l=1 -- /m",
            ),
            ("/sbin/mount.fuse.backy a m -sn -o what,ro", "backy -b a mount -- m"),
            (
                "mount.fuse.backy /a -owritable,dir=/var/tmp /m -v -N 7 -t fuse.backy",
                "backy -b /a mount --writable --dir=/var/tmp -v -- /m",
            ),
            ("backy /a /m -o defaults,,comment=x,nofail,user", "backy -b /a mount -- /m"),
        ] {
            assert_eq!(translated(line).unwrap().unwrap(), expected, "{line}");
        }
        assert_eq!(translated("mount.fuse.backy /a /m -f -o rw"), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("backy /a /m -o ro,writable", "'ro' and 'writable'"),
            ("backy /a /m -o rw,alow_other", "'alow_other'"),
            ("backy /a /m -o cache", "'cache'"),
            ("backy /a /m -o gid", "'gid'"),
            ("backy /a /m -o writable=1", "'writable=1'"),
            ("backy /a /m -o", "'-o'"),
            ("backy /a /m -x", "'-x'"),
            ("backy /a", "found '/a'"),
            ("backy /a /b /c", "found '/a', '/b', '/c'"),
            ("mount.fuse.backy", "neither"),
        ] {
            let message = translated(line).unwrap_err();
            assert!(message.contains(named) && !message.contains('\n'), "{line}: {message}");
        }
    }
}
