//! Each field of the protocol wrong in turn, and each limit exceeded by one.

use super::*;

/// Fails to open, with this in the error.
fn fails_to_open(sent: &[&[u8]], why: &str) {
    let error = open(&bytes(sent)).err().unwrap_or_else(|| panic!("it is open; expected: {why}"));
    let text = error.to_string();
    assert!(text.contains(why), "expected '{why}': {text}");
    assert!(matches!(error, Error::Source { .. }) && !text.contains('\n'), "{text}");
}

/// The greeting.
#[test]
fn a_wrong_greeting_is_named() {
    fails_to_open(&[b""], "closed the connection after 0 of 8 bytes of the greeting; see its log");
    fails_to_open(
        &[b"SSH-2.0-OpenSSH_9.2\r\n"],
        "the greeting: found 'SSH-2.0-', expected 'NBDMAGIC'",
    );
    fails_to_open(&[b"NBDMAGICIHAVEOPX\0\x03"], "found 'IHAVEOPX', expected 'IHAVEOPT'");
    fails_to_open(&[b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53"], "only the oldstyle protocol");
    fails_to_open(&[b"NBDMAGICIHAVEOPT\0\x02"], "found the handshake flags 0x0002");
}

/// The replies to options in general.
#[test]
fn a_wrong_reply_to_an_option_is_named() {
    let first = |sent: &[u8], why: &str| fails_to_open(&[&greeting(), sent], why);
    let good = reply(STRUCTURED, ACK, &[]);
    let mut magic = good.clone();
    magic[0] ^= 1;
    first(&magic, "found 0x0103e889045565a9, expected 0x0003e889045565a9");
    first(&reply(GO, ACK, &[]), "found one to the option 7, expected one to the option 8");
    first(&reply(STRUCTURED, ACK, b"x"), "an acknowledgement of 1 bytes");
    first(&reply(STRUCTURED, INFO, &[]), "found the type 3, expected an acknowledgement");
    let mut long = good[..16].to_vec();
    long.extend(16385_u32.to_be_bytes());
    first(&long, "found 16385 bytes, expected at most 16384");
    let informed: Vec<u8> = (0..65).flat_map(|_| reply(GO, INFO, &[0, 1, b'n'])).collect();
    let before = bytes(&[&good, &reply(META, ACK, &[])]);
    first(&bytes(&[&before, &informed]), "found more, expected at most 64 replies");
    let informed: Vec<u8> = (0..62).flat_map(|_| reply(GO, INFO, &[0, 1, b'n'])).collect();
    let sent = [greeting(), before, informed, export(5), reply(GO, ACK, &[])].concat();
    assert_eq!(open(&sent).unwrap().size_bytes(), 5);
}

/// TLS, a missing export, a server that ends: each has its own line, from whichever option it comes.
#[test]
fn refusals_are_named() {
    let good = bytes(&[&greeting(), &reply(STRUCTURED, ACK, &[])]);
    let early = |kind: u32, why: &str| {
        for option in [STRUCTURED, META, GO] {
            let sent = match option {
                STRUCTURED => greeting(),
                META => good.clone(),
                _ => bytes(&[&good, &reply(META, ACK, &[])]),
            };
            fails_to_open(&[&sent, &reply(option, kind, b"a\nb")], why);
        }
    };
    early(
        ERR + 5,
        "the server requires TLS ('a\\nb'), which backy does not speak; use a Unix socket",
    );
    early(ERR + 7, "the server is shutting down ('a\\nb')");
    for option in [META, GO] {
        let contexts = reply(META, ACK, &[]);
        let sent = if option == GO { bytes(&[&good, &contexts]) } else { good.clone() };
        let why = "the server has no such export ('no'): asked for the export 'x';";
        fails_to_open(&[&sent, &reply(option, ERR + 6, b"no")], why);
    }
    let before = bytes(&[&good, &reply(META, ACK, &[])]);
    for (kind, why) in [
        (1, "does not know NBD_OPT_GO"),
        (2, "refuses the export of the export 'x': NBD_REP_ERR_POLICY; see its log"),
        (3, "NBD_REP_ERR_INVALID"),
        (4, "NBD_REP_ERR_PLATFORM"),
        (8, "NBD_REP_ERR_BLOCK_SIZE_REQD"),
        (77, "error 0x8000004d"),
    ] {
        fails_to_open(&[&before, &reply(GO, ERR + kind, &[])], why);
    }
}

/// Contexts: only those that were asked for, each once, with numbers of their own.
#[test]
fn wrong_contexts_are_named() {
    let before = bytes(&[&greeting(), &reply(STRUCTURED, ACK, &[])]);
    let contexts = |sent: &[u8], why: &str| fails_to_open(&[&before, sent], why);
    contexts(&context(1, "base:other"), "found a context ('base:other'), expected base:allocation");
    let one = context(1, "base:allocation");
    contexts(&bytes(&[&one, &one]), "found a context twice ('base:allocation')");
    contexts(&reply(META, CONTEXT, &[0; 3]), "found the type 4 with 3 bytes");
    contexts(&reply(META, INFO, &[0; 20]), "found the type 3 with 20 bytes");
    let both = bytes(&[&one, &context(1, "qemu:dirty-bitmap:b"), &reply(META, ACK, &[])]);
    let error = open_with_bitmap(&bytes(&[&before, &both])).err().unwrap().to_string();
    assert!(error.contains("found the number 1 for two contexts"), "{error}");
}

/// A bitmap that was named has to be there.
#[test]
fn a_missing_bitmap_is_an_error() {
    let before = bytes(&[&greeting(), &reply(STRUCTURED, ACK, &[])]);
    let one = context(1, "base:allocation");
    for sent in [
        bytes(&[&before, &one, &reply(META, ACK, &[])]),
        bytes(&[&before, &one, &reply(META, ERR + 1, &[])]),
    ] {
        let error = open_with_bitmap(&sent).err().unwrap().to_string();
        assert!(error.contains("has no context 'qemu:dirty-bitmap:b' for this export"), "{error}");
    }
    let error = open_with_bitmap(&simple_beginning(10)).err().unwrap().to_string();
    assert!(error.contains("no structured replies, and therefore no bitmap"), "{error}");
    let options = options(Some(&"x".repeat(4079)));
    let reader = Box::new(Cursor::new(Vec::new()));
    let opened = NbdSource::over(reader, Box::new(std::io::sink()), &address(), &options);
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("has 4079 bytes; expected at most 4078"), "{error}");
}

/// The size and the units of requests.
#[test]
fn wrong_information_on_the_export_is_named() {
    let before = bytes(&[&greeting(), &reply(STRUCTURED, ERR + 1, &[])]);
    let ack = reply(GO, ACK, &[]);
    let refuses = |sent: &[u8], why: &str| fails_to_open(&[&before, sent, &ack], why);
    refuses(&[], "found no size");
    refuses(&export(0), "the export is empty: found 0 bytes");
    refuses(&export(1 << 63), "an export of 9223372036854775808 bytes");
    refuses(&bytes(&[&export(5), &export(5)]), "found the information 0 twice");
    refuses(&reply(GO, INFO, &[0; 11]), "NBD_INFO_EXPORT of another length");
    refuses(&reply(GO, INFO, &[0; 13]), "NBD_INFO_EXPORT of another length");
    refuses(
        &reply(GO, INFO, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2]),
        "the transmission flags 0x0002",
    );
    refuses(&reply(GO, INFO, &[0]), "found the type 3 with 1 bytes");
    refuses(&reply(GO, CONTEXT, &[0; 12]), "found the type 4 with 12 bytes");
    let sizes = |min: u32, max: u32, why: &str| {
        refuses(&bytes(&[&export(1 << 20), &block_sizes(min, max)]), why);
    };
    sizes(0, 4096, "the minimum block size 0");
    sizes(3, 4096, "the minimum block size 3");
    sizes(1 << 17, 1 << 20, "the minimum block size 131072");
    sizes(4096, 2048, "the maximum block size 2048, expected at least the minimum, 4096");
    let twice = bytes(&[&export(5), &block_sizes(1, 1), &block_sizes(1, 1)]);
    refuses(&twice, "found the information 3 twice");
    let short = bytes(&[&export(5), &reply(GO, INFO, &[0, 3, 0, 0, 0, 1])]);
    refuses(&short, "NBD_INFO_BLOCK_SIZE of another length");
    refuses(
        &bytes(&[&export(5000), &block_sizes(4096, 4096)]),
        "nobody can read the last 904; resize",
    );
}

