//! Makes a golden archive of the present format in a new folder.
//!
//! Run it once for each addition to the format. Its result is committed and never made again:
//! `cargo run -p backy-tests --bin make-golden -- tests/golden/format-N-WHAT [kept|alarms|flawed|pulled|tracked]`. With
//! `kept`, revisions have been removed, merged and made standalone, and the archive has been scrubbed and drilled.
//! With `alarms`, two backups were unusual, the first of which is confirmed, and a block is lost, which is known.
//! With `flawed`, the source is a file with a partition table, a block has neither content nor digest, and an older
//! delta has a flaw. With `pulled`, it is a copy of `format-1`, whose third revision has arrived in part. With
//! `tracked`, the source keeps marks, and has not reported a change of the third revision.

use std::error::Error;
use std::path::{Path, PathBuf};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::clock::FixedClock;
use backy_lib::extent::Extent;
use backy_lib::hooks::NoHooks;
use backy_lib::origin::{Fetched, Listing, LocalOrigin, Origin, TablePiece};
use backy_lib::progress::Silent;
use backy_lib::source::DeviceSource;
use backy_lib::units::BlockIndex;
use backy_lib::{
    BackupOptions, ImageUpdate, MaintenanceOptions, PullOptions, RevisionId, ScrubOptions, drill,
};
use backy_tests::golden;
use backy_tests::memory::MemorySource;
use backy_tests::tracked::TrackedDisk;
use backy_tests::world::{self, BLOCK_SIZE};
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
    if std::env::args().nth(2).as_deref() == Some("pulled") {
        return pulled(&folder, now);
    }
    if std::env::args().nth(2).as_deref() == Some("tracked") {
        return tracked(&folder, now);
    }
    if std::env::args().nth(2).as_deref() == Some("flawed") {
        return flawed(&folder, now);
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

/// Four more backups of the same states, then everything that changes existing data.
fn keep(folder: &Path, clock: FixedClock) -> Result<(), Box<dyn Error>> {
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "make-golden", &Silent)?;
    for state in golden::states() {
        let options = BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() };
        writer.backup(&MemorySource::new(&state), &options, &clock, &Silent)?;
    }
    // A delta takes over the blocks of two others; the image returns to the one before.
    let ids = world::ids(writer.archive(), &[0, 4, 5])?;
    writer.remove(&ids, &clock, &Silent)?;
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
    writer.tag(writer.archive().id(1)?, &["kept".parse()?].into(), &[].into(), &clock, &Silent)?;
    writer.scrub(&ScrubOptions { threads: Some(1), ..Default::default() }, &clock, &Silent)?;
    let archive = writer.archive();
    let drill = drill::read(archive, archive.id(3)?, Some(1), &clock, &Silent)?;
    writer.record_drill(drill, &clock, &Silent)?;
    Ok(())
}

/// A night for each state, in which somebody confirms the first alarm and a lost block of the image.
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

/// Four nights of a file, scrubbed after the third; then a block of the image and its digest are wrong, and an
/// entry of a delta and its digest are, which a scrub finds; and a fifth night.
#[expect(
    clippy::disallowed_methods,
    reason = "writes a source, and damages files behind the library's back"
)]
fn flawed(folder: &Path, mut now: Timestamp) -> Result<(), Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let source = place.path().join("disk");
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "make-golden", &Silent)?;
    let options = BackupOptions {
        threads: Some(1),
        update: ImageUpdate::InPlace,
        ..BackupOptions::default()
    };
    let scrub = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    let states = golden::partitioned_states();
    let (last, nights) = states.split_last().ok_or("no states")?;
    for (number, state) in nights.iter().enumerate() {
        let clock = FixedClock(now);
        std::fs::write(&source, state)?;
        writer.backup(&DeviceSource::open(&source)?, &options, &clock, &Silent)?;
        if number == 2 {
            writer.scrub(&scrub, &clock, &Silent)?;
        }
        now += SignedDuration::from_hours(24);
    }
    let uuid = |number: usize| {
        writer.archive().revisions().get(number).map(|r| r.uuid).ok_or("a revision")
    };
    let (newest, older) = (uuid(0)?, uuid(2)?);
    let flip = |name: String, at: usize| -> Result<(), Box<dyn Error>> {
        let path = folder.join(name);
        let mut content = std::fs::read(&path)?;
        *content.get_mut(at).ok_or("a short file")? ^= 1;
        Ok(std::fs::write(path, content)?)
    };
    flip("last.raw".to_owned(), 9 * 4096 + 5)?;
    flip(format!("{newest}.image.digests"), 4096 + 9 * 32)?;
    let delta = folder.join(format!("{older}.qcow2"));
    let mut content = std::fs::read(&delta)?;
    let held = (3 * 4096..4 * 4096)
        .step_by(8)
        .find(|&at| content.get(at..at + 8).is_some_and(|raw| raw != [0; 8]));
    let held = held.ok_or("an empty delta")?;
    content.get_mut(held..held + 8).ok_or("an entry")?.fill(0);
    std::fs::write(&delta, content)?;
    flip(format!("{older}.delta.digests"), 4096 + (held - 3 * 4096) / 8 * 32)?;
    writer.scrub(&scrub, &FixedClock(now), &Silent)?;
    std::fs::write(&source, last)?;
    writer.backup(&DeviceSource::open(&source)?, &options, &FixedClock(now), &Silent)?;
    Ok(())
}

