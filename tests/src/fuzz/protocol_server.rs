//! Any bytes as what the side that asks sends: this side answers in whole frames, or ends with an error of one line,
//! and a caller finds nothing outside of the root.
//!
//! The bytes are tried as those of a caller of `serve`, in a folder without archives, and after an honest beginning as
//! requests to an origin in memory.

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex, PoisonError};

use backy_lib::Result;
use backy_lib::origin::Origin;
use backy_lib::origin::wire::{
    Answering, Hello, Patience, Role, ServeOptions, accept, answer, call, serve,
};

use super::protocol_client::{BEGINNING, check_error};
use super::scratch_folder;
use crate::fake_origin::FakeOrigin;

/// Runs the target.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let folder = scratch_folder();
    let (root, options) = (folder.path().join("root"), options());
    std::fs::create_dir(&root).expect("a folder");
    for begins in [false, true] {
        let magic: &[u8] = if begins { b"\x89backy\r\n" } else { b"" };
        let stream = [magic, data].concat();
        let written = Written::default();
        let streams = || (Cursor::new(stream.clone()), written.clone());
        check(serve(&root, streams(), &options).map(drop));
        if let Ok(accepted) = accept(&root, streams(), &options) {
            let inside = root.canonicalize().expect("the root");
            assert!(accepted.folder.starts_with(inside), "{}", accepted.folder.display());
        }
        assert_eq!(std::fs::read_dir(&root).expect("the root").count(), 0, "something was made");
    }
    requests(data);
}

fn options() -> ServeOptions {
    ServeOptions { program: "backy".to_owned(), threads: Some(1), ..ServeOptions::default() }
}

fn requests(data: &[u8]) {
    let mut bytes = vec![0; 50_000];
    bytes[10_000..20_000].fill(7);
    let fake = FakeOrigin::with(&[bytes[..30_000].to_vec(), bytes]);
    let origin = || -> Result<Box<dyn Origin>> { Ok(Box::new(fake.clone())) };
    let (archive, program) = ("a".to_owned(), "backy".to_owned());
    let hello = Hello { versions: vec![1], role: Role::Answer, archive, program, push: None };
    let patience = Patience::default();
    let written = Written::default();
    let stream = [BEGINNING, data].concat();
    let Ok(connection) = call((Cursor::new(stream), written.clone()), "far", &hello, patience)
    else {
        return;
    };
    let answering = Answering {
        origin: &origin,
        block_size: fake.block_size(),
        threads: Some(1),
        limit_rate: None,
        patience,
        stop: Arc::default(),
    };
    check(answer(connection, &answering).map(drop));
    written.check();
}

fn check(done: Result<()>) {
    if let Err(error) = done {
        check_error(&error);
    }
}

/// What was written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// It is the magic and whole frames.
    fn check(&self) {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = written.strip_prefix(b"\x89backy\r\n").expect("the magic");
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>().expect("a length");
            let (kind, after) = after.split_first_chunk::<4>().expect("a type");
            assert!((1..=12).contains(&kind[0]) && kind[1..] == [0; 3], "{kind:?}");
            rest = after.get(u32::from_be_bytes(*length) as usize..).expect("a whole frame");
        }
    }
}
