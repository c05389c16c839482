//! Makes a golden archive of the present format in a folder that is not there yet.
//!
//! Run once for each addition to the format; its result is committed and never made anew:
//! `cargo run -p backy-tests --bin make-golden -- tests/golden/format-N-WHAT [kept|alarms]`. With `kept`, revisions have been
//! removed, merged and made standalone, and the archive has been scrubbed and drilled. With `alarms`, two backups were
//! unusual, the first of which is confirmed, and a block is lost, which is known.

use std::error::Error;
use std::path::{Path, PathBuf};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::clock::FixedClock;
use backy_lib::progress::Silent;
use backy_lib::{BackupOptions, ImageUpdate, MaintenanceOptions, ScrubOptions, drill};
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
    if std::env::args().nth(2).as_deref() == Some("alarms") {
        return alarms(&folder, now);
    }
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
    if std::env::args().nth(2).as_deref() == Some("kept") {
        keep(&folder, FixedClock(now))?;
    }
    Ok(())
}

/// Four more backups of the same states, then all that changes what is there.
fn keep(folder: &Path, clock: FixedClock) -> Result<(), Box<dyn Error>> {
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "make-golden", &Silent)?;
    for state in golden::states() {
        let options = BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() };
        writer.backup(&MemorySource::new(&state), &options, &clock, &Silent)?;
    }
    // A delta takes over the blocks of two others; the image goes back to the one before.
    writer.remove(&[0, 4, 5], &clock, &Silent)?;
    let config = folder.join("backy.toml");
    write_config(&config, "max_chain = 2\n")?;
    writer.maintain(
        &MaintenanceOptions { threads: Some(1), ..MaintenanceOptions::default() },
        &clock,
        &Silent,
    )?;
    write_config(&config, "")?;
    writer.backup(
        &MemorySource::new(&golden::states()[0]),
        &BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() },
        &clock,
        &Silent,
    )?;
    writer.tag(1, &["kept".parse()?].into(), &[].into(), &clock, &Silent)?;
    writer.scrub(&ScrubOptions { threads: Some(1), ..Default::default() }, &clock, &Silent)?;
    let drill = drill::read(writer.archive(), 3, Some(1), &clock, &Silent)?;
    writer.record_drill(drill, &clock, &Silent)?;
    Ok(())
}

/// A night for each state, with somebody who confirms the first alarm and a lost block of the image.
fn alarms(folder: &Path, mut now: Timestamp) -> Result<(), Box<dyn Error>> {
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "make-golden", &Silent)?;
    let options = BackupOptions {
        threads: Some(1),
        update: ImageUpdate::InPlace,
        ..BackupOptions::default()
    };
    for (number, state) in golden::unusual_states().iter().enumerate() {
        let clock = FixedClock(now);
        writer.backup(&MemorySource::new(state), &options, &clock, &Silent)?;
        if number == 7 {
            spoil(&folder.join("last.raw"))?;
            let scrub = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
            writer.scrub(&scrub, &clock, &Silent)?;
            let confirm = MaintenanceOptions { confirm: true, threads: Some(1), keep: None };
            writer.maintain(&confirm, &clock, &Silent)?;
        }
        now += SignedDuration::from_hours(24);
    }
    Ok(())
}

/// Flips a bit of the fourth block.
#[expect(clippy::disallowed_methods, reason = "damages a file behind the library's back")]
fn spoil(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut image = std::fs::read(path)?;
    *image.get_mut(3 * 4096 + 5).ok_or("a short image")? ^= 1;
    Ok(std::fs::write(path, image)?)
}

#[expect(clippy::disallowed_methods, reason = "edits the config as a person would")]
fn write_config(path: &Path, more: &str) -> Result<(), Box<dyn Error>> {
    Ok(std::fs::write(path, format!("source = \"/dev/vg0/golden\"\n{more}"))?)
}