/// The bytes of a server that opens well and then answers the first request like this. Nothing more is read from it.
fn answers(beginning: &[u8], answer: &[u8], why: &str) {
    let right = data(1, 2, 0, &[1; 10]);
    let source = open(&bytes(&[beginning, answer, &right])).unwrap();
    let text = source.read_at(&mut [0; 10], 0).unwrap_err().to_string();
    assert!(text.contains(why), "expected '{why}': {text}");
    assert!(text.contains("cannot read 10 bytes at offset 0: "), "{text}");
    let again = source.read_at(&mut [0; 10], 0).unwrap_err().to_string();
    assert_eq!(again, text, "the connection is still used");
}

/// Replies to reads.
#[test]
fn a_wrong_reply_to_a_read_is_named() {
    let structured = |answer: &[u8], why: &str| answers(&beginning(10), answer, why);
    structured(b"\0\0\0\x01", "a reply: found 0x00000001, expected 0x67446698 or 0x668e33ef");
    structured(&data(1, 7, 0, &[1; 10]), "found the cookie 7, expected one of an open request");
    structured(&data(1, 2, 0, &[1; 10]), "found the cookie 2");
    structured(&simple(0, 1, &[1; 10]), "found a simple one with data, expected a structured one");
    structured(&data(2, 1, 0, &[1; 10]), "found the flags 0x0002");
    structured(&data(1, 1, 0, &[1; 9]), "found its end before all of it had come");
    structured(
        &data(1, 1, 1, &[1; 10]),
        "found 10 bytes at offset 1, expected bytes not sent before",
    );
    structured(&data(1, 1, 0, &[1; 11]), "found 11 bytes at offset 0");
    structured(&data(1, 1, u64::MAX, &[1; 10]), "at offset 18446744073709551615");
    structured(&data(1, 1, 0, &[]), "found 8 bytes, expected at least 9");
    structured(&chunk(1, 1, 1, &[0; 7]), "found 7 bytes, expected at least 9");
    structured(&hole(1, 1, 0, 0), "found 0 bytes at offset 0");
    structured(&hole(1, 1, 0, 11), "found 11 bytes at offset 0");
    structured(&hole(1, 1, 5, u32::MAX), "found 4294967295 bytes at offset 5");
    structured(&chunk(1, 2, 1, &[0; 11]), "a chunk for a hole: found 11 bytes, expected 12");
    structured(&chunk(1, 2, 1, &[0; 13]), "a chunk for a hole: found 13 bytes, expected 12");
    structured(&done(1), "found its end before all of it had come");
    structured(&chunk(0, 0, 1, &[]), "one without content, of 0 bytes");
    structured(&chunk(1, 0, 1, b"x"), "one without content, of 1 bytes");
    structured(&chunk(1, 3, 1, &[]), "found the type 3 with 0 bytes, expected data, a hole or");
    structured(&status(1, 1, ALLOCATION, &[(10, 0)]), "found the type 5 with 12 bytes");
    let twice = bytes(&[&data(0, 1, 0, &[1; 6]), &hole(0, 1, 5, 5)]);
    structured(&twice, "found 5 bytes at offset 5, expected bytes not sent before");
    let twice = bytes(&[&hole(0, 1, 5, 5), &data(0, 1, 0, &[1; 6])]);
    structured(&twice, "found 6 bytes at offset 0, expected bytes not sent before");
    let unstructured = |answer: &[u8], why: &str| answers(&simple_beginning(10), answer, why);
    unstructured(&data(1, 1, 0, &[1; 10]), "found 0x668e33ef, expected 0x67446698;");
    unstructured(&simple(0, 3, &[1; 10]), "found the cookie 3");
}

