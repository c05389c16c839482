//! What was backed up, and whether it is still the same.
//!
//! There are three kinds of marks. *Content*: identifiers inside a partition table or a file system; they move with
//! the data, even onto another disk. *Hardware*: numbers of a disk. *Places*: names of volumes and files, which also
//! change when the same data is put there in another way: a snapshot, a copy. A mark that is unknown now, or was
//! unknown then, proves nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Unknown;
use super::unknown::keeps_unknown;

/// What was backed up: enough to notice that it has become something else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct SourceIdentity {
    /// The path as configured.
    pub path: String,
    /// `file` or `block device`.
    pub kind: String,
    /// World wide name of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// Serial number of the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The device mapper's name of the volume; a snapshot has the name of its origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dm_uuid: Option<String>,
    /// The file behind a loop device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loop_file: Option<String>,
    /// UUID of the partition, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_uuid: Option<String>,
    /// UUID of the partition table at its beginning: GPT's, or the signature of an MBR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition_table_uuid: Option<String>,
    /// UUID of the file system, encrypted volume or physical volume that begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_system_uuid: Option<String>,
    /// Inode number of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// When the file was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub born: Option<Timestamp>,
    /// The format of a disk image that the source is, such as `qcow2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The file that this image is based on, which is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Fields of newer programs.
    #[serde(flatten, skip_deserializing)]
    pub unknown: Unknown,
}

keeps_unknown!(SourceIdentity);

/// Whether a source is the one that was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sameness {
    /// Nothing indicates that it is another one.
    Same,
    /// It is another source, or the same data in another place; how they differ.
    Doubtful(String),
    /// It is another source; how they differ.
    Other(String),
}

impl SourceIdentity {
    /// Whether it is another archive, from which revisions were pulled.
    pub fn is_archive(&self) -> bool {
        self.kind == "archive"
    }

    /// A source about which nothing else is known.
    pub fn new(path: impl Into<String>, kind: impl Into<String>) -> Self {
        SourceIdentity { path: path.into(), kind: kind.into(), ..SourceIdentity::default() }
    }

    /// Compares the source as it is `now` with this one, which was backed up. Under another path only the content
    /// counts.
    pub fn compare(&self, now: &SourceIdentity) -> Sameness {
        let contents = [
            ("file system", &self.file_system_uuid, &now.file_system_uuid),
            ("partition table", &self.partition_table_uuid, &now.partition_table_uuid),
        ];
        if let Some(how) = difference(contents) {
            return Sameness::Other(how);
        }
        if self.path != now.path {
            return Sameness::Same;
        }
        let hardware = [
            ("WWN", &self.wwid, &now.wwid),
            ("serial number", &self.serial, &now.serial),
            ("partition", &self.partition_uuid, &now.partition_uuid),
        ];
        if let Some(how) = difference(hardware) {
            return Sameness::Other(how);
        }
        if contents.iter().any(|(_, then, now)| then.is_some() && then == now) {
            return Sameness::Same;
        }
        let places = [
            ("volume", &self.dm_uuid, &now.dm_uuid),
            ("file of the loop device", &self.loop_file, &now.loop_file),
        ];
        let place = difference(places).or_else(|| self.differs_as_file(now)).or_else(|| {
            (self.kind != now.kind)
                .then(|| format!("found a {}, expected a {}", now.kind, self.kind))
        });
        place.map_or(Sameness::Same, Sameness::Doubtful)
    }

    /// Takes over the fields of newer programs from what was known before, if it is the same source.
    #[must_use]
    pub fn following(mut self, before: Option<&SourceIdentity>) -> Self {
        if let Some(before) =
            before.filter(|b| b.path == self.path && b.compare(&self) == Sameness::Same)
        {
            self.unknown.clone_from(&before.unknown);
        }
        self
    }

