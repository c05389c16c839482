//! Answers of hint programs that are of no use: everything is read, and the revision says why.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{BYTES, PROGRAM, Scene, first, reason};
use crate::site::{fails, run, text, words};
use crate::stand_ins::{StandIns, with};

/// Another answer to one request; the others are answered as ever.
fn instead(scene: &Scene, request: &str, script: &str) -> String {
    format!(
        "read -r request\ncase $request in *'\"request\":\"{request}\"'*) {script}; exit;; esac\n\
         printf '%s\\n' \"$request\" | {} \"$@\"",
        text(&scene.path("bin").join("hinting"))
    )
}

/// Every request gets every wrong answer: there is a revision of the source as it is, which says why everything was
/// read, and the next backup is as ever, or needs one more for a new mark. Where old marks cannot be removed, the next
/// backup removes them.
#[test]
fn wrong_answers_are_doubts() {
    let mut scene = Scene::new();
    scene.put("with-path", "");
    scene.backup();
    let head = "echo '{\"version\": 1}'";
    let tail = "echo '{\"done\": true}'";
    let far = format!("{head}; echo '{{\"offset\": {BYTES}, \"length\": 1}}'; {tail}");
    let wrong: Vec<(&str, String, &str)> = [
        ("echo garbage".to_owned(), "printed something else than expected: line 1"),
        (
            "echo '{\"version\": 2}'".to_owned(),
            "line 1: found version 2, expected {\"version\": 1}",
        ),
        (format!("{head}; echo '{{\"x\": 1}}'; {tail}"), "unknown field `x`"),
        (format!("{head}; head -c 9000 /dev/zero"), "line 2: found more than 8192 bytes"),
        (head.to_owned(), "it ended after 1 lines, without 'done'"),
        ("true".to_owned(), "it ended after 0 lines, without 'done'"),
        (format!("{head}; {tail}; {tail}"), "found more behind 'done'"),
        (
            format!("{head}; {tail}; echo no disk >&2; exit 1"),
            "'hinting' ended with exit status: 1: no disk",
        ),
        ("kill -9 $$".to_owned(), "'hinting' ended with signal: 9"),
        ("yes '{\"version\": 1}'".to_owned(), "'hinting'"),
    ]
    .into_iter()
    .flat_map(|(script, part)| {
        ["changed_extents", "identity", "mark", "holes", "settle"]
            .map(|asked| (asked, script.clone(), part))
    })
    .chain([
        ("identity", format!("{head}; {tail}"), "expected one line with 'identity'"),
        (
            "identity",
            format!("{head}; echo '{{\"id\": \"1\"}}'; {tail}"),
            "expected one line with 'identity'",
        ),
        ("mark", format!("{head}; {tail}"), "expected one line with 'id'"),
        (
            "mark",
            format!("{head}; echo '{{\"id\": \"1\", \"path\": \"a\"}}'; {tail}"),
            "expected an absolute one",
        ),
        (
            "mark",
            format!("{head}; echo '{{\"id\": \"1\", \"path\": \"/nowhere\"}}'; {tail}"),
            "/nowhere",
        ),
        (
            "mark",
            format!("{head}; echo '{{\"id\": \"1\", \"path\": \"/dev/null\"}}'; {tail}"),
            "/dev/null",
        ),
        (
            "mark",
            format!(
                "{head}; echo '{{\"id\": \"1\", \"path\": \"{}\"}}'; {tail}",
                text(&scene.path("identity"))
            ),
            "found 8 bytes in",
        ),
        ("changed_extents", far.clone(), "expected at least one within"),
        ("holes", far, "expected at least one within"),
    ])
    .collect();
    for (asked, script, part) in wrong {
        // Most of them once with a change, for which the order of the numbers does not matter.
        scene.write(part.len() as u64 * 9000, 100, part.len() as u8);
        let stand_ins = StandIns::new().with("hinting", &instead(&scene, asked, &script));
        let path = first(&stand_ins, &scene);
        let backup = scene.site.backy(&["-v", "backup", "--force", "--json"]);
        let output = run(&mut with(&[path], &backup));
        let revision = scene.taken(&output);
        let (hints, said) = (&revision["hints"], words(&output));
        if asked == "settle" {
            assert!(hints["since"].is_string(), "{asked}, {script}: {hints}");
            assert!(
                said.contains("old marks at the source are left") && said.contains(part),
                "{said}"
            );
        } else {
            assert!(reason(hints).contains(part), "{asked}, {script}: {hints}");
            assert_eq!(revision["statistics"]["read_bytes"], BYTES, "{asked}, {script}");
        }
        let (hints, _) = scene.backup();
        if ["identity", "mark"].contains(&asked) {
            assert!(reason(&hints).contains("made without a mark"), "{asked}, {script}: {hints}");
        } else {
            assert!(hints["since"].is_string(), "{asked}, {script}: {hints}");
        }
        assert_eq!(scene.marks().len(), 1, "{asked}, {script}");
    }
    scene.site.check_at_rest_here();
}

/// A program that is not there or cannot be run, and one that prints secrets of its arguments; a program for a source
/// that keeps its own marks, or with a snapshot of hooks, is an error of the config.
#[test]
fn a_program_that_cannot_be_run_is_a_doubt() {
    let mut scene = Scene::with_command("[\"hinting\", \"--password=hunter2\"]");
    scene.backup();
    let hinting = scene.path("bin").join("hinting");
    let mode = |mode| {
        fs::set_permissions(&hinting, fs::Permissions::from_mode(mode)).expect("change the mode")
    };
    mode(0o644);
    let (hints, _) = scene.backup();
    assert!(reason(&hints).contains("cannot run 'hinting': Permission denied"), "{hints}");
    fs::remove_file(&hinting).expect("remove the program");
    let (hints, _) = scene.backup();
    assert!(reason(&hints).contains("cannot run 'hinting': No such file"), "{hints}");
    scene.put_program("hinting", "echo \"wrong: $1\" >&2; exit 3");
    let (hints, _) = scene.backup();
    assert!(reason(&hints).contains("exit status: 3: wrong: --password=…"), "{hints}");
    scene.put_program("hinting", PROGRAM);
    scene.doubts("made without a mark");

    for (lines, part) in [
        ("source = \"lvm-thin:vg0/a\"", "the source \"lvm-thin:vg0/a\" is no plain path"),
        ("source = \"nbd://host/a\"", "is no plain path"),
        ("[hooks]\nbefore = \"true\"\nsnapshot = \"/dev/a\"", "[hooks] has a snapshot"),
    ] {
        let config = scene.site.folder.join("backy.toml");
        let was = fs::read_to_string(&config).expect("read the config");
        let (before, after) = if lines.starts_with('[') { ("", lines) } else { (lines, "") };
        let without = was.lines().filter(|line| before.is_empty() || !line.starts_with("source ="));
        let without: Vec<&str> = without.collect();
        fs::write(&config, format!("{before}\n{}\n{after}\n", without.join("\n"))).expect("write");
        let said = fails(&mut scene.command(&["backup"]));
        assert!(said.contains(part) && said.contains("command: "), "{said}");
        fs::write(&config, was).expect("write the config");
    }
    scene.site.check_at_rest();
}
