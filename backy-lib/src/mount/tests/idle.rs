//! A mount without open files keeps nothing of its archive open.

#![expect(clippy::disallowed_methods, reason = "plays the operator, who moves and damages files")]

use super::*;

/// The files that this process has open in the folder of the archive.
fn open_there(fixture: &Fixture) -> Vec<PathBuf> {
    let folder = fixture.archive_folder().canonicalize().unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    open.filter(|path| path.starts_with(&folder)).collect()
}

fn is_readable(tree: &Tree, handle: u64, expected: &[u8]) -> bool {
    let mut buffer = vec![0; expected.len()];
    tree.read(handle, 0, &mut buffer) == Ok(expected.len()) && buffer == expected
}

/// Names, attributes, links, partitions and files are accessed, and a new revision is noticed: nothing stays
/// open afterwards, except while a file is open.
#[test]
fn nothing_of_the_archive_is_open_unless_a_file_is() {
    let fixture = Fixture::new();
    let (old, new) = (bytes(1, 8), bytes(2, 8));
    fixture.backup(&old, "2026-11-22T19:13:05Z", &["daily"]);
    fixture.backup(&new, "2026-11-23T19:13:05Z", &[]);
    for writable in [false, true] {
        let tree = Arc::new(fixture.tree(writable));
        let nothing = Vec::<PathBuf>::new();
        assert_eq!(open_there(&fixture), nothing, "when mounted");
        for path in ["", "by-number", "by-date", "by-tag/daily", "latest.partitions"] {
            names(&tree, path);
            assert_eq!(open_there(&fixture), nothing, "{path}");
        }
        assert_eq!(content(&tree, "latest").unwrap(), new);
        assert_eq!(open_there(&fixture), nothing, "after a file was read");
        let first = tree.open(walk(&tree, "by-number/1").unwrap().number, writable).unwrap();
        let second = tree.open(walk(&tree, "latest").unwrap().number, false).unwrap();
        assert!(open_there(&fixture).len() > 2, "the open file is not held open");
        tree.release(first);
        assert!(open_there(&fixture).len() > 2, "the other file is still open");
        assert!(is_readable(&tree, second, &new));
        tree.release(second);
        assert_eq!(open_there(&fixture), nothing, "after both were closed");
    }
    let tree = Arc::new(fixture.tree(false));
    let watch = watch::start(Arc::clone(&tree)).unwrap();
    fixture.backup(&old, "2026-11-24T19:13:05Z", &[]);
    let start = Instant::now();
    while tree.attributes(ROOT).unwrap().links < 8 || !open_there(&fixture).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", open_there(&fixture));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(watch);
}

/// Opening a file that fails leaves nothing open either.
#[test]
fn a_file_that_cannot_be_opened_leaves_nothing_open() {
    let fixture = Fixture::new();
    fixture.backup(&bytes(1, 4), "2026-11-22T19:13:05Z", &[]);
    fixture.backup(&bytes(2, 4), "2026-11-23T19:13:05Z", &[]);
    let tree = fixture.tree(false);
    let old = walk(&tree, "by-number/1").unwrap();
    let delta = {
        let archive = fixture.archive();
        archive.find(archive.id(1).unwrap()).unwrap()
    };
    fs::write(&delta, b"no delta").unwrap();
    assert_eq!(tree.open(old.number, false), Err(Errno::IO));
    assert_eq!(open_there(&fixture), Vec::<PathBuf>::new());
}

/// Another folder in place of the archive's is not read, whatever it contains: names stay, files cannot be
/// opened, and open files keep working. When the archive is back, its files can be opened again.
#[test]
fn another_folder_in_its_place_is_not_read() {
    let fixture = Fixture::new();
    let good = bytes(1, 4);
    fixture.backup(&good, "2026-11-22T19:13:05Z", &[]);
    let tree = fixture.tree(false);
    let number = walk(&tree, "latest").unwrap().number;
    let handle = tree.open(number, false).unwrap();
    let (folder, aside) = (fixture.archive_folder(), fixture.folder.path().join("aside"));
    fs::rename(&folder, &aside).unwrap();
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(&aside).unwrap().flatten() {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    assert!(is_readable(&tree, handle, &good), "what is open stays");
    tree.release(handle);
    assert_eq!(walk(&tree, "latest").unwrap().number, number);
    assert_eq!(tree.open(number, false), Err(Errno::IO));
    assert!(tree.refresh().is_err());
    let findings = fixture.findings();
    assert!(findings.len() == 1 && findings[0].contains("not the folder"), "{findings:?}");
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(tree.open(number, false), Err(Errno::IO));
    fs::rename(&aside, &folder).unwrap();
    assert_eq!(content(&tree, "latest").unwrap(), good);
    assert!(tree.refresh().is_ok());
}
