//! Targets and undo archives that fail while a restore writes to them.

use super::*;

/// A target that fails at any call, is full or is broken is an error, never a success, with `--keep-going` as well.
/// The archive stays as it is, and a restore onto what is left is right.
#[test]
fn a_target_that_fails_anywhere_is_an_error() {
    const CODES: [i32; 2] = [5, 28];
    let world = World::with_backups(false, &states(8, &[9, 12]));
    let files = world.disk.files();
    let archive = world::open(&world.disk).expect("open");
    let wanted = &world.expected[1].bytes;
    for (case, former) in former_contents(wanted, 8).into_iter().enumerate() {
        for (keep_going, code) in [(false, CODES[0]), (true, CODES[0]), (false, CODES[1])] {
            for at in 1.. {
                let place = format!("case {case}, call {at}, code {code}");
                let mut target = Device::new(TargetKind::File, &former);
                target.fails = Some((at, code));
                let options = RestoreOptions { keep_going, ..world::restore_options() };
                let done = archive.restore_to(archive.id(1).unwrap(), &target, &options, &Silent);
                if target.calls.load(Relaxed) < at {
                    done.unwrap_or_else(|error| panic!("{place}: undisturbed: {error}"));
                    assert!(target.bytes.content() == *wanted, "{place}");
                    assert!(at > 3, "{place}: hardly a call");
                    break;
                }
                let error = match done {
                    // What could not be read was written.
                    Ok(_) if code == CODES[0] => {
                        assert!(target.bytes.content() == *wanted, "{place}: wrong");
                        continue;
                    }
                    done => done.expect_err("a target that fails"),
                };
                assert!(error.to_string().starts_with("/memory: cannot "), "{place}: {error}");
                let kind = if code == CODES[1] { ErrorKind::NoSpace } else { ErrorKind::Io };
                assert_eq!(error.kind(), kind, "{place}");
                assert!(world.disk.files() == files, "{place}: the archive has changed");
                target.fails = None;
                archive
                    .restore_to(archive.id(1).unwrap(), &target, &options, &Silent)
                    .expect(&place);
                assert!(target.bytes.content() == *wanted, "{place}: again");
            }
        }
    }
}

/// Saving that fails at any call leaves no archive or a complete one, does not change the target, and works the next
/// time.
#[test]
fn a_failed_save_leaves_nothing_behind() {
    let world = World::with_backups(false, &states(6, &[9, 12]));
    let former = former_contents(&world.expected[1].bytes, 6).remove(3);
    let target = Device::new(TargetKind::File, &former);
    let trial = SimStorage::new(false);
    save(&world, 1, &target, &trial).expect("saving works");
    for at in 1..=trial.calls() {
        for fault in [
            Fault::Once(Failure::Io),
            Fault::FromThenOn(Failure::NoSpace),
            Fault::FromThenOn(Failure::Io),
            Fault::Crash,
        ] {
            let place = format!("{fault:?} at call {at}");
            let undo = SimStorage::new(false);
            undo.set_fault(at, fault, at);
            let result = save(&world, 1, &target, &undo);
            let undo = match fault {
                Fault::Crash => undo.crash(Unsynced::Subset(at)),
                Fault::FromThenOn(_) => undo.crash(Unsynced::Kept),
                Fault::Once(_) => undo.fork(),
            };
            assert!(target.bytes.content() == former, "{place}: the target was changed");
            let complete = world::open(&undo).is_ok();
            assert!(
                complete || result.is_err(),
                "{place}: told that it worked, but it is not there"
            );
            match save(&world, 1, &target, &undo) {
                Ok(_) => assert!(!complete, "{place}: written over"),
                // A crash may leave files that another archive could have left.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ArchiveExists, "{place}");
                    assert!(complete || !matches!(fault, Fault::Once(_)), "{place}: left over");
                }
            }
            if complete {
                go_back(&undo, &target).expect(&place);
                assert!(target.bytes.content() == former, "{place}: not undone");
            }
        }
    }
}

/// A target of which some bytes cannot be read until they are written.
struct BadSector {
    bytes: MemoryTarget,
    bad: std::sync::Mutex<Option<Extent>>,
}

impl Target for BadSector {
    fn path(&self) -> PathBuf {
        self.bytes.path()
    }

    fn kind(&self) -> TargetKind {
        TargetKind::BlockDevice
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.size_bytes()
    }

    fn prepare(&self, _size_bytes: u64) -> Result<()> {
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + buffer.len() as u64;
        match *self.bad.lock().expect("nobody panics") {
            Some(bad) if bad.offset < end && offset < bad.end() => {
                Err(Error::io("/memory", "read")(std::io::Error::from_raw_os_error(5)))
            }
            _ => self.bytes.read_at(buffer, offset),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        let mut bad = self.bad.lock().expect("nobody panics");
        let end = offset + data.len() as u64;
        if bad.is_some_and(|bad| offset <= bad.offset && bad.end() <= end) {
            *bad = None;
        }
        self.bytes.write_at(data, offset)
    }

    fn clear(&self, extent: Extent) -> Result<()> {
        self.write_at(&vec![0; extent.len as usize], extent.offset)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        Ok((offset < self.size_bytes()).then(|| Extent::between(offset, self.size_bytes())))
    }

    fn finish(&self, _size_bytes: u64) -> Result<()> {
        Ok(())
    }
}

/// What cannot be read of a target counts as different from the revision: the restore writes it, be it data or zeros,
/// and nothing else.
#[test]
fn a_sector_of_the_target_that_cannot_be_read_is_written() {
    let mut state = states(40, &[12]).remove(0);
    state[..BLOCK].fill(7);
    state[4 * BLOCK..12 * BLOCK].fill(0);
    let world = World::with_backups(false, &[state.clone()]);
    for block in [0, 8] {
        let extent = Extent::new((block * BLOCK + 512) as u64, 512);
        let target = BadSector {
            bytes: MemoryTarget::holding(&state),
            bad: std::sync::Mutex::new(Some(extent)),
        };
        let archive = world::open(&world.disk).expect("open");
        let options = world::restore_options();
        let report = archive
            .restore_to(archive.id(0).unwrap(), &target, &options, &Silent)
            .expect("a restore");
        assert!(target.bad.lock().expect("nobody panics").is_none(), "block {block}");
        assert!(target.bytes.content() == state, "block {block}");
        if block == 0 {
            assert_eq!(report.written_bytes, BLOCK as u64);
        }
    }
}
