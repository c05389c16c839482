//! The command speaks plain English: words that nobody uses for these things stand in no help text and no manual page.

use super::harness::Scene;

/// Words and phrases, each with what to say instead.
const FORBIDDEN: [(&str, &str); 22] = [
    ("room", "space"),
    ("mend", "repair"),
    ("mended", "repaired"),
    ("heal", "repair"),
    ("healed", "repaired"),
    ("let go", "delete, expire"),
    ("lets go", "deletes"),
    ("goes by hand", "you remove it"),
    ("is told", "reports, prints"),
    ("are told", "reports, prints"),
    ("is said", "reports, prints"),
    ("told of", "reported"),
    ("see to", "run, ensure"),
    ("anew", "again, rebuild"),
    ("be had", "read, restore"),
    ("is wanted", "is needed"),
    ("are wanted", "are needed"),
    ("content with", "succeeded"),
    ("was content", "succeeded"),
    ("all the same", "anyway, nevertheless"),
    ("are well", "are healthy"),
    ("what is wrong", "problems, damage, findings"),
];

fn check(place: &str, text: &str) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let text = text.replace(|c: char| !c.is_alphanumeric() && c != ' ' && c != '-', " ");
    let text = format!(" {} ", text.split_whitespace().collect::<Vec<_>>().join(" "));
    for (phrase, instead) in FORBIDDEN {
        let at = text.find(&format!(" {phrase} "));
        let near = at.and_then(|at| text.get(at.saturating_sub(40)..(at + 60).min(text.len())));
        assert!(at.is_none(), "{place}: '{phrase}', say: {instead}: {near:?}");
    }
}

#[test]
fn help_and_manual_pages_are_plain_english() {
    let scene = Scene::new();
    let help = scene.works(&["--help"]);
    check("--help", help.text());
    let commands = help.text().lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    for name in commands {
        check(name, scene.works(&["help", name]).text());
    }
    check("backy(1)", scene.works(&["man"]).text());
    check("backy.toml(5)", scene.works(&["man", "backy.toml"]).text());
}

/// The first pages that people read.
#[test]
fn the_readme_and_the_guide_are_plain_english() {
    for name in [
        "README.md",
        "doc/guide.md",
        "doc/full-disk.md",
        "doc/hooks.md",
        "doc/mount.md",
        "doc/retention.md",
        "doc/disaster.md",
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        check(name, &std::fs::read_to_string(path).expect("a document"));
    }
}
