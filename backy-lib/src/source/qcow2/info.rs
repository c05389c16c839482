//! What `qemu-img info` says of an image. It is not believed further than its types and lengths go.

use serde::Deserialize;

use crate::base::mark::{ArchiveId, MarkName};
use crate::source::backing;

/// An image, as far as a backup needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// Of the guest's disk.
    pub size_bytes: u64,
    pub bitmaps: Vec<Bitmap>,
    /// Which parts of the chain are encrypted, the image itself being part 0, and with which option they are opened.
    pub encrypted: Vec<(usize, &'static str)>,
    /// What distinguishes the backing files from others, or from themselves after a change; or why nothing does.
    pub chain: std::result::Result<String, String>,
    /// Why no bitmap tells what has changed.
    pub obstacle: Option<String>,
}

/// A persistent bitmap; "Bitmaps extension" of `docs/interop/qcow2.txt` of QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Bitmap {
    name: String,
    granularity: u64,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Part {
    filename: String,
    format: String,
    #[serde(rename = "virtual-size")]
    size_bytes: u64,
    #[serde(default)]
    encrypted: bool,
    #[serde(rename = "format-specific")]
    specific: Option<Specific>,
}

#[derive(Deserialize)]
struct Specific {
    #[serde(default)]
    data: Data,
}

#[derive(Deserialize, Default)]
struct Data {
    compat: Option<String>,
    #[serde(rename = "data-file")]
    data_file: Option<String>,
    #[serde(default)]
    bitmaps: Vec<Bitmap>,
}

impl Image {
    /// Reads what `qemu-img info --output=json --backing-chain` has printed of an image of a format.
    ///
    /// # Errors
    /// A sentence: what was found, and what was expected.
    pub(super) fn parse(printed: &[u8], wanted: &str) -> std::result::Result<Self, String> {
        let parts: Vec<Part> = serde_json::from_slice(printed).map_err(|error| {
            format!("'qemu-img info' printed something else than expected: {error}")
        })?;
        let mut parts = parts.into_iter();
        let Some(Part { size_bytes, specific, format, encrypted, .. }) =
            parts.next().filter(|top| top.format == wanted)
        else {
            return Err(format!("'qemu-img info' describes no {wanted} image"));
        };
        let has_bitmaps = format == super::QCOW2;
        let parts: Vec<Part> = parts.collect();
        let kinds = std::iter::once((encrypted, &format))
            .chain(parts.iter().map(|part| (part.encrypted, &part.format)));
        let encrypted = kinds
            .enumerate()
            .filter(|(_, (encrypted, _))| *encrypted)
            .map(|(depth, (_, format))| {
                (depth, if format == "luks" { "key-secret" } else { "encrypt.key-secret" })
            })
            .collect();
        let data = specific.filter(|_| has_bitmaps).map(|specific| specific.data);
        let Data { compat, data_file, bitmaps } = data.unwrap_or_default();
        let chain = backing::identify(parts.iter().map(|part| part.filename.as_str()));
        let obstacle = match (compat.as_deref(), data_file) {
            _ if !has_bitmaps => Some(format!("an image in the format {wanted} keeps no bitmaps")),
            (Some("0.10"), _) => Some(
                "an image of version 2 keeps no bitmaps; 'qemu-img amend -f qcow2 -o compat=1.1' makes it version 3"
                    .to_owned(),
            ),
            (_, Some(file)) => Some(format!(
                "its data are in another file, {}, which can be changed without QEMU",
                file.escape_debug()
            )),
            _ => chain.as_ref().err().cloned(),
        };
        Ok(Image { size_bytes, bitmaps, encrypted, chain, obstacle })
    }

    /// The bitmaps of an archive.
    pub(super) fn marks(&self, archive: ArchiveId) -> Vec<MarkName> {
        let names = self.bitmaps.iter().filter_map(|bitmap| bitmap.name.parse::<MarkName>().ok());
        names.filter(|name| name.archive == archive).collect()
    }

    /// Why a bitmap does not tell what was written since it was made; `None` if it does.
    pub(super) fn doubt(&self, name: MarkName, granularity: u64) -> Option<String> {
        let text = name.to_string();
        let Some(bitmap) = self.bitmaps.iter().find(|bitmap| bitmap.name == text) else {
            return Some(format!("the bitmap {name} is missing"));
        };
        let has = |flag: &str| bitmap.flags.iter().any(|found| found == flag);
        if has("in-use") {
            return Some(format!(
                "the bitmap {name} was not saved: the last program that wrote to the image did not end orderly"
            ));
        }
        if !has("auto") {
            return Some(format!("the bitmap {name} does not record writes"));
        }
        let found = bitmap.granularity;
        (found != granularity).then(|| {
            format!("the bitmap {name} has units of {found} bytes, expected {granularity}")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::base::revision::RevisionId;

    fn id(second: i64) -> RevisionId {
        RevisionId::new(Timestamp::from_second(second).unwrap())
    }

    fn archive() -> ArchiveId {
        ArchiveId::new(Timestamp::from_second(5).unwrap())
    }

    fn printed(top: &str, rest: &str) -> String {
        format!(
            r#"[{{"filename":"/a","format":"qcow2","virtual-size":7,
                "format-specific":{{"type":"qcow2","data":{{"compat":"1.1"{top}}}}}}}{rest}]"#
        )
    }