    /// A sentence saying that the source is an image in another format, if it is one.
    pub fn container_note(&self) -> Option<String> {
        let format = self.container.as_ref()?;
        let backing = self.backing_file.as_ref().map(|name| {
            format!("; it needs the file '{}', which is not backed up with it", name.escape_debug())
        });
        Some(format!(
            "source {}: it is a disk image in the format {}; \
             the image file is backed up as it is, not the disk in it{}{}",
            self.path.escape_debug(),
            format.escape_debug(),
            backing.unwrap_or_default(),
            if format == "qcow2" { "; for that, set source = \"qcow2:PATH\"" } else { "" }
        ))
    }

    /// File systems that invent inode numbers keep the time of birth; those without such a time keep the number.
    fn differs_as_file(&self, now: &SourceIdentity) -> Option<String> {
        let (then_inode, now_inode) = self.inode.zip(now.inode)?;
        let (then_born, now_born) = self.born.zip(now.born)?;
        (then_inode != now_inode && then_born != now_born).then(|| {
            format!("found a file that was made on {now_born}, expected that of {then_born}")
        })
    }
}

fn difference<const N: usize>(
    marks: [(&str, &Option<String>, &Option<String>); N],
) -> Option<String> {
    marks.into_iter().find_map(|(what, then, now)| match (then, now) {
        (Some(then), Some(now)) if then != now => {
            Some(format!("{what}: found {}, expected {}", now.escape_debug(), then.escape_debug()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: impl Fn(&mut SourceIdentity)) -> SourceIdentity {
        let mut identity = SourceIdentity::new("/dev/x", "block device");
        set(&mut identity);
        identity
    }

    /// Another file system, another partition table and another disk are another source; a mark that is unknown on
    /// one side is not.
    #[test]
    fn another_content_or_disk_is_another_source() {
        let text = |text: &str| Some(text.to_owned());
        let set: [fn(&mut SourceIdentity, Option<String>); 5] = [
            |i, mark| i.file_system_uuid = mark,
            |i, mark| i.partition_table_uuid = mark,
            |i, mark| i.wwid = mark,
            |i, mark| i.serial = mark,
            |i, mark| i.partition_uuid = mark,
        ];
        for set in set {
            let [a, b, none] = [text("a"), text("b"), None].map(|m| with(|i| set(i, m.clone())));
            let Sameness::Other(how) = a.compare(&b) else { panic!("{a:?}") };
            assert!(how.ends_with("found b, expected a"), "{how}");
            assert_eq!(a.compare(&a), Sameness::Same);
            assert_eq!(a.compare(&none), Sameness::Same);
            assert_eq!(none.compare(&a), Sameness::Same);
        }
    }

    /// A snapshot or a copy of the same content is not another source; if the content is unknown, it is in doubt.
    #[test]
    fn the_same_content_in_another_place_is_the_same_source() {
        let volume = |dm: &str, system: Option<&str>| {
            with(|i| {
                i.dm_uuid = Some(dm.to_owned());
                i.file_system_uuid = system.map(str::to_owned);
            })
        };
        assert_eq!(volume("a", Some("x")).compare(&volume("b", Some("x"))), Sameness::Same);
        assert!(matches!(volume("a", None).compare(&volume("b", None)), Sameness::Doubtful(_)));
        assert!(matches!(
            volume("a", None).compare(&volume("b", Some("x"))),
            Sameness::Doubtful(_)
        ));
        let file = |inode, second| {
            with(|i| {
                i.inode = Some(inode);
                i.born = Timestamp::from_second(second).ok();
            })
        };
        assert_eq!(file(1, 1).compare(&file(2, 1)), Sameness::Same);
        assert_eq!(file(1, 1).compare(&file(1, 2)), Sameness::Same);
        assert!(matches!(file(1, 1).compare(&file(2, 2)), Sameness::Doubtful(_)));
    }

    /// Under another path a disk is expected to be another one, but its content is not.
    #[test]
    fn under_another_path_the_content_counts() {
        let moved = |serial: &str, system: &str| {
            with(|i| {
                i.serial = Some(serial.to_owned());
                i.file_system_uuid = Some(system.to_owned());
                i.path = format!("/dev/{serial}");
            })
        };
        assert_eq!(moved("a", "x").compare(&moved("b", "x")), Sameness::Same);
        assert!(matches!(moved("a", "x").compare(&moved("b", "y")), Sameness::Other(_)));
    }
}
