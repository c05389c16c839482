//! What `lvs` and `dmsetup` print. It is not believed further than its types, lengths and form go.

use std::path::PathBuf;

use serde::Deserialize;

use crate::base::escape::is_unsafe;

/// What `lvs` is asked for.
pub(super) const FIELDS: &str = "vg_uuid,lv_name,lv_uuid,lv_size,segtype,pool_lv,thin_id,lv_tags,lv_path,lv_dm_path,\
                                 lv_active,metadata_lv,chunk_size";

/// Longest text that goes into the manifest.
const MOST_ID_BYTES: usize = 128;

const SECTOR: u64 = 512;

type Answer<T> = std::result::Result<T, String>;

/// A thin volume, or a thin snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thin {
    pub name: String,
    /// Of LVM; one that is made again under its name has another one.
    pub uuid: String,
    pub size_bytes: u64,
    /// Its number in the pool.
    pub device: u32,
    pub pool: String,
    pub path: PathBuf,
    /// Its name in the device mapper.
    pub mapped: String,
    pub tags: Vec<String>,
    pub is_active: bool,
}

/// A thin pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    pub name: String,
    pub uuid: String,
    /// Its unit, in bytes.
    pub block_bytes: u64,
    /// The name in the device mapper of what its volumes use.
    pub mapped: String,
    /// Its metadata.
    pub metadata: PathBuf,
    pub tags: Vec<String>,
}

/// A row of `lvs`, for a segment of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Row {
    vg_uuid: String,
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    segtype: String,
    pool_lv: String,
    thin_id: String,
    lv_tags: String,
    lv_path: String,
    lv_dm_path: String,
    lv_active: String,
    metadata_lv: String,
    chunk_size: String,
}

#[derive(Deserialize)]
struct Printed {
    report: Vec<Report>,
}

#[derive(Deserialize)]
struct Report {
    lv: Vec<Row>,
}

/// The volumes of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed(Vec<Row>);

impl Listed {
    /// # Errors
    /// A sentence.
    pub(super) fn parse(printed: &[u8]) -> Answer<Self> {
        let printed: Printed = serde_json::from_slice(printed)
            .map_err(|error| format!("'lvs' printed something else than expected: {error}"))?;
        Ok(Listed(printed.report.into_iter().flat_map(|report| report.lv).collect()))
    }

    /// A thin volume.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn thin(&self, name: &str) -> Answer<Thin> {
        let row = self.row(name)?;
        if row.segtype != "thin" {
            let kind = row.segtype.escape_debug();
            return Err(format!("found a volume of type '{kind}', expected a thin volume"));
        }
        Ok(Thin {
            name: name.to_owned(),
            uuid: id(&row.lv_uuid)?,
            size_bytes: number("a size", &row.lv_size)?,
            device: u32::try_from(number("a thin id", &row.thin_id)?).map_err(|_| {
                format!("'lvs' printed a thin id that is none: {:.60?}", row.thin_id)
            })?,
            pool: plain(&row.pool_lv).to_owned(),
            path: path(&row.lv_path)?,
            mapped: mapped(&row.lv_dm_path)?,
            tags: tags(&row.lv_tags),
            // It may be "unknown".
            is_active: !row.lv_active.is_empty(),
        })
    }

    /// The names of all thin volumes.
    pub(super) fn thins(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|row| row.segtype == "thin").map(|row| plain(&row.lv_name))
    }

    /// A thin pool.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn pool(&self, name: &str) -> Answer<Pool> {
        let row = self.row(name)?;
        if row.segtype != "thin-pool" {
            return Err(format!("'lvs' does not list the thin pool '{}'", name.escape_debug()));
        }
        let metadata = self.row(plain(&row.metadata_lv))?;
        Ok(Pool {
            name: name.to_owned(),
            uuid: id(&row.lv_uuid)?,
            block_bytes: number("a chunk size", &row.chunk_size)?,
            // The name of what the pool is made of; LVM's own name for it is a device on top of that.
            mapped: format!("{}-tpool", mapped(&row.lv_dm_path)?),
            metadata: path(&metadata.lv_dm_path)?,
            tags: tags(&row.lv_tags),
        })
    }

    /// What the kernel calls a volume.
    pub(super) fn dm_uuid(&self, name: &str) -> Option<String> {
        let Row { vg_uuid, lv_uuid, .. } = self.row(name).ok()?;
        let (group, volume) = (id(vg_uuid).ok()?, id(lv_uuid).ok()?);
        Some(format!("LVM-{}{}", group.replace('-', ""), volume.replace('-', "")))
    }

    fn row(&self, name: &str) -> Answer<&Row> {
        let found = self.0.iter().find(|row| plain(&row.lv_name) == name);
        found.ok_or_else(|| format!("'lvs' does not list the volume '{}'", name.escape_debug()))
    }
}

