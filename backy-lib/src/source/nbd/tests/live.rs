//! The client against servers that run beside it: several threads, and servers that hang.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::base::fork::tests::{beside_a_child, without_children};

const SIZE: usize = 3 << 20;

fn content() -> Vec<u8> {
    (0..SIZE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Listens on a socket in a folder of its own and gives the first caller to `serve`.
fn serve(serve: impl FnOnce(UnixStream) + Send + 'static) -> (tempfile::TempDir, NbdAddress) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || serve(listener.accept().unwrap().0));
    let address = format!("nbd+unix:///x?socket={}", path.display()).parse().unwrap();
    (folder, address)
}

/// Short, so that a test does not take minutes.
fn patience() -> Patience {
    let silence = Duration::from_millis(300);
    Patience { connect: silence, silence, answer: Duration::from_millis(900) }
}

fn open_with(address: &NbdAddress, patience: Patience) -> Result<NbdSource> {
    NbdSource::open(address, &NbdOptions { bitmap: None, patience })
}

/// Reads what a client sends until it transmits: its flags and three options.
fn skip_options(stream: &mut UnixStream) {
    stream.read_exact(&mut [0; 4]).unwrap();
    for _ in 0..3 {
        let mut head = [0; 16];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[12..].try_into().unwrap());
        stream.read_exact(&mut vec![0; length as usize]).unwrap();
    }
}

/// Each of many threads gets its own bytes, whatever the order in which the server answers and interleaves its chunks.
#[test]
fn several_threads_read_at_once() {
    let (_folder, address) = serve(|mut stream| {
        let content = content();
        stream.write_all(&beginning(SIZE as u64)).unwrap();
        skip_options(&mut stream);
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut waiting = Vec::new();
        loop {
            let mut asked = [0; 28];
            let came = stream.read_exact(&mut asked);
            let closed = matches!(&came, Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
            if closed || asked[7] == 2 {
                return;
            }
            if came.is_ok() {
                let cookie = u64::from_be_bytes(asked[8..16].try_into().unwrap());
                let offset = u64::from_be_bytes(asked[16..24].try_into().unwrap());
                let length = u32::from_be_bytes(asked[24..].try_into().unwrap());
                waiting.push((cookie, offset, length as usize));
            }
            assert!(waiting.len() <= DEPTH, "{} requests without an answer", waiting.len());
            if came.is_ok() && waiting.len() < 7 {
                continue;
            }
            // First the second halves, then the first halves in the other order.
            let part = |flags, cookie, offset: u64, length: usize| {
                data(flags, cookie, offset, &content[offset as usize..][..length])
            };
            for &(cookie, offset, length) in &waiting {
                let half = length / 2;
                stream.write_all(&part(0, cookie, offset + half as u64, length - half)).unwrap();
            }
            for (cookie, offset, length) in waiting.drain(..).rev() {
                stream.write_all(&part(1, cookie, offset, length / 2)).unwrap();
            }
        }
    });
    let source = open_with(&address, Patience::default()).unwrap();
    let content = content();
    thread::scope(|scope| {
        for thread in 0..8_usize {
            let (source, content) = (&source, &content);
            scope.spawn(move || {
                for round in 0..6 {
                    let start = (thread * 331_777 + round * 777_777) % (SIZE - 700_000);
                    let mut bytes = vec![0; 1000 + (thread * 99_991 + round * 31) % 699_000];
                    let length = bytes.len();
                    assert_eq!(source.read_at(&mut bytes, start as u64).unwrap(), length);
                    assert!(bytes == content[start..start + length], "thread {thread}");
                }
            });
        }
    });
}

/// If the connection ends while many threads wait, each of them gets an error.
#[test]
fn an_end_of_the_connection_reaches_every_thread() {
    let _no_copies = without_children();
    let (_folder, address) = serve(|mut stream| {
        stream.write_all(&beginning(SIZE as u64)).unwrap();
        skip_options(&mut stream);
        stream.read_exact(&mut [0; 28 * 5]).unwrap();
    });
    let source = open_with(&address, Patience::default()).unwrap();
    thread::scope(|scope| {
        for thread in 0..6 {
            let source = &source;
            scope.spawn(move || {
                let error = source.read_at(&mut [0; 100], thread * 1000).unwrap_err().to_string();
                assert!(error.starts_with("source nbd+unix:///x?socket="), "{error}");
                let ended = ["closed the connection", "Connection reset", "cannot send"];
                assert!(ended.iter().any(|ended| error.contains(ended)), "{error}");
            });
        }
    });
}

/// When the source is dropped, the server sees the end of the connection, even while a child lives that was forked
/// before.
#[test]
fn a_child_keeps_no_connection_open() {
    let (sender, ended) = std::sync::mpsc::channel();
    let (_folder, address) = serve(move |mut stream| {
        stream.write_all(&beginning(1000)).unwrap();
        skip_options(&mut stream);
        let mut sent = Vec::new();
        stream.read_to_end(&mut sent).unwrap();
        sender.send(sent).unwrap();
    });
    let source = open_with(&address, Patience::default()).unwrap();
    let sent = beside_a_child(|| {
        drop(source);
        ended.recv_timeout(Duration::from_secs(20))
    });
    assert_eq!(sent.expect("the server sees the end")[..8], *b"\x25\x60\x95\x13\0\0\0\x02");
}

/// A server that falls silent at any stage is given up, with the limit in the message.
#[test]
fn a_silent_server_is_given_up() {
    let whole = beginning(1000);
    for sent in [0, 9, 18, 40, whole.len()] {
        let part = whole[..sent].to_vec();
        let (_folder, address) = serve(move |mut stream| {
            stream.write_all(&part).unwrap();
            // Until the client has gone.
            while stream.read(&mut [0; 1000]).is_ok_and(|read| read > 0) {}
        });
        let began = Instant::now();
        let read = open_with(&address, patience())
            .and_then(|source| source.read_at(&mut [0; 10], 0).map(drop));
        let error = read.unwrap_err().to_string();
        assert!(error.contains("no byte came for 0.3 s, expected "), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    }
}

/// A server that sends a byte now and then gets nowhere, neither when it greets nor later, nor with small chunks.
#[test]
fn a_server_that_drips_is_given_up() {
    let small: Vec<u8> = (0..100).flat_map(|at| hole(0, 1, at, 1)).collect();
    for (at_once, step) in [(0, 1), (beginning(1000).len(), 1), (beginning(1000).len(), 32)] {
        let all = bytes(&[&beginning(1000), &small]);
        let (_folder, address) = serve(move |mut stream| {
            let mut sent = stream.write_all(&all[..at_once]);
            for part in all[at_once..].chunks(step) {
                thread::sleep(Duration::from_millis(100));
                sent = sent.and_then(|()| stream.write_all(part));
            }
        });
        let began = Instant::now();
        let read = open_with(&address, patience())
            .and_then(|source| source.read_at(&mut [0; 1000], 0).map(drop));
        let error = read.unwrap_err().to_string();
        let why = [
            "bytes of the greeting came in 0.9 s",
            "bytes of a reply came in 0.9 s",
            "no whole answer",
        ];
        assert!(why.iter().any(|why| error.contains(why)), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    }
}

/// Where nobody listens, where the queue is full, and where a name does not exist, the error says so.
#[test]
fn no_server_is_an_error() {
    let _no_copies = without_children();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let address = |path: &std::path::Path| -> NbdAddress {
        format!("nbd+unix:///?socket={}", path.display()).parse().unwrap()
    };
    let fails = |address: &NbdAddress| open_with(address, patience()).err().unwrap().to_string();
    let error = fails(&address(&path));
    assert!(error.contains("No such file or directory; is the server running?"), "{error}");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    let error = fails(&address(&path));
    assert!(error.contains("no answer in time"), "{error}");
    drop(listener);
    let error = fails(&address(&path));
    assert!(error.contains("Connection refused"), "{error}");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fails(&format!("nbd://{unused}/x").parse().unwrap());
    let why = "cannot connect to 127.0.0.1, port";
    assert!(error.contains(why) && error.contains("Connection refused"), "{error}");
}
