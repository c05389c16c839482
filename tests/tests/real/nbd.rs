//! Exports of real NBD servers: those of QEMU, and nbdkit, which can be made to fail.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use backy_lib::archive::ArchiveWriter;
use backy_lib::extent::Extent;
use backy_lib::format::manifest::SourceIdentity;
use backy_lib::progress::Silent;
use backy_lib::source::Source;
use backy_lib::source::nbd::{NbdAddress, NbdOptions, NbdSource, Patience};
use backy_lib::{Archive, BackupOptions, BackupReport, Result, SystemClock};
use backy_tests::qemu;
use rustix::process::{Pid, Signal, kill_process};

use crate::mounted::until;
use crate::processes::Running;
use crate::site::{BLOCK_BYTES, Site, noise, text, works};

const MIB: usize = 1 << 20;
/// The size of the images, of which little is data.
const SIZE: usize = 24 * MIB;
/// Where the data is: at the beginning, in the middle, and at the end.
const DATA: [(usize, usize); 3] =
    [(0, 300_000), (7 * MIB, 2 * MIB), (SIZE - BLOCK_BYTES, BLOCK_BYTES)];

/// Whether a program is here. Prints `SKIPPED` when not.
fn available(program: &str, package: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        qemu::skipped(&format!("{program} is not installed (package {package})"));
    }
    found
}

fn qemu_nbd_is_here() -> bool {
    available("qemu-nbd", "qemu-utils")
}

fn nbdkit_is_here() -> bool {
    available("nbdkit", "nbdkit")
}

/// A sparse raw image, and its bytes.
fn sparse_image(path: &Path, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let file = File::create(path).expect("make an image");
    file.set_len(SIZE as u64).expect("make it long");
    for (number, (start, length)) in DATA.into_iter().enumerate() {
        bytes[start..start + length].copy_from_slice(&noise(seed + number as u64, length));
        file.write_all_at(&bytes[start..start + length], start as u64).expect("write to it");
    }
    bytes
}

/// Whether somebody listens on a socket, which is there a moment earlier; `proc_net_unix(5)`. Without a connection:
/// some servers end after the first.
fn is_listening(socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let sockets = fs::read_to_string("/proc/net/unix").expect("list the sockets");
    sockets.lines().any(|line| {
        line.ends_with(text(socket)) && line.split_ascii_whitespace().nth(3) == Some(ACCEPTS)
    })
}

/// A server that ends with its value.
struct Server {
    process: Running,
    address: NbdAddress,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts a server on a socket in a new folder, which `command` gets.
    fn on_socket(export: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = folder.path().join("socket");
        let process = Running::start(&mut command(&socket));
        let address = format!("nbd+unix:///{export}?socket={}", socket.display());
        let address = address.parse().expect("an address");
        until("the server listens", || is_listening(&socket));
        Server { process, address, folder }
    }

    /// The same on a port of the loopback.
    fn on_port(export: &str, command: impl FnOnce(u16) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unused = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = unused.local_addr().expect("a port").port();
        drop(unused);
        let process = Running::start(&mut command(port));
        let address = format!("nbd://127.0.0.1:{port}/{export}").parse().expect("an address");
        let line = format!(" 0100007F:{port:04X} 00000000:0000 0A ");
        until("the server listens", || {
            fs::read_to_string("/proc/net/tcp").expect("the table of sockets").contains(&line)
        });
        Server { process, address, folder }
    }

    fn open(&self) -> Result<NbdSource> {
        NbdSource::open(&self.address, &NbdOptions::default())
    }

    /// With little patience.
    fn open_impatiently(&self) -> Result<NbdSource> {
        let silence = Duration::from_secs(1);
        let patience = Patience { connect: silence, silence, answer: 4 * silence };
        NbdSource::open(&self.address, &NbdOptions { bitmap: None, patience })
    }

    fn error(&self) -> String {
        self.open().err().expect("it has to fail").to_string()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.0.id() as i32).expect("a process");
        kill_process(pid, signal).expect("send a signal");
    }
}

/// `qemu-nbd` for one client at a time.
fn qemu_nbd(format: &str, image: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("qemu-nbd");
    command.args(["--persistent", "--read-only", "-f", format]).args(options).arg(image);
    command
}

fn qemu_nbd_on_socket(format: &str, image: &Path, options: &[&str]) -> Server {
    Server::on_socket("", |socket| {
        qemu_nbd(format, image, &[&["-k", text(socket)], options].concat())
    })
}

