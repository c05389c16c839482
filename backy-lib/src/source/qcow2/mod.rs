//! The guest's disk in a qcow2 image that no virtual machine has open, read through `qemu-nbd`: with its backing files,
//! decrypted, and without its holes.
//!
//! A mark is a persistent bitmap in the image, in which QEMU records what is written from then on. It is made while
//! nothing serves the image. From then until the image is served, which keeps every other QEMU from writing to it, a
//! write is recorded in the new bitmap as well as in the old one: so it is read now and once more by the next backup.
//!
//! No bitmap records what is written below the image, to a backing file: those are compared by inode, size and time of
//! change. A bitmap that travels with a copy of the image is right in the copy, since QEMU keeps both together; so the
//! image itself is not identified.

mod info;
mod tracker;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::base::extent::Extent;
use crate::format::manifest::SourceIdentity;
use crate::source::identity::add_content;
use crate::source::nbd::NbdSource;
use crate::source::program::QEMU_IMG;
use crate::source::qemu_nbd::Export;
use crate::source::served::Served;
use crate::source::{DeviceSource, Opened, Source, check_not_empty};
use info::Image;
use tracker::BitmapTracker;

pub(super) use tracker::bookmark;

/// What it is called in the manifest.
const KIND: &str = "qcow2 image";

/// How long `qemu-img` may take.
const WITHIN: Duration = Duration::from_secs(5 * 60);

/// What QEMU says of an image that another program writes to.
const LOCKED: &str = "\"write\" lock";

/// The formats that are read, as QEMU calls them.
const FORMATS: [&str; 2] = [QCOW2, "raw"];

const QCOW2: &str = "qcow2";

/// An image file, and what opens it.
#[derive(Debug, Clone)]
pub(crate) struct ImageFile {
    path: PathBuf,
    format: &'static str,
    /// The file with the passphrase.
    secret: Option<PathBuf>,
}

impl ImageFile {
    pub(crate) fn new(path: PathBuf, secret: Option<PathBuf>) -> Self {
        ImageFile { path, format: QCOW2, secret }
    }

    /// The same file, taken for one of another format.
    ///
    /// # Errors
    /// A sentence, if that cannot be read.
    pub(super) fn of_format(self, wanted: &str) -> std::result::Result<Self, String> {
        let known = FORMATS.into_iter().find(|format| *format == wanted);
        known.map(|format| ImageFile { format, ..self }).ok_or_else(|| {
            format!(
                "its image cannot be read while no virtual machine runs: found the format {}, expected {}",
                wanted.escape_debug(),
                FORMATS.join(" or ")
            )
        })
    }

    /// Size of the guest's disk in bytes; `None` while something has it open for writing.
    ///
    /// # Errors
    /// [`Error::Source`] if it is no qcow2 image.
    pub(crate) fn size_bytes(&self) -> Result<Option<u64>> {
        match self.info() {
            Err(why) if why.contains(LOCKED) => Ok(None),
            Err(why) => Err(self.error(&why)),
            Ok(image) => Ok(Some(image.size_bytes)),
        }
    }

    /// Opens the guest's disk, of which `container` is the file or device.
    ///
    /// # Errors
    /// [`Error::Source`] if it is no qcow2 image, a virtual machine has it open, or it is encrypted and there is no
    /// passphrase.
    pub(crate) fn open(self, container: &DeviceSource) -> Result<Opened<'static>> {
        self.open_as(SourceIdentity { kind: KIND.to_owned(), ..container.identity() })
    }

    /// Opens the guest's disk, for something that calls it differently.
    ///
    /// # Errors
    /// As for [`ImageFile::open`].
    pub(super) fn open_as(self, place: SourceIdentity) -> Result<Opened<'static>> {
        let image = self.look()?;
        let shared = Arc::new(Shared {
            options: self.options(&image, true)?,
            own: self.options(&image, false)?,
            file: self,
            size_bytes: image.size_bytes,
            served: Served::not_yet(),
            place,
            identity: OnceLock::new(),
        });
        let source = Box::new(Qcow2Source { shared: Arc::clone(&shared) });
        check_not_empty(&*source)?;
        Ok(Opened { source, tracker: Some(Box::new(BitmapTracker { shared })) })
    }

    fn look(&self) -> Result<Image> {
        self.info().map_err(|why| self.error(&why))
    }

    fn info(&self) -> std::result::Result<Image, String> {
        let mut words: Vec<OsString> =
            ["info", "--output=json", "--backing-chain", "-f", self.format].map(Into::into).into();
        words.push(self.path.clone().into());
        Image::parse(&QEMU_IMG.run(&words, WITHIN)?, self.format)
    }

    /// The options with which QEMU's programs open it, with what is below it or without.
    fn options(&self, image: &Image, with_chain: bool) -> Result<Vec<OsString>> {
        let mut words = Vec::new();
        let mut options = OsString::from(format!("driver={},file.filename=", self.format));
        options.push(escaped(self.path.as_os_str()));
        if !image.encrypted.is_empty() {
            let Some(secret) = &self.secret else {
                return Err(self.error(
                    "it is encrypted; set secret_file in backy.toml to the file with its passphrase",
                ));
            };
            let mut object = OsString::from("--object=secret,id=backy,file=");
            object.push(escaped(secret.as_os_str()));
            words.push(object);
            let parts = image.encrypted.iter().filter(|(depth, _)| with_chain || *depth == 0);
            for (depth, option) in parts {
                options.push(format!(",{}{option}=backy", "backing.".repeat(*depth)));
            }
        }
        words.push("--image-opts".into());
        words.push(options);
        Ok(words)
    }

    fn error(&self, why: &str) -> Error {
        let message = match why.contains(LOCKED) {
            true => format!(
                "a virtual machine or another program has it open for writing; shut that down for the backup, or \
                 use the source \"libvirt:\" or \"qmp:\"; found {why}"
            ),
            false => why.to_owned(),
        };
        let message = crate::base::escape::line(&message).into_owned();
        Error::Source { path: self.path.clone(), message }
    }
}

