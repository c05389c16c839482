//! Archives that were made to mislead the rescue program.

use super::*;

/// A manifest with a right checksum may say anything: the program does not believe nonsense, and follows it nowhere.
#[test]
fn rescue_believes_no_sizes_it_cannot_check() {
    let base = copy_of(&golden_folder("format-1"));
    let archive = base.path();
    let target = base.path().with_extension("img");
    let good = manifest(archive);
    let restore = |number: &str| run(&[text(archive), number, text(&target)]);

    let claims: [(&str, Value); 14] = [
        ("uuid", json!("../../../../etc/passwd")),
        ("uuid", json!("01A20621-AD00-7818-87B4-910C4D73C5DB")),
        ("uuid", json!("01a20621-ad00-7818-87b4-910c4d73c5db\n")),
        ("uuid", json!(7)),
        ("size_bytes", json!(u64::MAX)),
        ("size_bytes", json!(1_u64 << 60)),
        ("size_bytes", json!(-1)),
        ("size_bytes", json!(true)),
        ("size_bytes", json!(1e300)),
        ("digest", json!("00")),
        ("tags", json!([{}])),
        ("tags", json!("daily")),
        ("started", json!("x".repeat(1 << 20))),
        ("table_digest", json!([])),
    ];
    for (field, claim) in claims {
        let mut forged = good.clone();
        forged["revisions"][0][field] = claim.clone();
        put_manifest(archive, &forged);
        let output = restore("0");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("manifest.json cannot be used") && said.len() < 500, "{said}");
        assert!(output.status.success(), "{field} {claim}: {said}");
        fs::remove_file(&target).expect("what it wrote");
    }

    // The program compares one that would take hours with what other files say.
    let mut long = good.clone();
    long["revisions"][0]["size_bytes"] = json!(1_u64 << 40);
    put_manifest(archive, &long);
    is_error(&restore("0"), "the manifest says 1099511627776 bytes, another file");

    for block_size in [json!(0), json!(3), json!(1_u64 << 40), json!([]), json!("4096")] {
        let mut forged = good.clone();
        forged["block_size"] = block_size;
        put_manifest(archive, &forged);
        assert!(restore("0").status.success());
        fs::remove_file(&target).expect("what it wrote");
    }
    for (field, value) in [("format", json!(2)), ("incompatible", json!(["next"]))] {
        let mut newer = good.clone();
        newer[field] = value;
        put_manifest(archive, &newer);
        is_error(&restore("0"), "manifest.json: ");
    }
    let deep = format!("{{\"checksum\": \"{}\", \"x\": {}", "0".repeat(64), "[".repeat(1 << 20));
    put_raw_manifest(archive, &deep);
    assert!(restore("0").status.success());
    fs::remove_file(&target).expect("what it wrote");
}

/// The program escapes what would move the cursor of a terminal, or turn text around.
#[test]
fn rescue_escapes_control_characters() {
    let base = copy_of(&golden_folder("format-1"));
    let mut forged = manifest(base.path());
    forged["revisions"][0]["tags"] = json!(["\u{1b}[2J", "\u{202e}txt", "a\nb", "\u{9b}1m"]);
    put_manifest(base.path(), &forged);
    let output = run(&[text(base.path())]);
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        output.status.success() && said.contains("\\x1b[2J") && said.contains("a\\nb"),
        "{said}"
    );
    assert!(
        !said.contains(['\u{1b}', '\u{202e}', '\u{9b}']) && said.lines().count() == 4,
        "{said}"
    );
}

/// The program does not read files of the archive that are links, FIFOs or devices, and does not wait for them.
#[test]
fn only_regular_files_are_read() {
    let base = copy_of(&golden_folder("format-1"));
    let outside = backy_tests::fuzz::scratch_folder();
    let target = outside.path().join("out.img");
    let text_of = fs::read(base.path().join("manifest.json")).expect("a manifest");
    let manifest = Manifest::parse(&text_of).expect("a manifest");
    let oldest = manifest.revisions.last().expect("a revision");
    let delta = format!("{}", oldest.file());
    for name in ["manifest.json", "last.raw", &delta] {
        let path = base.path().join(name);
        let kept = outside.path().join("kept");
        fs::rename(&path, &kept).expect("move it");
        for kind in ["link", "fifo", "folder"] {
            match kind {
                "link" => symlink(&kept, &path).expect("a link"),
                "fifo" => {
                    let made = Command::new("mkfifo").arg(&path).status();
                    assert!(made.expect("run mkfifo").success());
                }
                _ => fs::create_dir(&path).expect("a folder"),
            }
            let output = run(&[text(base.path()), &oldest.uuid.to_string(), text(&target)]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                said.contains("link") || said.contains("no regular file"),
                "{name} {kind}: {said}"
            );
            // Without a manifest there are the digest files; without the image, what the delta holds itself.
            assert_eq!(output.status.success(), name == "manifest.json", "{name} {kind}: {said}");
            assert!(
                name != "last.raw" || said.contains("what only last.raw has is lost"),
                "{said}"
            );
            drop(fs::remove_file(&target));
            drop(fs::remove_file(&path));
            drop(fs::remove_dir(&path));
        }
        fs::rename(&kept, &path).expect("move it back");
    }
}

/// The program detects deltas that read through each other. They cost what they would have to hold.
#[test]
fn a_cycle_of_deltas_is_an_error() {
    let base = copy_of(&golden_folder("format-1"));
    let text_of = fs::read(base.path().join("manifest.json")).expect("a manifest");
    let manifest = Manifest::parse(&text_of).expect("a manifest");
    let [.., newer, older] = &manifest.revisions[..] else { panic!("two revisions") };
    let path = base.path().join(newer.file().to_string());
    let mut delta = fs::read(&path).expect("a delta");
    let at = usize::try_from(u64::from_be_bytes(delta[8..16].try_into().expect("8 bytes")));
    let at = at.expect("an offset");
    let name = older.file().to_string();
    delta[at..at + name.len()].copy_from_slice(name.as_bytes());
    delta[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
    fs::write(&path, &delta).expect("a circle");
    let target = base.path().with_extension("img");
    let output = run(&[text(base.path()), &older.uuid.to_string(), text(&target)]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is its own backing file") && said.contains("lost: bytes"), "{said}");
    fs::remove_file(&target).expect("what it wrote");

    // A name with a path in it belongs to no archive.
    let hostile = b"/etc/passwd";
    delta[at..at + hostile.len()].copy_from_slice(hostile);
    delta[16..20].copy_from_slice(&(hostile.len() as u32).to_be_bytes());
    fs::write(&path, &delta).expect("a name");
    let output = run(&[text(base.path()), &newer.uuid.to_string(), text(&target)]);
    is_error(&output, "found the backing file '/etc/passwd'");
}