/// Volumes that LVM uses itself are listed in brackets.
fn plain(name: &str) -> &str {
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

fn tags(text: &str) -> Vec<String> {
    text.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

fn id(text: &str) -> Answer<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match (1..=MOST_ID_BYTES).contains(&text.len()) && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("'lvs' printed a UUID that is none: {text:.60?}")),
    }
}

fn number(what: &str, text: &str) -> Answer<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain);
    number.ok_or_else(|| format!("'lvs' printed {what} that is none: {text:.60?}"))
}

fn path(text: &str) -> Answer<PathBuf> {
    let path = PathBuf::from(text);
    match path.is_absolute() && !text.contains(is_unsafe) {
        true => Ok(path),
        false => Err(format!("'lvs' printed a path that is none: {text:.60?}")),
    }
}

fn mapped(text: &str) -> Answer<String> {
    let path = path(text)?;
    let name =
        path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('-'));
    name.map(str::to_owned).ok_or_else(|| format!("'lvs' printed no device: {text:.60?}"))
}

/// Checks the table of a thin device: `0 SECTORS thin POOL DEVICE`, and behind that the volume below it, if there is
/// one, from which what is not mapped is read.
///
/// # Errors
/// A sentence.
pub(super) fn check_table(printed: &[u8], thin: &Thin) -> Answer<()> {
    let text = String::from_utf8_lossy(printed);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let sectors = (thin.size_bytes / SECTOR).to_string();
    let device = thin.device.to_string();
    match *words {
        ["0", found, "thin", _, number] if found == sectors && number == device => Ok(()),
        ["0", found, "thin", _, number, _] if found == sectors && number == device => {
            Err("it has an external origin".to_owned())
        }
        _ => Err(format!("'dmsetup table' printed something else than expected: {:.120?}", text)),
    }
}

