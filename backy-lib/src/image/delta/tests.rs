//! Appending to a delta.

use super::*;
use crate::base::error::ErrorKind;
use crate::storage::dir::DirStorage;

/// With every block size, content past the last place that an entry can name is not appended: that is an error, and
/// the file stays as it was. Content that just fits is appended.
#[test]
fn a_delta_that_would_be_too_long_stays_as_it_is() {
    for bits in [12, 14, 16, 18, 20, 21] {
        let size = BlockSize::new(1 << bits).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let storage = DirStorage::create(&folder.path().join("a")).unwrap();
        let revision = RevisionId::new(jiff::Timestamp::UNIX_EPOCH);
        let mut writer = DeltaWriter::create(&storage, revision, size, 64 * size.bytes()).unwrap();
        let table = writer.delta.header.refcount_table_clusters;
        let limit = Layout::max_file_bytes(size, table);
        let block = |number: u64, content| OldBlock { block: BlockIndex(number), content };
        let frame = || StoredBlock::Compressed(vec![7; 100]);
        let before = writer.delta.file.len().unwrap();
        for (end, fits) in [(limit - 3 * size.bytes(), true), (limit - size.bytes(), false)] {
            writer.end = end;
            let plain = StoredBlock::Plain(vec![7; size.len()]);
            let appended = writer.check_room(&[block(0, frame()), block(1, plain)]);
            assert_eq!(appended.is_ok(), fits, "{bits}: {appended:?}");
        }
        let error = writer.append(&[block(0, frame())]).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert_eq!(writer.delta.file.len().unwrap(), before);
        assert!(writer.appended.is_empty());
    }
}