/// Chunks with errors.
#[test]
fn a_wrong_error_is_named() {
    let structured = |answer: &[u8], why: &str| answers(&beginning(10), answer, why);
    let errs = (1 << 15) + 1;
    structured(&error(1, 1, 0, b"x", None), "found the error 0 with a message of 1");
    structured(&chunk(1, errs, 1, &[0, 0, 0, 5, 0]), "found 5 bytes, expected 6 to 4160");
    structured(&chunk(1, errs, 1, &[0, 0, 0, 5, 0, 1]), "a message of 1 of 6 bytes");
    structured(&chunk(1, errs, 1, &[0, 0, 0, 5, 0, 0, 7]), "a message of 0 of 7 bytes");
    structured(&chunk(1, errs + 1, 1, &[0, 0, 0, 5, 0, 0, 7]), "a message of 0 of 7 bytes");
    structured(&error(1, 1, 5, &[b'x'; 4097], None), "a message of 4097 of 4103 bytes");
    structured(&chunk(1, errs, 1, &[1; 4161]), "found 4161 bytes, expected 6 to 4160");
    let later = chunk(1, errs + 8, 1, b"\0\0\0\x05\0\x02noand more");
    let source = open(&bytes(&[&beginning(10), &later])).unwrap();
    let text = source.read_at(&mut [0; 10], 0).unwrap_err().to_string();
    assert!(text.contains("the server answers EIO (5) ('no')"), "{text}");
}