/// Where the metadata snapshot of a pool is, if one is reserved, by the status of the pool.
///
/// # Errors
/// A sentence.
pub(super) fn reserved(printed: &[u8]) -> Answer<Option<u64>> {
    let text = String::from_utf8_lossy(printed);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let other = || format!("'dmsetup status' printed something else than expected: {text:.120?}");
    match *words {
        ["0", _, "thin-pool", _, _, _, "-", ..] => Ok(None),
        ["0", _, "thin-pool", _, _, _, block, ..] => block.parse().map(Some).map_err(|_| other()),
        _ => Err(other()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROW: &str = r#"{"vg_uuid":"Vg-1","lv_name":"a","lv_uuid":"Xy-1","lv_size":"1048576","segtype":"thin",
        "pool_lv":"pool","thin_id":"7","lv_tags":"backy,other","lv_path":"/dev/vg/a","lv_dm_path":"/dev/mapper/vg-a",
        "lv_active":"active","metadata_lv":"","chunk_size":""}"#;
    const POOL: &str = r#"{"vg_uuid":"Vg-1","lv_name":"pool","lv_uuid":"Po-1","lv_size":"9","segtype":"thin-pool",
        "pool_lv":"","thin_id":"","lv_tags":"","lv_path":"","lv_dm_path":"/dev/mapper/vg-pool",
        "lv_active":"active","metadata_lv":"[pool_tmeta]","chunk_size":"65536"}"#;
    const META: &str = r#"{"vg_uuid":"Vg-1","lv_name":"[pool_tmeta]","lv_uuid":"Me-1","lv_size":"9","segtype":"linear",
        "pool_lv":"","thin_id":"","lv_tags":"","lv_path":"","lv_dm_path":"/dev/mapper/vg-pool_tmeta",
        "lv_active":"active","metadata_lv":"","chunk_size":"0"}"#;

    /// What LVM 2.03.16 has printed of a pool with a volume and a snapshot, on a machine without a device mapper.
    const LVS: &[u8] = br#"{"report": [{"lv": [
    {"vg_uuid": "OfDsfs-iN2e-9g0j-nzKD-SbWb-mpPi-wxx3Ps", "lv_name": "backy.a",
     "lv_uuid": "cccccc-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa", "lv_size": "41943040", "segtype": "thin",
     "pool_lv": "pool", "thin_id": "2", "lv_tags": "backy,other", "lv_path": "/dev/vg-0/backy.a",
     "lv_dm_path": "/dev/mapper/vg--0-backy.a", "lv_active": "unknown", "metadata_lv": "", "chunk_size": "0"},
    {"vg_uuid": "OfDsfs-iN2e-9g0j-nzKD-SbWb-mpPi-wxx3Ps", "lv_name": "mynode",
     "lv_uuid": "bbbbbb-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa", "lv_size": "41943040", "segtype": "thin",
     "pool_lv": "pool", "thin_id": "1", "lv_tags": "", "lv_path": "/dev/vg-0/mynode",
     "lv_dm_path": "/dev/mapper/vg--0-mynode", "lv_active": "unknown", "metadata_lv": "", "chunk_size": "0"},
    {"vg_uuid": "OfDsfs-iN2e-9g0j-nzKD-SbWb-mpPi-wxx3Ps", "lv_name": "pool",
     "lv_uuid": "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa", "lv_size": "83886080", "segtype": "thin-pool",
     "pool_lv": "", "thin_id": "", "lv_tags": "backy-reserved", "lv_path": "",
     "lv_dm_path": "/dev/mapper/vg--0-pool", "lv_active": "unknown", "metadata_lv": "[pool_tmeta]",
     "chunk_size": "65536"},
    {"vg_uuid": "OfDsfs-iN2e-9g0j-nzKD-SbWb-mpPi-wxx3Ps", "lv_name": "[pool_tdata]",
     "lv_uuid": "eeeeee-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa", "lv_size": "83886080", "segtype": "linear", "pool_lv": "",
     "thin_id": "", "lv_tags": "", "lv_path": "", "lv_dm_path": "/dev/mapper/vg--0-pool_tdata",
     "lv_active": "unknown", "metadata_lv": "", "chunk_size": "0"},
    {"vg_uuid": "OfDsfs-iN2e-9g0j-nzKD-SbWb-mpPi-wxx3Ps", "lv_name": "[pool_tmeta]",
     "lv_uuid": "dddddd-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa", "lv_size": "4194304", "segtype": "linear", "pool_lv": "",
     "thin_id": "", "lv_tags": "", "lv_path": "", "lv_dm_path": "/dev/mapper/vg--0-pool_tmeta",
     "lv_active": "unknown", "metadata_lv": "", "chunk_size": "0"}
]}]}"#;

    fn listed(rows: &[&str]) -> Answer<Listed> {
        Listed::parse(format!(r#"{{"report":[{{"lv":[{}]}}]}}"#, rows.join(",")).as_bytes())
    }

    /// A volume and its pool are understood as they are printed.
    #[test]
    fn volumes_are_understood() {
        let all = listed(&[ROW, POOL, META]).unwrap();
        let thin = all.thin("a").unwrap();
        assert_eq!((thin.size_bytes, thin.device, &*thin.pool), (1 << 20, 7, "pool"));
        assert_eq!((thin.tags.len(), thin.is_active, &*thin.mapped), (2, true, "vg-a"));
        let pool = all.pool("pool").unwrap();
        assert_eq!((pool.block_bytes, &*pool.mapped), (65536, "vg-pool-tpool"));
        assert_eq!(pool.metadata, PathBuf::from("/dev/mapper/vg-pool_tmeta"));
        assert_eq!(all.thins().collect::<Vec<_>>(), ["a"]);
        assert_eq!(all.dm_uuid("a").as_deref(), Some("LVM-Vg1Xy1"));
    }

    /// The list of a real LVM is understood.
    #[test]
    fn what_lvs_has_printed_is_understood() {
        let all = Listed::parse(LVS).unwrap();
        assert_eq!(all.thins().collect::<Vec<_>>(), ["backy.a", "mynode"]);
        let (volume, snapshot) = (all.thin("mynode").unwrap(), all.thin("backy.a").unwrap());
        assert_eq!((volume.device, snapshot.device), (1, 2));
        assert_eq!((volume.size_bytes, &*snapshot.mapped), (40 << 20, "vg--0-backy.a"));
        assert_eq!(
            (&*snapshot.tags, &volume.path),
            (&["backy", "other"].map(str::to_owned)[..], &"/dev/vg-0/mynode".into())
        );
        let pool = all.pool(&volume.pool).unwrap();
        assert_eq!((pool.block_bytes, &*pool.mapped), (65536, "vg--0-pool-tpool"));
        assert_eq!(pool.metadata, PathBuf::from("/dev/mapper/vg--0-pool_tmeta"));
        assert_eq!(pool.tags, ["backy-reserved"]);
        let error = all.thin("pool_tdata").unwrap_err();
        assert!(error.contains("found a volume of type 'linear'"), "{error}");
    }

    /// What is printed in another form is refused.
    #[test]
    fn other_volumes_are_refused() {
        for (from, to, part) in [
            ("\"thin\"", "\"linear\"", "found a volume of type 'linear'"),
            ("\"7\"", "\"\"", "a thin id that is none"),
            ("\"7\"", "\"4294967296\"", "a thin id that is none"),
            ("\"1048576\"", "\"1.00m\"", "a size that is none"),
            ("Xy-1", "", "a UUID that is none"),
            ("Xy-1", "X y", "a UUID that is none"),
            ("/dev/vg/a", "a", "a path that is none"),
            ("/dev/vg/a", "/dev/\\u001b", "a path that is none"),
            ("/dev/mapper/vg-a", "/dev/mapper/-a", "no device"),
        ] {
            let error = listed(&[&ROW.replace(from, to)]).unwrap().thin("a").unwrap_err();
            assert!(error.contains(part), "{to}: {error}");
        }
        assert!(listed(&[ROW, POOL]).unwrap().pool("pool").unwrap_err().contains("pool_tmeta"));
        assert!(listed(&[ROW]).unwrap().pool("a").unwrap_err().contains("the thin pool 'a'"));
        for wrong in ["", "[]", "{\"report\":[{}]}", "{\"report\":[{\"lv\":[{}]}]}"] {
            let error = Listed::parse(wrong.as_bytes()).unwrap_err();
            assert!(error.starts_with("'lvs' printed something else"), "{error}");
        }
    }

    /// A table is that of the device, and an external origin is seen in it; a pool says whether it is reserved.
    #[test]
    fn tables_and_states_are_understood() {
        let thin = listed(&[ROW]).unwrap().thin("a").unwrap();
        assert_eq!(check_table(b"0 2048 thin 253:4 7\n", &thin), Ok(()));
        let external = check_table(b"0 2048 thin 253:4 7 253:9\n", &thin).unwrap_err();
        assert_eq!(external, "it has an external origin");
        for wrong in [
            "",
            "0 2048 thin 253:4 8",
            "0 2049 thin 253:4 7",
            "0 2048 linear 8:0 7",
            "0 2048 thin 253:4 7\n2048 8 thin 253:4 7",
        ] {
            assert!(check_table(wrong.as_bytes(), &thin).is_err(), "{wrong}");
        }
        let state = |held: &str| {
            reserved(format!("0 204800 thin-pool 1 13/1024 12/1600 {held} rw - 1024\n").as_bytes())
        };
        assert_eq!((state("-"), state("17")), (Ok(None), Ok(Some(17))));
        assert!(state("rw").is_err() && reserved(b"0 204800 thin-pool Fail\n").is_err());
    }

    proptest! {
        /// Whatever is printed, there is an answer.
        #[test]
        fn anything_printed_is_understood_or_an_error(
            printed in proptest::collection::vec(any::<u8>(), 0..200),
            value in "\\PC{0,12}",
            key in 0usize..13,
        ) {
            let _ = (Listed::parse(&printed), reserved(&printed));
            let key = FIELDS.split(',').nth(key).unwrap();
            let mut row: serde_json::Value = serde_json::from_str(ROW).unwrap();
            row[key] = value.into();
            if let Ok(thin) = listed(&[&row.to_string(), POOL, META]).unwrap().thin("a") {
                prop_assert!(thin.path.is_absolute());
                let _ = check_table(&printed, &thin);
            }
        }
    }
}
