//! Many files with few descriptors.

use super::*;
use crate::ErrorKind;
use crate::base::revision::RevisionId;
use crate::storage::dir::DirStorage;
use crate::storage::{Access, Storage};

/// More files than may be open, opened side by side.
struct Many {
    pool: &'static ManyFiles,
    storage: DirStorage,
    names: Vec<FileName>,
    files: Vec<Box<dyn StorageFile>>,
    _folder: tempfile::TempDir,
}

const FILES: usize = 3 * MOST_OPEN;

impl Many {
    fn open(keep: fn(&File) -> Kept) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = DirStorage::create(&folder.path().join("a")).unwrap();
        let new_name = |_| FileName::Delta(RevisionId::new(Timestamp::UNIX_EPOCH));
        let names: Vec<_> = (0..FILES).map(new_name).collect();
        let pool: &'static ManyFiles = Box::leak(Box::new(ManyFiles::new()));
        let fd = rustix::fs::open(storage.folder(), OFlags::RDONLY, Mode::empty()).unwrap();
        let fd = Arc::new(fd);
        let open = |&name: &FileName| {
            storage.create(name).unwrap().write_at(name.to_string().as_bytes(), 0).unwrap();
            pool.open_kept(&fd, storage.path(name), name, keep).unwrap()
        };
        let files = names.iter().map(open).collect();
        Many { pool, storage, names, files, _folder: folder }
    }

    fn read(&self, number: usize) -> Result<String> {
        let mut bytes = vec![0; self.names[number].to_string().len()];
        self.files[number].read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    /// How many files really have a descriptor.
    fn descriptors(&self) -> usize {
        let own = std::fs::read_dir("/proc/self/fd").unwrap();
        let own = own.filter_map(|entry| entry.unwrap().path().read_link().ok());
        own.filter(|path| path.starts_with(self.storage.folder()) && path.is_file()).count()
    }
}

/// Whether files can be distinguished here.
fn are_told_apart() -> bool {
    Identity::of(tempfile::tempfile().unwrap()).is_some()
}

/// However many there are, a few dozen have a descriptor. A closed file reads as if it had stayed open, even after
/// somebody wrote to it in place.
#[test]
fn few_of_many_files_have_a_descriptor() {
    let kinds: [fn(&File) -> Kept; 2] =
        [Kept::of, |file| Kept { identity: None, pin: Pin::of(file, None) }];
    for kind in kinds {
        let many = Many::open(kind);
        assert!(many.descriptors() <= MOST_OPEN, "{} are open", many.descriptors());
        for (number, name) in many.names.iter().enumerate() {
            assert_eq!(many.read(number).unwrap(), name.to_string());
        }
        assert!(many.descriptors() <= MOST_OPEN, "{} are open", many.descriptors());
        let first = many.storage.open(many.names[0], Access::Write).unwrap();
        first.write_at(b"other", 0).unwrap();
        assert!(many.read(0).unwrap().starts_with("other"));
        assert!(many.pool.close_all());
        assert_eq!(many.descriptors(), 1, "only the one that is written to");
        for (file, name) in many.files.iter().zip(&many.names) {
            assert_eq!(file.final_len().unwrap(), name.to_string().len() as u64);
        }
    }
}

/// A file that was deleted or replaced while it was closed reads all the same, and nothing of its replacement.
#[test]
fn a_file_that_was_deleted_while_it_was_closed_is_read() {
    let many = Many::open(Kept::of);
    many.pool.close_all();
    for &name in &many.names {
        many.storage.remove(name).unwrap();
    }
    for &name in many.names.iter().step_by(2) {
        many.storage.create(name).unwrap().write_at(b"another", 0).unwrap();
    }
    for (number, name) in many.names.iter().enumerate() {
        assert_eq!(many.read(number).unwrap(), name.to_string());
        let file = &many.files[number];
        let len = name.to_string().len() as u64;
        assert!(file.len().unwrap() >= len);
        assert_eq!(file.next_data(3).unwrap().unwrap().offset, 3);
        assert_eq!(file.next_data(file.len().unwrap()).unwrap(), None);
    }
    assert!(!many.pool.close_all(), "none of them can be opened");
}

/// A file that was cut short behind the reader's back, and then deleted, is an error of reading.
#[test]
fn what_cannot_be_copied_is_an_error() {
    let many = Many::open(Kept::of);
    many.pool.close_all();
    many.storage.open(many.names[0], Access::Write).unwrap().set_len(0).unwrap();
    many.storage.remove(many.names[0]).unwrap();
    let error = many.read(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("at offset 0"), "{error}");
}

/// If the system keeps no files, those that come first stay open. If one of the others was replaced while it was
/// closed, the error names the limit, and is no damage.
#[test]
fn a_file_that_nothing_keeps_is_an_error_when_it_was_replaced() {
    if !are_told_apart() {
        return;
    }
    let many = Many::open(|file| Kept { identity: Identity::of(file), pin: None });
    many.pool.close_all();
    let staying = most_staying().min(FILES);
    assert_eq!(many.pool.staying.load(Relaxed), staying);
    assert_eq!(many.descriptors(), staying);
    let last = FILES - 1;
    many.storage.remove(many.names[0]).unwrap();
    many.storage.remove(many.names[last]).unwrap();
    many.storage.create(many.names[last]).unwrap().write_at(b"another", 0).unwrap();
    assert_eq!(many.read(0).unwrap(), many.names[0].to_string());
    if staying < FILES {
        let error = many.read(last).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
}