/// nbdkit with the plugin `file`.
fn nbdkit(image: &Path, filters: &[&str], options: &[&str]) -> Server {
    Server::on_socket("", |socket| {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--readonly", "-U", text(socket)]);
        command.args(filters.iter().map(|filter| format!("--filter={filter}")));
        let (flags, parameters): (Vec<&str>, Vec<&str>) =
            options.iter().partition(|option| option.starts_with('-'));
        command.args(flags).arg("file").arg(image).args(parameters);
        command
    })
}

/// A source that records what is read from it.
struct Watched {
    source: NbdSource,
    read: Mutex<Vec<Extent>>,
}

impl Source for Watched {
    fn identity(&self) -> SourceIdentity {
        self.source.identity()
    }

    fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.source.current_size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let read = self.source.read_at(buffer, offset)?;
        self.read.lock().expect("no panic").push(Extent::new(offset, read as u64));
        Ok(read)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.source.next_data(offset)
    }

    fn knows_holes(&self) -> bool {
        self.source.knows_holes()
    }
}

/// Makes a revision of a source by the library.
fn back_up(site: &Site, source: &dyn Source) -> Result<BackupReport> {
    let archive = Archive::open(&site.folder).expect("open the archive");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("take the lock");
    let options = BackupOptions { force: true, ..BackupOptions::default() };
    let made = writer.backup(source, &options, &SystemClock, &Silent)?;
    Ok(made.expect("a forced backup is made"))
}

fn new_site(place: &Path) -> Site {
    let source = place.join("source");
    fs::write(&source, []).expect("make the source");
    Site::init(place, &source)
}

/// A backup of an export has its bytes and identity. Returns what was read.
fn check_backup(site: &mut Site, server: &Server, bytes: &[u8]) -> Vec<Extent> {
    let source =
        Watched { source: server.open().expect("open the export"), read: Mutex::default() };
    assert_eq!(source.size_bytes(), bytes.len() as u64);
    let report = back_up(site, &source).expect("a backup");
    let archive = Archive::open(&site.folder).expect("open the archive");
    let identity = archive.manifest().source.clone().expect("an identity");
    assert_eq!(identity.kind, "NBD export");
    assert_eq!(identity.path, server.address.to_string());
    site.push(&report.revision.uuid.to_string(), bytes);
    site.check_here();
    source.read.into_inner().expect("no panic")
}

/// Holes are not read, apart from blocks that are partly data.
fn check_reads(read: &[Extent]) {
    let data: usize = DATA.iter().map(|(_, length)| length.next_multiple_of(BLOCK_BYTES)).sum();
    let total: u64 = read.iter().map(|extent| extent.len).sum();
    // The identity takes the beginning.
    let most = (data + MIB) as u64;
    assert!(total <= most, "{total} bytes were read; expected at most {most}: {read:?}");
}

/// Backups of exports of `qemu-nbd`, raw and qcow2, over a socket and over TCP, have the bytes of the image. Holes are
/// not read. A later backup has what has changed.
#[test]
fn exports_of_qemu_nbd_are_backed_up() {
    if !qemu_nbd_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let (raw, qcow2) = (place.path().join("raw"), place.path().join("qcow2"));
    let mut site = new_site(place.path());
    for seed in [1, 7] {
        let bytes = sparse_image(&raw, seed);
        works(
            Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", "qcow2"])
                .args([&raw, &qcow2]),
        );
        for (format, image) in [("raw", &raw), ("qcow2", &qcow2)] {
            let server = qemu_nbd_on_socket(format, image, &[]);
            check_reads(&check_backup(&mut site, &server, &bytes));
            let server = Server::on_port("my%20disk", |port| {
                let port = port.to_string();
                qemu_nbd(format, image, &["-b", "127.0.0.1", "-p", &port, "-x", "my disk"])
            });
            check_reads(&check_backup(&mut site, &server, &bytes));
            assert!(server.error_of_other_export().contains("no such export"));
        }
    }
    site.check_at_rest();
}

impl Server {
    /// What a client gets that asks for an export that does not exist.
    fn error_of_other_export(&self) -> String {
        let other = self.address.to_string().replace("my%20disk", "other");
        let other = other.parse().expect("an address");
        let opened = NbdSource::open(&other, &NbdOptions::default());
        opened.err().expect("it has to fail").to_string()
    }
}

/// An image whose size is no multiple of a sector: QEMU rounds it up with zeros, and every byte of that is read.
#[test]
fn an_odd_image_is_read_as_qemu_exports_it() {
    if !qemu_nbd_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    let mut bytes = noise(3, MIB + 100);
    fs::write(&image, &bytes).expect("make an image");
    let server = qemu_nbd_on_socket("raw", &image, &[]);
    bytes.resize(MIB + 512, 0);
    let mut site = new_site(place.path());
    check_backup(&mut site, &server, &bytes);
}