/// A pull from `format-1` that breaks off after two blocks of the third revision.
fn pulled(folder: &Path, now: Timestamp) -> Result<(), Box<dyn Error>> {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/format-1");
    let mut origin =
        BreaksOff { inner: LocalOrigin::new(Archive::open(&origin)?), revision: 0, blocks: 2 };
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "make-golden", &Silent)?;
    let options =
        PullOptions { threads: Some(1), update: ImageUpdate::InPlace, ..PullOptions::default() };
    match writer.pull(&mut origin, &options, &FixedClock(now), &Silent) {
        Ok(_) => Err("the pull did not break off".into()),
        Err(_) => Ok(()),
    }
}

/// A night for each of seven states of a source that keeps marks. In the third it hides a change, which is found, as
/// everything is read.
fn tracked(folder: &Path, mut now: Timestamp) -> Result<(), Box<dyn Error>> {
    write_config(&folder.join("backy.toml"), "\n[tracking]\nverify_within = \"9d\"\n")?;
    let source = TrackedDisk::new(&[]);
    let mut writer = ArchiveWriter::open(Archive::open(folder)?, "make-golden", &Silent)?;
    for (number, state) in golden::unusual_states().iter().take(7).enumerate() {
        let lies = number == 2;
        let options = BackupOptions {
            threads: Some(1),
            update: ImageUpdate::InPlace,
            read_all: lies,
            ..BackupOptions::default()
        };
        source.set(state);
        source.hide(if lies { &[Extent { offset: 2 * 4096, len: 4096 }] } else { &[] });
        let open = |_: &Archive| Ok(source.open());
        writer.backup_from(open, &mut NoHooks, &options, &FixedClock(now), &Silent)?;
        now += SignedDuration::from_hours(24);
    }
    Ok(())
}

/// An origin whose connection ends after some blocks of the third revision.
struct BreaksOff {
    inner: LocalOrigin,
    /// How many revisions were begun.
    revision: u32,
    /// How many more blocks it gives.
    blocks: u32,
}

impl Origin for BreaksOff {
    fn name(&self) -> String {
        "/srv/backup/golden".to_owned()
    }

    fn listing(&mut self) -> backy_lib::Result<Listing> {
        self.inner.listing()
    }

    fn table(
        &mut self,
        revision: RevisionId,
        since: Option<RevisionId>,
        from: BlockIndex,
    ) -> backy_lib::Result<TablePiece> {
        self.revision += 1;
        self.inner.table(revision, since, from)
    }

    fn fetch(
        &mut self,
        revision: RevisionId,
        wanted: &[BlockIndex],
        take: &mut dyn FnMut(BlockIndex, Fetched<'_>) -> backy_lib::Result<()>,
    ) -> backy_lib::Result<()> {
        let BreaksOff { inner, revision: number, blocks } = self;
        inner.fetch(revision, wanted, &mut |block, fetched| {
            if *number == 3 {
                *blocks = blocks.checked_sub(1).ok_or(backy_lib::Error::Interrupted)?;
            }
            take(block, fetched)
        })
    }
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