/// A value among QEMU's options, in which a comma is written twice.
fn escaped(value: &OsStr) -> OsString {
    let mut out = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        out.push(byte);
        if byte == b',' {
            out.push(byte);
        }
    }
    OsString::from_vec(out)
}

/// For tests that print anything.
#[cfg(feature = "testing")]
pub(super) fn read_answer(printed: &[u8]) -> std::result::Result<(), String> {
    Image::parse(printed, QCOW2).map(drop)
}

/// What the source and its tracker share.
struct Shared {
    file: ImageFile,
    /// With what is below it.
    options: Vec<OsString>,
    /// Without.
    own: Vec<OsString>,
    size_bytes: u64,
    served: Served<Export>,
    /// Where the image is.
    place: SourceIdentity,
    identity: OnceLock<SourceIdentity>,
}

impl Shared {
    /// Lets something read the guest's disk, which is served from now on.
    fn read<T>(&self, read: impl FnOnce(&NbdSource) -> Result<T>) -> Result<T> {
        let open = || Export::open(self.options.clone(), None).map_err(|why| self.file.error(&why));
        self.served.read(open, |nbd| read(nbd).map_err(|error| self.of_server(error)))
    }

    /// The address of our own server says nothing to anybody.
    fn of_server(&self, error: Error) -> Error {
        match error {
            Error::Source { message, .. } => self.file.error(&format!("'qemu-nbd': {message}")),
            other => other,
        }
    }
}

struct Qcow2Source {
    shared: Arc<Shared>,
}

impl Source for Qcow2Source {
    /// That of the file, but of the content what the guest sees.
    fn identity(&self) -> SourceIdentity {
        let read = || {
            let mut identity =
                SourceIdentity { container: None, backing_file: None, ..self.place() };
            add_content(&mut identity, self);
            identity
        };
        self.shared.identity.get_or_init(read).clone()
    }

    fn place(&self) -> SourceIdentity {
        self.shared.place.clone()
    }

    fn size_bytes(&self) -> u64 {
        self.shared.size_bytes
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.shared.read(|nbd| nbd.current_size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.shared.read(|nbd| nbd.read_at(buffer, offset))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.read(|nbd| nbd.next_data(offset))
    }

    fn knows_holes(&self) -> bool {
        true
    }

    fn gives_hints(&self) -> bool {
        self.shared.served.is_tracked()
    }

    fn next_changed(&self, offset: u64) -> Result<Option<Extent>> {
        self.shared.read(|nbd| nbd.next_dirty(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths with commas reach QEMU as they are, and each encrypted part of a chain gets the passphrase.
    #[test]
    fn options_name_the_file_and_the_passphrase() {
        let file = |secret: Option<&str>| ImageFile::new("/a,b".into(), secret.map(Into::into));
        let printed = r#"[{"filename":"/a,b","format":"qcow2","virtual-size":1,"format-specific":{"data":{}}}]"#;
        let plain = Image::parse(printed.as_bytes(), QCOW2).unwrap();
        let words = file(Some("/key")).options(&plain, true).unwrap();
        assert_eq!(words, ["--image-opts", "driver=qcow2,file.filename=/a,,b"]);
        let encrypted =
            Image { encrypted: vec![(0, "encrypt.key-secret"), (2, "key-secret")], ..plain };
        let words = file(Some("/k,y")).options(&encrypted, true).unwrap();
        let expected = "driver=qcow2,file.filename=/a,,b,encrypt.key-secret=backy,\
                        backing.backing.key-secret=backy";
        assert_eq!(words, ["--object=secret,id=backy,file=/k,,y", "--image-opts", expected]);
        let words = file(Some("/k,y")).options(&encrypted, false).unwrap();
        let expected = "driver=qcow2,file.filename=/a,,b,encrypt.key-secret=backy";
        assert_eq!(words.last().unwrap(), expected);
        let refused = file(None).options(&encrypted, true).unwrap_err().to_string();
        assert!(refused.contains("set secret_file"), "{refused}");
    }

    /// An image that something else writes to is refused with advice.
    #[test]
    fn an_image_in_use_is_refused_with_advice() {
        let file = ImageFile::new("/a".into(), None);
        let refused = file.error("Failed to get shared \"write\" lock").to_string();
        assert!(refused.contains("shut that down") && refused.contains("\"qmp:\""), "{refused}");
        assert!(!file.error("No such file").to_string().contains("shut"));
    }
}