/// `qemu-storage-daemon` is a server like any other.
#[test]
fn exports_of_the_storage_daemon_are_backed_up() {
    if !available("qemu-storage-daemon", "qemu-system-common") {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    let bytes = sparse_image(&image, 20);
    let server = Server::on_socket("my%20disk", |socket| {
        let mut command = Command::new("qemu-storage-daemon");
        let file = format!("driver=file,node-name=file,read-only=on,filename={}", image.display());
        let listen = format!("addr.type=unix,addr.path={}", socket.display());
        command.args(["--blockdev", &file, "--nbd-server", &listen]);
        command.args(["--blockdev", "driver=raw,node-name=disk,read-only=on,file=file"]);
        command.args(["--export", "type=nbd,id=export,node-name=disk,name=my disk"]);
        command
    });
    let mut site = new_site(place.path());
    until("the export exists", || server.open().is_ok());
    check_reads(&check_backup(&mut site, &server, &bytes));
    let error = server.error_of_other_export();
    assert!(error.contains("no such export") && error.contains("'other'"), "{error}");
}

/// A bitmap of a qcow2 image says what was written since it was made. One that does not exist is an error.
#[test]
fn bitmaps_of_qemu_are_read() {
    if !qemu_nbd_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("qcow2");
    let image_text = text(&image);
    works(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", image_text, "3G"]));
    let write = |what: &str| {
        works(Command::new("qemu-io").args(["-f", "qcow2", "-c", what, image_text]));
    };
    write("write -P 1 0 1M");
    works(
        Command::new("qemu-img")
            .args(["bitmap", "--add", "-g", "64k", "-f", "qcow2"])
            .args([image_text, "b"]),
    );
    write("write -P 2 1M 64k");
    write("write -P 3 2900M 128k");
    let server = qemu_nbd_on_socket("qcow2", &image, &["--bitmap=b"]);
    let open = |name: &str| {
        let options = NbdOptions { bitmap: Some(name.to_owned()), ..NbdOptions::default() };
        NbdSource::open(&server.address, &options)
    };
    let source = open("b").expect("open it with the bitmap");
    let walked = |next: &dyn Fn(u64) -> Result<Option<Extent>>| {
        let (mut found, mut offset) = (Vec::new(), 0);
        while let Some(extent) = next(offset).expect("an answer") {
            found.push((extent.offset, extent.len));
            offset = extent.end();
        }
        found
    };
    let dirty = walked(&|offset| source.next_dirty(offset));
    let far = 2900 * MIB as u64;
    assert_eq!(dirty, [(MIB as u64, 64 << 10), (far, 128 << 10)]);
    let data = walked(&|offset| source.next_data(offset));
    assert_eq!(data, [(0, MIB as u64 + (64 << 10)), (far, 128 << 10)]);
    drop(source);
    let error = open("other").err().expect("there is no such bitmap").to_string();
    assert!(error.contains("no context 'qemu:dirty-bitmap:other'"), "{error}");
}

/// A server that requires TLS is refused in one line that says what to do.
#[test]
fn a_server_that_requires_tls_is_refused() {
    if !qemu_nbd_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    sparse_image(&image, 30);
    let keys = place.path().join("keys.psk");
    fs::write(keys, format!("backy:{}\n", "ab".repeat(32))).expect("write the keys");
    let secret = format!("tls-creds-psk,id=tls,endpoint=server,dir={}", place.path().display());
    let server = qemu_nbd_on_socket("raw", &image, &["--object", &secret, "--tls-creds", "tls"]);
    let error = server.error();
    assert!(
        error.contains("requires TLS") && error.contains("which backy does not speak"),
        "{error}"
    );
}

/// A server that serves somebody else, hangs, or ends is an error within the limits, which names it.
#[test]
fn a_server_that_is_busy_hangs_or_ends_is_given_up() {
    if !qemu_nbd_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    let bytes = sparse_image(&image, 40);
    let mut server = qemu_nbd_on_socket("raw", &image, &[]);
    let source = server.open_impatiently().expect("open it");
    let busy = server.open_impatiently().err().expect("it serves one client").to_string();
    assert!(busy.contains("no byte came for 1 s") && busy.contains("another client"), "{busy}");
    let mut found = vec![0; MIB];
    source.read_at(&mut found, 7 * MIB as u64).expect("read it");
    assert!(found == bytes[7 * MIB..8 * MIB], "wrong bytes");
    server.signal(Signal::STOP);
    let began = Instant::now();
    let hangs = source.read_at(&mut found, 0).expect_err("nobody answers").to_string();
    assert!(
        hangs.contains("cannot read 262144 bytes at offset 0: no byte came for 1 s"),
        "{hangs}"
    );
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    server.signal(Signal::CONT);
    drop(source);
    let source = server.open_impatiently().expect("open it again");
    server.signal(Signal::KILL);
    until("it has ended", || !server.process.is_running());
    let ended = source.read_at(&mut found, 0).expect_err("it has ended").to_string();
    let why = ["closed the connection", "Connection reset", "cannot send a request"];
    assert!(why.iter().any(|why| ended.contains(why)), "{ended}");
    assert!(server.error().contains("is the server running?"));
}

/// Backups of exports of nbdkit, whatever it supports: all of it, no structured replies, no extents, or only requests
/// of whole blocks. Holes are not read where it knows them.
#[test]
fn exports_of_nbdkit_are_backed_up() {
    if !nbdkit_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    let bytes = sparse_image(&image, 50);
    let mut site = new_site(place.path());
    check_reads(&check_backup(&mut site, &nbdkit(&image, &[], &[]), &bytes));
    let small = ["blocksize-error-policy=error", "blocksize-minimum=4096", "blocksize-maximum=64K"];
    let server = nbdkit(&image, &["blocksize-policy"], &small);
    check_reads(&check_backup(&mut site, &server, &bytes));
    let mut odd = vec![0; 5000];
    server.open().expect("open it").read_at(&mut odd, 7 * MIB as u64 + 77).expect("read it");
    assert!(odd == bytes[7 * MIB + 77..][..5000], "wrong bytes");
    for (filters, options) in [(&[][..], &["--no-sr"][..]), (&["noextents"], &[])] {
        let server = nbdkit(&image, filters, options);
        assert_eq!(server.open().expect("open it").knows_holes(), options.is_empty());
        let read = check_backup(&mut site, &server, &bytes);
        let total: u64 = read.iter().map(|extent| extent.len).sum();
        assert!(total >= SIZE as u64, "only {total} bytes were read");
    }
}

/// A server that cannot read makes the backup fail with its error, and the archive is as it was. One that cannot say
/// where holes are is read as a whole.
#[test]
fn errors_of_nbdkit_are_shown() {
    if !nbdkit_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    let bytes = sparse_image(&image, 60);
    let mut site = new_site(place.path());
    check_backup(&mut site, &nbdkit(&image, &[], &[]), &bytes);
    for flags in [&[][..], &["--no-sr"]] {
        let options = [flags, &["error-pread=EIO", "error-pread-rate=100%"]].concat();
        let server = nbdkit(&image, &["error"], &options);
        let source = server.open().expect("open it");
        let error = back_up(&site, &source).expect_err("it cannot be read").to_string();
        assert!(error.contains("the server answers EIO (5)"), "{error}");
        assert!(error.contains(&server.address.to_string()), "{error}");
        site.check_here();
    }
    let options = ["error-extents=EIO", "error-extents-rate=100%"];
    let read = check_backup(&mut site, &nbdkit(&image, &["error"], &options), &bytes);
    let total: u64 = read.iter().map(|extent| extent.len).sum();
    assert!(total >= SIZE as u64, "only {total} bytes were read");
}

/// A slow server is waited for, and one that is slower than the limit is given up. When the source is dropped, the
/// server sees that its client has ended.
#[test]
fn a_slow_server_is_waited_for_and_the_end_is_announced() {
    if !nbdkit_is_here() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let image = place.path().join("raw");
    let bytes = sparse_image(&image, 70);
    let mut found = vec![0; MIB];
    let server = nbdkit(&image, &["delay"], &["rdelay=300ms"]);
    let source = server.open_impatiently().expect("open it");
    source.read_at(&mut found, 7 * MIB as u64).expect("read it");
    assert!(found == bytes[7 * MIB..8 * MIB], "wrong bytes");
    let server = nbdkit(&image, &["delay"], &["rdelay=3"]);
    let source = server.open_impatiently().expect("open it");
    let error = source.read_at(&mut found, 0).expect_err("it is too slow").to_string();
    assert!(error.contains("no byte came for 1 s"), "{error}");
    drop(source);

    let mut server = nbdkit(&image, &["exitlast"], &[]);
    let source = server.open().expect("open it");
    source.read_at(&mut found, 0).expect("read it");
    assert!(server.process.is_running());
    drop(source);
    until("it has ended", || !server.process.is_running());
    let left: Vec<PathBuf> =
        server.folder.path().read_dir().expect("list it").flatten().map(|e| e.path()).collect();
    assert!(left.len() <= 1, "{left:?}");
}
