//! What several files say together, and where each value and each mistake is found.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config as ProptestConfig;

use super::super::setting::{FileLine, Origin, SettingValue, settings};
use super::*;
use crate::base::error::Error;

/// Adds a file of a folder `/s` and all that it includes, as the reader of an archive does. Files that are not there
/// are left out.
fn add(files: &mut Files, texts: &[(&str, &str)], path: &Path, at: Option<usize>) -> Result<()> {
    let Some((_, text)) = texts.iter().find(|(name, _)| Path::new("/s").join(name) == path) else {
        return Ok(());
    };
    let number = files.add(path, text.as_bytes(), at)?;
    for include in includes(files, number)? {
        add(files, texts, &include.path, Some(include.at))?;
    }
    Ok(())
}

fn read(texts: &[(&str, &str)]) -> Result<Files> {
    let mut files = Files::default();
    add(&mut files, texts, Path::new("/s/own"), None)?;
    Ok(files)
}

fn config(texts: &[(&str, &str)]) -> Config {
    Config::of_files(&read(texts).unwrap()).unwrap()
}

/// The message of the first mistake.
fn mistake(texts: &[(&str, &str)]) -> String {
    read(texts).and_then(|files| Config::of_files(&files)).expect_err("a mistake").to_string()
}

const DAILY: &str = "[schedule.daily]\ninterval = \"1d\"\nkeep = 9\nat = \"02:00\"\n";

/// The own file lies over what it includes, key by key, also within the table of a tag.
#[test]
fn the_own_file_overrides_what_it_includes_key_by_key() {
    let texts = [
        (
            "own",
            "include = \"a\"\nsource = \"/x\"\n[schedule.daily]\nkeep = 30\n[hooks]\nafter = \"x\"",
        ),
        ("a", &format!("compression_level = 3\nsource = \"/y\"\n{DAILY}[hooks]\nbefore = \"y\"\n")),
    ];
    let config = config(&texts);
    assert_eq!(config.source, Some(crate::config::SourceAddress::Path("/x".into())));
    assert_eq!(config.compression_level, 3);
    let daily = config.schedule.values().next().unwrap();
    assert_eq!((daily.keep, daily.interval.as_hours(), daily.at.is_some()), (30, 24, true));
    assert!(config.hooks.before.is_some() && config.hooks.after.is_some());
    assert_eq!(config.includes, [Path::new("/s/a")]);
}

/// Later includes lie over earlier ones, and what a file includes lies under that file.
#[test]
fn a_later_include_overrides_an_earlier_one() {
    let texts = [
        ("own", "include = [\"a\", \"b\"]\n"),
        ("a", "max_chain = 1\ncompression_level = 1\nfile_mode = \"0640\""),
        ("b", "include = \"c\"\nmax_chain = 2\n"),
        ("c", "max_chain = 3\ncompression_level = 3\n"),
    ];
    let config = config(&texts);
    assert_eq!((config.max_chain, config.compression_level, config.file_mode), (Some(2), 3, 0o640));
    let includes: Vec<&str> = config.includes.iter().filter_map(|path| path.to_str()).collect();
    assert_eq!(includes, ["/s/a", "/s/b", "/s/c"]);
}

/// `without` drops inherited keys, tags and tables; the file may set them anew.
#[test]
fn without_drops_what_is_included() {
    let shared = format!(
        "max_chain = 9\n{DAILY}[schedule.\"a.b\"]\ninterval = \"7d\"\nkeep = 2\n[hooks]\nbefore = \"x\"\n"
    );
    let of = |own: &str| config(&[("own", &format!("include = \"a\"\n{own}")), ("a", &shared)]);
    let tags = |config: &Config| config.schedule.keys().map(Tag::to_string).collect::<Vec<_>>();
    let config =
        of("without = [\"max_chain\", 'schedule.\"a.b\"', \"hooks\", \"schedule.daily.at\"]");
    assert_eq!((config.max_chain, tags(&config)), (None, vec!["daily".to_owned()]));
    assert!(config.hooks.is_empty() && config.schedule.values().all(|daily| daily.at.is_none()));
    assert_eq!(tags(&of("without = \"schedule\"")), Vec::<String>::new());
    let config = of("without = \"schedule\"\n[schedule.yearly]\ninterval = \"365d\"\nkeep = 1\n");
    assert_eq!(tags(&config), ["yearly"]);
    // Nothing of that name is included, which is no mistake: the shared file may have lost it.
    assert_eq!(of("without = [\"schedule.hourly\"]"), of(""));
}

