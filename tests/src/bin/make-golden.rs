//! Makes the golden archive of the present format in a folder that is not there yet.
//!
//! Run once for each new format; its result is committed and never made anew:
//! `cargo run -p backy-tests --bin make-golden -- tests/golden/format-N`

use std::error::Error;
use std::path::{Path, PathBuf};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::clock::FixedClock;
use backy_lib::progress::Silent;
use backy_lib::{BackupOptions, ImageUpdate};
use backy_tests::golden;
use backy_tests::memory::MemorySource;
use backy_tests::world::BLOCK_SIZE;
use jiff::{SignedDuration, Timestamp};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: make-golden FOLDER")?);
    if folder.exists() {
        return Err(format!(
            "{} is there already; a golden archive is never changed",
            folder.display()
        )
        .into());
    }
    Archive::init(&folder, Some(Path::new("/dev/vg0/golden")), BLOCK_SIZE)?;
    let mut now: Timestamp = "2026-11-20T02:00:00Z".parse()?;
    for (number, state) in golden::states().iter().enumerate() {
        let mut writer = ArchiveWriter::open(Archive::open(&folder)?, "make-golden", &Silent)?;
        let options = BackupOptions {
            tags: if number == 2 { ["before-upgrade".parse()?].into() } else { [].into() },
            threads: Some(1),
            update: ImageUpdate::InPlace,
            ..BackupOptions::default()
        };
        let made = writer.backup(&MemorySource::new(state), &options, &FixedClock(now), &Silent)?;
        made.ok_or("no backup was due")?;
        now += SignedDuration::from_hours(24);
    }
    Ok(())
}
