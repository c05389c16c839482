//! `doc/protocol.md`: its tables and the worked example agree with what backy sends.

use std::sync::Arc;

use backy_lib::origin::Origin;
use backy_lib::origin::wire::{
    Answering, Hello, Role, ServeOptions, accept, answer, call, frame_types,
};
use backy_lib::units::BlockIndex;
use backy_tests::fake_origin::FakeOrigin;
use backy_tests::link::{Link, Way, patience};

use super::*;

/// The table of types has each of them, with its name and limit.
#[test]
fn the_table_of_frames_holds() {
    let rows = table(&document("doc/protocol.md"), "| 8 on | payload |\n");
    let found: Vec<(u64, String, u64)> =
        rows.iter().map(|row| (number(&row[0]), row[1].clone(), number(&row[2]))).collect();
    let expected: Vec<(u64, String, u64)> = frame_types()
        .map(|(kind, name, most)| (u64::from(kind), name.to_owned(), most as u64))
        .collect();
    assert_eq!(found, expected);
}

/// Both streams of the example are what backy sends for it.
#[test]
fn the_worked_example_is_what_backy_sends() {
    let mut bytes = vec![0; 8193];
    bytes[4096..8192].fill(0x41);
    bytes[8192] = 0x42;
    let origin = FakeOrigin::with(&[bytes]);
    let laid = Link::default().lay();
    let (streams, traffic) = (laid.caller, laid.traffic);
    let far = std::thread::spawn(move || {
        let (archive, program) = ("mynode".to_owned(), "backy 1.0".to_owned());
        let hello = Hello { versions: vec![1], role: Role::Answer, archive, program, push: None };
        let connection = call(streams, "far", &hello, patience())?;
        let make = || -> backy_lib::Result<Box<dyn Origin>> { Ok(Box::new(origin.clone())) };
        let answering = Answering {
            origin: &make,
            block_size: origin.block_size(),
            threads: Some(1),
            limit_rate: None,
            patience: patience(),
            stop: Arc::default(),
        };
        answer(connection, &answering)
    });
    let root = tempfile::tempdir().expect("a temporary folder");
    let options = ServeOptions { program: "backy 1.0".to_owned(), ..ServeOptions::default() };
    let accepted = accept(root.path(), laid.called, &options).expect("a call");
    let mut near = accepted.begin().expect("a connection");
    let revision = near.listing().expect("a list").revisions[0].uuid;
    near.table(revision, None, BlockIndex(0)).expect("a table");
    let wanted = [1, 2].map(BlockIndex);
    near.fetch(revision, &wanted, &mut |_, _| Ok(())).expect("blocks");
    near.finish_with("{}".to_owned()).expect("an end");
    far.join().expect("no panic").expect("an end");
    traffic.wait();
    let text = document("doc/protocol.md");
    let blocks = code_blocks(&text, "hex");
    assert_eq!(blocks.len(), 2);
    for ((name, dump), way) in blocks.into_iter().zip([Way::Out, Way::Back]) {
        let sent = dumped(&traffic.recorded(way));
        assert!(dump == sent, "the {name} sends:\n{sent}");
    }
}

/// As in the document: 16 bytes a line, two by two, after their offset.
fn dumped(bytes: &[u8]) -> String {
    let line = |(number, line): (usize, &[u8])| {
        let pairs = line
            .chunks(2)
            .map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        format!("{:08x}: {}\n", 16 * number, pairs.collect::<Vec<_>>().join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}
