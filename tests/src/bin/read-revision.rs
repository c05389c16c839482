//! `read-revision ARCHIVE`: reads the newest revision from the first byte to the last, in one thread, as the Python
//! module does. The benchmark compares with it.

use std::path::Path;

use backy_lib::Archive;
use backy_lib::image::reader::ReadCache;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let archive = std::env::args_os().nth(1).ok_or("usage: read-revision ARCHIVE")?;
    let archive = Archive::open(Path::new(&archive))?;
    let reader = archive.open_reader(archive.id(0)?, &ReadCache::new(64 << 20))?;
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < reader.size_bytes() {
        offset += reader.read_at(&mut buffer, offset)? as u64;
    }
    Ok(())
}
