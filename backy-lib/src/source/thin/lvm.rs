//! The programs of LVM and of the device mapper, for one volume.

use std::ffi::OsString;
use std::io::PipeReader;
use std::time::Duration;

use super::delta::{Difference, Question, difference};
use super::volumes::{self, FIELDS, Listed, Pool, Thin};
use crate::base::error::Error;
use crate::base::escape;
use crate::format::thin_address::ThinAddress;
use crate::source::program::{Misread, Program};

const LVS: Program = Program { name: "lvs", package: "lvm2" };
const LVCREATE: Program = Program { name: "lvcreate", package: "lvm2" };
const LVCHANGE: Program = Program { name: "lvchange", package: "lvm2" };
const LVREMOVE: Program = Program { name: "lvremove", package: "lvm2" };
const DMSETUP: Program = Program { name: "dmsetup", package: "dmsetup" };
const THIN_DELTA: Program = Program { name: "thin_delta", package: "thin-provisioning-tools" };

/// How long a command may take.
const WITHIN: Duration = Duration::from_secs(5 * 60);

/// How long `thin_delta` may take: it reads the mappings of both devices, 16 bytes a block.
const DELTA_WITHIN: Duration = Duration::from_secs(60 * 60);

/// A tag that each snapshot of backy has from its beginning.
pub(super) const MADE: &str = "backy";

type Answer<T> = std::result::Result<T, String>;

/// A volume, and the programs that deal with it.
#[derive(Debug, Clone)]
pub(super) struct Lvm {
    pub address: ThinAddress,
}

impl Lvm {
    /// All volumes of the group.
    pub(super) fn list(&self) -> Answer<Listed> {
        let options = format!("--options={FIELDS}");
        let fixed = ["--all", "--reportformat=json", "--units=b", "--nosuffix", &options];
        Listed::parse(&run(&LVS, &fixed, self.address.group())?)
    }

    /// The volume that is backed up.
    pub(super) fn volume(&self, listed: &Listed) -> Answer<Thin> {
        listed.thin(self.address.volume())
    }

    /// Makes a snapshot, which nobody can write to, and which is not activated with the others of its group.
    pub(super) fn make(&self, snapshot: &str) -> Answer<()> {
        let (name, tag) = (format!("--name={snapshot}"), format!("--addtag={MADE}"));
        let fixed = ["--snapshot", "--permission=r", "--setactivationskip=y", &tag, &name];
        run(&LVCREATE, &fixed, &self.of(self.address.volume())).map(drop)
    }

    pub(super) fn activate(&self, snapshot: &str) -> Answer<()> {
        self.change(&["--activate=y", "--ignoreactivationskip"], snapshot)
    }

    pub(super) fn deactivate(&self, snapshot: &str) -> Answer<()> {
        self.change(&["--activate=n"], snapshot)
    }

    pub(super) fn remove(&self, snapshot: &str) -> Answer<()> {
        run(&LVREMOVE, &["--yes"], &self.of(snapshot)).map(drop)
    }

    pub(super) fn change(&self, how: &[&str], volume: &str) -> Answer<()> {
        run(&LVCHANGE, how, &self.of(volume)).map(drop)
    }

    /// Checks that what the kernel has for an active volume is what `lvs` says, and nothing below it.
    pub(super) fn check_table(&self, thin: &Thin) -> Answer<()> {
        volumes::check_table(&run(&DMSETUP, &["table"], &thin.mapped)?, thin)
    }

    /// Where the metadata snapshot of a pool is, if one is reserved.
    pub(super) fn reserved(&self, pool: &Pool) -> Answer<Option<u64>> {
        volumes::reserved(&run(&DMSETUP, &["status", "--noflush"], &pool.mapped)?)
    }

    pub(super) fn message(&self, pool: &Pool, message: &str) -> Answer<()> {
        DMSETUP.run(&["message", &pool.mapped, "0", message].map(Into::into), WITHIN).map(drop)
    }

    /// What differs between two devices, by the metadata that are reserved.
    pub(super) fn difference(&self, pool: &Pool, asked: Question) -> Answer<Difference> {
        let (left, right) = (asked.left.to_string(), asked.right.to_string());
        // What follows the first option must not look like its value.
        let mut words: Vec<OsString> =
            ["--metadata-snap", "--snap1", &left, "--snap2", &right].map(Into::into).into();
        words.push((&pool.metadata).into());
        let read = move |printed: PipeReader| {
            difference(printed, asked).map_err(|misprint| Misread {
                why: format!("'thin_delta' printed something else than expected: {}", misprint.why),
                is_cut: misprint.is_cut,
            })
        };
        THIN_DELTA.run_reading(&words, DELTA_WITHIN, read)
    }

    pub(super) fn error(&self, why: &str) -> Error {
        let message = escape::line(why).into_owned();
        Error::Source { path: self.address.to_string().into(), message }
    }

    pub(super) fn of(&self, volume: &str) -> String {
        format!("{}/{volume}", self.address.group())
    }
}

fn run(program: &Program, fixed: &[&str], of: &str) -> Answer<Vec<u8>> {
    let words = fixed.iter().copied().chain([of]).map(Into::into);
    program.run(&words.collect::<Vec<OsString>>(), WITHIN)
}