/// More chunks than a read can have.
#[test]
fn chunks_without_end_are_refused() {
    let many = |count: u64| -> Vec<u8> { (0..count).flat_map(|at| hole(0, 1, at, 1)).collect() };
    let source = open(&bytes(&[&beginning(5000), &many(4097)])).unwrap();
    let text = source.read_at(&mut [0; 5000], 0).unwrap_err().to_string();
    assert!(text.contains("found more chunks, expected at most 4096"), "{text}");
    let all = bytes(&[&beginning(5000), &many(4095), &hole(1, 1, 4095, 905)]);
    assert_eq!(open(&all).unwrap().read_at(&mut [0; 5000], 0).unwrap(), 5000);
}

/// Replies about block status.
#[test]
fn a_wrong_block_status_is_named() {
    let answers = |answer: &[u8], why: &str| {
        let source = open(&bytes(&[&beginning(10), answer])).unwrap();
        let text = source.next_data(0).unwrap_err().to_string();
        assert!(text.contains(why), "expected '{why}': {text}");
        assert!(text.contains("cannot ask for the status of 10 bytes at offset 0: "), "{text}");
    };
    answers(&done(1), "found its end before all of it had come");
    answers(&simple(0, 1, &[]), "found a simple one, expected a structured one with block status");
    answers(&status(1, 1, 6, &[(10, 0)]), "found the context 6, expected one that was agreed on");
    let one = status(0, 1, ALLOCATION, &[(10, 0)]);
    answers(&bytes(&[&one, &one]), "found the context 5 twice");
    answers(&status(1, 1, ALLOCATION, &[]), "found 4 bytes, expected 4 bytes and 1 to 1048576");
    answers(&chunk(1, 5, 1, &[0; 3]), "found 3 bytes");
    answers(&chunk(1, 5, 1, &[0; 13]), "found 13 bytes");
    let mut long = chunk(1, 5, 1, &[]);
    long.truncate(16);
    long.extend((4 + (8 << 20) + 8_u32).to_be_bytes());
    answers(&long, "found 8388620 bytes");
    answers(&status(1, 1, ALLOCATION, &[(5, 0), (0, 0)]), "found 0 bytes at offset 5");
    answers(&status(1, 1, ALLOCATION, &[(10, 0), (1, 0)]), "found 1 bytes at offset 10");
    answers(&status(1, 1, ALLOCATION, &[(u32::MAX, 0), (1, 0)]), "found 1 bytes at offset 10");
    answers(&data(1, 1, 0, &[1; 10]), "found the type 1 with 18 bytes, expected block status");
    // Only one of two contexts.
    let sent = bytes(&[&beginning_with_bitmap(10), &status(1, 1, ALLOCATION, &[(10, 3)])]);
    let text = open_with_bitmap(&sent).unwrap().next_dirty(0).unwrap_err().to_string();
    assert!(text.contains("found its end before all of it had come"), "{text}");
}