/// A relative path begins in the folder of the file that has it. backy takes '~' and variables as they are.
#[test]
fn a_relative_include_begins_in_the_folder_of_its_file() {
    let paths = |text: &str, of: &str| {
        let mut files = Files::default();
        let number = files.add(Path::new(of), text.as_bytes(), None).unwrap();
        let includes = includes(&files, number).unwrap();
        includes.iter().map(|include| include.path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(paths("include = \"b.toml\"", "/etc/backy/a.toml"), ["/etc/backy/b.toml"]);
    assert_eq!(paths("include = [\"/x\", \"../y\"]", "/a/b/backy.toml"), ["/x", "/a/b/../y"]);
    assert_eq!(paths("include = [\"~/x\", \"$HOME\"]", "/a/b"), ["/a/~/x", "/a/$HOME"]);
    assert_eq!(paths("include = []", "/a"), [""; 0]);
}

/// A mistake is reported with the file, line and column where it is, and all places that led there.
#[test]
fn a_mistake_names_its_file_and_what_includes_that() {
    let chain = "; included by /s/a:2:11, by /s/own:1:12";
    for (text, place, word) in [
        ("x = 1", "/s/b:1:1: ", "unknown field `x`"),
        ("\nmax_chain = 0", "/s/b:2:13: ", "max_chain: found 0"),
        ("[schedule.daily]\nkeep = 1", "/s/b:1:1: ", "missing field `interval`"),
        ("source = \"/x\n", "/s/b:1:13: ", ""),
        ("include = 7", "/s/b:1:11: ", "include: found a number, expected a path"),
        ("include = [\"x\", 7]", "/s/b:1:17: ", "include: found a number, expected a path"),
        ("include = \"\"", "/s/b:1:11: ", "include: found no path"),
        ("include = \"a\\u0000\"", "/s/b:1:11: ", "include: found a NUL character"),
        ("without = true", "/s/b:1:11: ", "without: found true or false, expected a list"),
        ("without = [\"schedul\"]", "/s/b:1:12: ", "without: found \"schedul\""),
        ("without = [\"include\"]", "/s/b:1:12: ", "without: found \"include\""),
        ("without = [\"schedule.a.kep\"]", "/s/b:1:12: ", "expected a key or a table"),
        ("without = [\"schedule..a\"]", "/s/b:1:12: ", "expected a key or a table"),
        ("without = [\"\"]", "/s/b:1:12: ", "expected a key or a table"),
        ("group = \"a b\"", "/s/b:1:9: ", "group: found \"a b\", expected 1 to 64 letters"),
    ] {
        let message =
            mistake(&[("own", "include = [\"a\"]"), ("a", "\ninclude = \"b\""), ("b", text)]);
        assert!(message.starts_with(place) && message.ends_with(chain), "{text}: {message}");
        assert!(message.contains(word) && !message.contains('\n'), "{text}: {message}");
    }
    let bytes = b"# \xe4\n";
    let mut files = Files::default();
    files.add(Path::new("/s/own"), b"include = \"a\"", None).unwrap();
    let error = files.add(Path::new("/s/a"), bytes, Some(10)).unwrap_err().to_string();
    assert!(error.starts_with("/s/a:1:3: found the byte 0xe4"), "{error}");
    assert!(error.ends_with("; included by /s/own:1:11"), "{error}");
}

/// A mistake that several files make together is where the upper one has its part.
#[test]
fn a_mistake_of_several_files_is_in_the_upper_one() {
    let texts =
        [("own", "include = \"a\"\n[schedule.daily]\nwindow = \"03:00-04:00\"\n"), ("a", DAILY)];
    let message = mistake(&texts);
    assert!(
        message.starts_with("/s/a:4:6: at: found \"02:00\", which is not in the window"),
        "{message}"
    );
    let texts = [("own", "include = \"a\"\n[schedule.daily]\nkeep = 1\n"), ("a", "max_chain = 1")];
    let message = mistake(&texts);
    assert!(message.starts_with("/s/own:2:1: missing field `interval`"), "{message}");
    let texts = [("own", "include = \"a\"\nmax_chain = 2\n"), ("a", "max_chain = \"x\"")];
    // Nobody uses the value under it.
    assert_eq!(config(&texts).max_chain, Some(2));
}

/// A message never has the value of a hook, whatever it is mistaken for.
#[test]
fn secrets_of_an_included_file_are_in_no_message() {
    let texts =
        [("own", "include = \"a\""), ("a", "[hooks]\ntimeout = [\"PASSWORD=x\"]\nbefore = \"y\"")];
    assert!(!mistake(&texts).contains("PASSWORD"));
    let texts = [("own", "include = \"a\""), ("a", "hooks = \"PASSWORD=x\"")];
    let Error::Config { message, .. } = Config::of_files(&read(&texts).unwrap()).unwrap_err()
    else {
        panic!("another error")
    };
    assert!(!message.contains("PASSWORD"), "{message}");
    let listed = |hooks: &str| {
        let files = read(&[("own", &format!("[hooks]\n{hooks}"))]).unwrap();
        let found = settings(&files, false).remove(0);
        (found.value, found.is_shortened)
    };
    let list =
        |words: &[&str]| SettingValue::List(words.iter().map(|word| (*word).to_owned()).collect());
    assert_eq!(listed("before = [\"env\", \"P=x\"]"), (list(&["env", "…"]), true));
    assert_eq!(listed("before = [\"true\"]"), (list(&["true"]), false));
    for secret in ["\"P=x\"", "[7, \"P=x\"]", "{ p = \"P=x\" }", "7"] {
        let shown = listed(&format!("after = {secret}"));
        assert_eq!(shown, (SettingValue::Text("…".to_owned()), true), "{secret}");
    }
}

/// The value of a key by a number.
type ValueOf = fn(i64) -> SettingValue;

/// Keys of the model with their values.
const MODEL: [(&str, ValueOf); 13] = [
    ("source", |n| SettingValue::Text(format!("/dev/{n}"))),
    ("group", |n| SettingValue::Text(format!("g{n}"))),
    ("max_chain", |n| SettingValue::Number(n + 1)),
    ("compression_level", |n| SettingValue::Number(n + 1)),
    ("schedule.a.interval", |n| SettingValue::Text(format!("{}d", n + 1))),
    ("schedule.a.keep", |n| SettingValue::Number(n + 1)),
    ("schedule.a.full", |n| SettingValue::Flag(n % 2 == 0)),
    ("schedule.b.interval", |n| SettingValue::Text(format!("{}h", n + 1))),
    ("schedule.b.keep", |n| SettingValue::Number(n + 1)),
    ("hooks.timeout", |n| SettingValue::Text(format!("{}m", n + 1))),
    ("drill.timeout", |n| SettingValue::Text(format!("{}m", n + 1))),
    ("monitoring.long_chain", |n| SettingValue::Number(n + 1)),
    ("monitoring.freeze", |n| SettingValue::Flag(n % 2 == 0)),
];

/// Whole tables that `without` may name as well.
const MODEL_TABLES: [&str; 5] = ["schedule", "schedule.a", "hooks", "drill", "monitoring"];

/// A file of the model: what it sets, what it drops, and which later files it includes.
#[derive(Debug, Clone)]
struct ModelFile {
    sets: BTreeMap<usize, i64>,
    drops: Vec<usize>,
    includes: Vec<usize>,
}

type Values = BTreeMap<String, (SettingValue, String, usize)>;

fn shown(value: &SettingValue) -> String {
    match value {
        SettingValue::Flag(flag) => flag.to_string(),
        SettingValue::Number(number) => number.to_string(),
        SettingValue::Text(text) => format!("{text:?}"),
        SettingValue::List(words) => format!("{words:?}"),
    }
}

fn dropped(number: usize) -> &'static str {
    MODEL.get(number).map_or_else(|| MODEL_TABLES[number - MODEL.len()], |(key, _)| key)
}

/// The text of a file, and the line of each key.
fn text_of(file: &ModelFile) -> (String, BTreeMap<usize, usize>) {
    let includes: Vec<String> = file.includes.iter().map(|it| format!("\"f{it}\"")).collect();
    let drops: Vec<String> = file.drops.iter().map(|it| format!("\"{}\"", dropped(*it))).collect();
    let mut lines = vec![
        format!("include = [{}]", includes.join(", ")),
        format!("without = [{}]", drops.join(", ")),
    ];
    let (mut places, mut open) = (BTreeMap::new(), "");
    for (&key, &n) in &file.sets {
        let (name, value) = MODEL[key];
        let (table, name) = name.rsplit_once('.').unwrap_or(("", name));
        if table != open {
            lines.push(format!("[{table}]"));
            open = table;
        }
        lines.push(format!("{name} = {}", shown(&value(n))));
        places.insert(key, lines.len());
    }
    (lines.join("\n"), places)
}

/// What a file and all that it includes say, as a plain map.
fn model(files: &[ModelFile], number: usize) -> Values {
    let file = &files[number];
    let mut values = Values::new();
    for &included in &file.includes {
        values.extend(model(files, included));
    }
    for &drop in &file.drops {
        let gone = dropped(drop);
        values.retain(|key, _| key != gone && !key.starts_with(&format!("{gone}.")));
    }
    for (key, line) in text_of(file).1 {
        let (name, value) = MODEL[key];
        values.insert(name.to_owned(), (value(file.sets[&key]), format!("/s/f{number}"), line));
    }
    values
}

fn model_files() -> impl Strategy<Value = Vec<ModelFile>> {
    let sets = prop::collection::btree_map(0..MODEL.len(), 0..4_i64, 0..8);
    let drops = prop::collection::vec(0..MODEL.len() + MODEL_TABLES.len(), 0..3);
    let includes = prop::collection::vec(0..6_usize, 0..3);
    prop::collection::vec((sets, drops, includes), 1..6).prop_map(|files| {
        let count = files.len();
        let file = |(number, (sets, drops, includes)): (usize, (_, _, Vec<usize>))| {
            let later = |step: usize| Some(number + 1 + step).filter(|file| *file < count);
            ModelFile { sets, drops, includes: includes.into_iter().filter_map(later).collect() }
        };
        files.into_iter().enumerate().map(file).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Files merge as maps that are put over each other; each value comes from where the model has it, and the config
    /// is that of one file that has all values.
    #[test]
    fn files_merge_like_maps(model_files in model_files()) {
        let names: Vec<String> = (0..model_files.len()).map(|it| format!("f{it}")).collect();
        let texts: Vec<String> = model_files.iter().map(|file| text_of(file).0).collect();
        let texts: Vec<(&str, &str)> =
            names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let mut files = Files::default();
        add(&mut files, &texts, Path::new("/s/f0"), None).unwrap();
        let expected = model(&model_files, 0);
        let found: Values = settings(&files, false)
            .into_iter()
            .map(|setting| {
                let Origin::File(FileLine { file, line }) = setting.origin else { panic!("a default") };
                (setting.key, (setting.value, file.to_string(), line))
            })
            .collect();
        prop_assert_eq!(&found, &expected);
        let mut flat: Vec<String> = Vec::new();
        let line = |name: &str, value| format!("{name} = {}", shown(value));
        flat.extend(expected.iter().filter(|(key, _)| !key.contains('.')).map(|(key, it)| line(key, &it.0)));
        for (key, (value, _, _)) in expected.iter().filter(|(key, _)| key.contains('.')) {
            let (table, name) = key.rsplit_once('.').unwrap();
            if !flat.contains(&format!("[{table}]")) {
                flat.push(format!("[{table}]"));
            }
            flat.push(line(name, value));
        }
        let single = Config::parse(&flat.join("\n"), Path::new("/s/flat")).map_err(|error| error.kind());
        let several = Config::of_files(&files)
            .map(|config| Config { includes: Vec::new(), ..config })
            .map_err(|error| error.kind());
        prop_assert_eq!(several, single);
    }
}
