//! What is mounted, as the kernel lists it. Source: `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::makedev;

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The number of its device, as in `stat`. A file system over several devices has one of its own.
    pub(crate) device: u64,
    /// The mountpoint.
    pub(crate) path: PathBuf,
    /// Such as `ext4`, or `fuse.sshfs`.
    pub(crate) kind: String,
    /// The device, or whatever the file system calls its source.
    pub(crate) source: PathBuf,
    /// The options of the file system itself, without those of this mount.
    options: String,
}

impl Mount {
    /// The value of an option of the file system.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let mut options = self.options.split(',').filter_map(|option| option.split_once('='));
        options.find_map(|(found, value)| (found == name).then_some(value))
    }

    /// Whether the file system has this option, without a value.
    pub(crate) fn has_option(&self, name: &str) -> bool {
        self.options.split(',').any(|option| option == name)
    }
}

/// All mounts that this process sees, those on top last.
pub(crate) fn mounts() -> io::Result<Vec<Mount>> {
    mounts_of(Path::new("/proc/self"))
}

/// All mounts that a process sees, by its folder in `/proc`; those on top last.
pub(crate) fn mounts_of(process: &Path) -> io::Result<Vec<Mount>> {
    let mut text = Vec::new();
    File::open(process.join("mountinfo"))?.read_to_end(&mut text)?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// One line of the list: fields separated by spaces; the type is the first after a lonely hyphen.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = device_number(fields.nth(2)?)?;
    let path = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let kind = text(fields.next()?);
    let source = unescape(fields.next().unwrap_or_default());
    let options = text(fields.next().unwrap_or_default());
    Some(Mount { device, path, kind, source, options })
}

/// The mountpoint above a path that `/etc/fstab` lists and that has nothing mounted on it, so that the path is on
/// another disk than it should be.
pub(crate) fn unmounted(path: &Path) -> Option<PathBuf> {
    let mut listed = Vec::new();
    File::open("/etc/fstab").and_then(|mut file| file.read_to_end(&mut listed)).ok()?;
    let mounted: Vec<PathBuf> = mounts().ok()?.into_iter().map(|mount| mount.path).collect();
    mountpoints(&listed).find(|point| path.starts_with(point) && !mounted.contains(point))
}

/// The mountpoints in the text of a file such as `/etc/fstab`. Source: `fstab(5)`.
fn mountpoints(fstab: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = fstab.split(|byte| *byte == b'\n');
    let fields = |line: &[u8]| {
        let mut fields = line.split(|byte| byte.is_ascii_whitespace());
        let mut fields = fields.by_ref().filter(|field| !field.is_empty());
        let first = fields.next()?;
        let point = unescape(fields.next()?);
        (!first.starts_with(b"#") && point.is_absolute()).then_some(point)
    };
    lines.filter_map(fields)
}

fn device_number(field: &[u8]) -> Option<u64> {
    let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// A path as in the kernel's tables, where a space and the like is a backslash and three octal digits.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_list_is_parsed_with_spaces_in_the_path() {
        let line =
            br"36 35 98:1 / /mnt/a\040b\134c rw,nosuid shared:1 - fuse.backy /srv/x\0409 ro,user_id=7,allow_other";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, makedev(98, 1));
        assert_eq!(mount.path, Path::new(r"/mnt/a b\c"));
        assert_eq!(mount.source, Path::new("/srv/x 9"));
        assert_eq!(mount.kind, "fuse.backy");
        assert!(mount.has_option("allow_other") && mount.has_option("ro"));
        assert!(!mount.has_option("nosuid") && !mount.has_option("allow"));
        assert_eq!((mount.option("user_id"), mount.option("id")), (Some("7"), None));
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn the_mountpoints_of_fstab_are_found() {
        let text = b"# /dev/sda /commented ext4\n\n/dev/sda1\t/\text4 defaults 0 1\n \
                     UUID=5 /srv/a\\040b xfs\n/dev/sdb none swap sw\n/dev/sdc\n";
        let found: Vec<PathBuf> = mountpoints(text).collect();
        assert_eq!(found, [Path::new("/"), Path::new("/srv/a b")]);
    }

    #[test]
    fn escaped_blanks_become_blanks() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(b"/plain"), Path::new("/plain"));
        assert_eq!(unescape(br"/short\04"), Path::new(r"/short\04"));
    }
}