    fn image(top: &str, rest: &str) -> Image {
        Image::parse(printed(top, rest).as_bytes(), "qcow2").unwrap()
    }

    /// Bitmaps that were not saved, do not record, or have other units are doubted; those of others do not count.
    #[test]
    fn bitmaps_are_doubted_unless_they_record_everything() {
        let archive = archive();
        let name = |second| MarkName { archive, revision: id(second) };
        let (good, lost, off, wide) = (name(1), name(2), name(3), name(4));
        let bitmap = |name: MarkName, flags: &str, granularity: u64| {
            format!(r#"{{"name":"{name}","granularity":{granularity},"flags":[{flags}]}}"#)
        };
        let list = [
            bitmap(good, r#""auto""#, 65536),
            bitmap(lost, r#""in-use","auto""#, 65536),
            bitmap(off, "", 65536),
            bitmap(wide, r#""auto""#, 4096),
            r#"{"name":"other","granularity":65536,"flags":["auto"]}"#.to_owned(),
        ];
        let image = image(&format!(r#","bitmaps":[{}]"#, list.join(",")), "");
        assert_eq!(image.size_bytes, 7);
        assert_eq!(image.obstacle, None);
        assert_eq!(image.chain, Ok("no backing file".to_owned()));
        assert_eq!(image.marks(archive), [good, lost, off, wide]);
        assert_eq!(image.marks(self::archive()), []);
        assert_eq!(image.doubt(good, 65536), None);
        for (doubted, part) in [
            (lost, "was not saved"),
            (off, "does not record"),
            (wide, "units of 4096 bytes, expected 65536"),
            (name(6), "is missing"),
        ] {
            let doubt = image.doubt(doubted, 65536).unwrap();
            assert!(doubt.contains(part), "{doubt}");
        }
    }

    /// What no bitmap of the image records makes an obstacle: version 2, a data file, a backing file that is no file,
    /// and too long a chain.
    #[test]
    fn what_bitmaps_do_not_record_is_an_obstacle() {
        let part =
            |path: &str| format!(r#",{{"filename":{path:?},"format":"raw","virtual-size":7}}"#);
        let folder = tempfile::tempdir().unwrap();
        let backing = folder.path().join("b");
        fs::File::create_new(&backing).unwrap();
        let backing = part(backing.to_str().unwrap());
        let two = image("", &backing.repeat(2));
        assert_eq!(two.obstacle, None);
        let chain = two.chain.unwrap();
        assert!(chain.starts_with("backing file inode ") && chain.contains(", then inode "));
        for (top, rest, expected) in [
            (r#","data-file":"d.raw""#, String::new(), "in another file, d.raw"),
            ("", part("/dev/null"), "its backing file /dev/null is no local file"),
            ("", part("nbd://host"), "its backing file nbd://host is no local file"),
            ("", backing.repeat(65), "found more than 64 backing files"),
        ] {
            let found = image(top, &rest).obstacle.unwrap();
            assert!(found.contains(expected), "{found}");
        }
        let old = printed("", "").replace("1.1", "0.10");
        let found = Image::parse(old.as_bytes(), "qcow2").unwrap().obstacle.unwrap();
        assert!(found.contains("compat=1.1"), "{found}");
    }

    /// Each encrypted part of a chain has the option that opens it.
    #[test]
    fn encrypted_parts_are_found() {
        let rest = r#",{"filename":"/b","format":"raw","virtual-size":1},
            {"filename":"/c","format":"luks","virtual-size":1,"encrypted":true}"#;
        let printed = printed("", rest).replacen(r#""/a","#, r#""/a","encrypted":true,"#, 1);
        let image = Image::parse(printed.as_bytes(), "qcow2").unwrap();
        assert_eq!(image.encrypted, [(0, "encrypt.key-secret"), (2, "key-secret")]);
    }

    proptest! {
        /// Whatever is printed, the answer is an image or a sentence.
        #[test]
        fn anything_printed_is_an_image_or_an_error(
            cut in 0_usize..400, at in 0_usize..400, byte: u8, swap in any::<bool>()
        ) {
            let list = format!(r#","bitmaps":[{{"name":"{}","granularity":1}}]"#, id(1));
            let mut bytes = printed(&list, r#",{"filename":"/x","format":"raw","virtual-size":1}"#)
                .into_bytes();
            if let (true, Some(found)) = (swap, bytes.get_mut(at)) {
                *found = byte;
            } else {
                bytes.truncate(cut);
            }
            if let Err(message) = Image::parse(&bytes, "qcow2") {
                prop_assert!(message.contains("qemu-img info"), "{}", message);
            }
        }
    }
}
