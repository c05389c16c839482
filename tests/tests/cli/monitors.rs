//! Strict readers of what monitoring systems read: a line of a Nagios plugin, and the text format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};

/// A figure: value, unit, and the limits that are given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) warning: Option<String>,
    pub(crate) critical: Option<String>,
}

/// The one line of a plugin: its word, its text, its figures. Source: Monitoring Plugins Development Guidelines.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) word: String,
    pub(crate) text: String,
    pub(crate) figures: BTreeMap<String, Figure>,
}

impl Plugin {
    pub(crate) fn parse(output: &str) -> Self {
        let line = output.strip_suffix('\n').expect("a line");
        assert!(!line.contains(char::is_control), "one line: {output:?}");
        assert!(line.len() < 1024, "{} bytes", line.len());
        let (said, figures) = line.split_once(" | ").unwrap_or((line, ""));
        assert!(!said.contains('|') && !figures.contains('|'), "{line}");
        let said = said.strip_prefix("BACKY ").expect("the name of the service");
        let (word, text) = said.split_once(" - ").expect("a word and a text");
        assert!(["OK", "WARNING", "CRITICAL", "UNKNOWN"].contains(&word), "{word}");
        assert!(!text.is_empty());
        let mut all = BTreeMap::new();
        for figure in figures.split(' ').filter(|figure| !figure.is_empty()) {
            let (label, figure) = Self::figure(figure);
            assert!(all.insert(label, figure).is_none(), "{line}");
        }
        Plugin { word: word.to_owned(), text: text.to_owned(), figures: all }
    }

    /// `'label'=value[unit];[warning];[critical];[least];[greatest]`
    fn figure(text: &str) -> (String, Figure) {
        let (label, rest) = text.split_once('=').expect("label=value");
        let label = label.strip_prefix('\'').and_then(|label| label.strip_suffix('\''));
        let label = label.expect("a label in quotation marks");
        assert!(!label.is_empty() && label.chars().all(|c| c.is_ascii_lowercase()), "{label}");
        let fields: Vec<&str> = rest.split(';').collect();
        assert!(fields.len() <= 5 && fields.last().is_some_and(|last| !last.is_empty()), "{text}");
        let end = fields[0].find(|c: char| !"0123456789.-".contains(c)).unwrap_or(fields[0].len());
        let (value, unit) = fields[0].split_at(end);
        assert!(["", "s", "%", "B"].contains(&unit), "{text}");
        let number = |text: &str| -> f64 { text.parse().unwrap_or_else(|_| panic!("{text}")) };
        let given = |at: usize| fields.get(at).copied().filter(|field| !field.is_empty());
        for limit in [1, 2].into_iter().filter_map(given) {
            number(limit.trim_end_matches(':'));
        }
        let value = number(value);
        let (least, greatest) = (given(3).map(number), given(4).map(number));
        assert!(least.is_none_or(|least| value >= least), "{text}");
        assert!(greatest.is_none_or(|greatest| value <= greatest), "{text}");
        let [warning, critical] = [1, 2].map(|at| given(at).map(str::to_owned));
        (label.to_owned(), Figure { value, unit: unit.to_owned(), warning, critical })
    }
}

/// The labels of a sample, sorted by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// The samples by name. Source: Exposition formats, text-based format, and the naming rules for base units.
pub(crate) fn parse_prometheus(text: &str) -> BTreeMap<String, Vec<(Labels, f64)>> {
    assert!(text.ends_with('\n'), "the last line has its end");
    let mut metrics: BTreeMap<String, Vec<(Labels, f64)>> = BTreeMap::new();
    let mut current = String::new();
    let mut lines = text.lines();
    let mut seen = BTreeSet::new();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and a text");
            assert!(!help.contains('\\') && help.ends_with('.'), "{help}");
            assert_eq!(lines.next(), Some(format!("# TYPE {name} gauge").as_str()));
            check_name(name);
            assert!(metrics.insert(name.to_owned(), Vec::new()).is_none(), "{name} twice");
            current = name.to_owned();
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("{line}"));
        assert_eq!(name, current, "samples stand together under their name");
        let (labels, rest) = labels(rest);
        let value = rest.strip_prefix(' ').expect("a blank before the value");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value.is_finite(), "{line}");
        assert!(seen.insert((name.to_owned(), labels.clone())), "twice: {line}");
        metrics.get_mut(name).expect("HELP before").push((labels, value));
    }
    metrics
}

fn check_name(name: &str) {
    assert!(name.starts_with("backy_"), "{name}");
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
    // Gauges do not count.
    assert!(!name.ends_with("_total"), "{name}");
    for unit in ["days", "hours", "minutes", "milliseconds", "percent", "kilobytes"] {
        assert!(!name.contains(unit), "{name}: not a base unit");
    }
}

/// Up to and with the closing brace, and what follows.
fn labels(mut text: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    loop {
        let (name, rest) = text.split_once("=\"").expect("a label");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().expect("a closing quotation mark") {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().expect("what is escaped").1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c} is no escape"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "{name} twice");
        let rest = &rest[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => text = more,
            None => return (labels, rest.strip_prefix('}').expect("a closing brace")),
        }
    }
}

/// The only sample of a name, if there is one.
pub(crate) fn single(metrics: &BTreeMap<String, Vec<(Labels, f64)>>, name: &str) -> Option<f64> {
    let samples = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
    assert!(samples.len() <= 1, "{name}: {samples:?}");
    samples.first().map(|(_, value)| *value)
}

/// The readers refuse what the sources forbid: a reader that accepts anything proves nothing.
#[test]
fn the_readers_are_strict() {
    let refused = |read: fn(&str), text: &'static str| {
        assert!(std::panic::catch_unwind(|| read(text)).is_err(), "{text:?} was taken");
    };
    let plugin: fn(&str) = |text| drop(Plugin::parse(text));
    plugin("BACKY OK - all is well | 'age'=5s;90;130;0 'free'=7B;;;0;9\n");
    for text in [
        "BACKY OK - no end of line",
        "BACKY OK - two\nlines\n",
        "BACKY FINE - a word\n",
        "BACKY OK - bars | 'a'=1 | 'b'=2\n",
        "BACKY OK - x | age=5s\n",
        "BACKY OK - x | 'age'=5min\n",
        "BACKY OK - x | 'age'=5s;x\n",
        "BACKY OK - x | 'age'=5s;1;2;3;4;5\n",
        "BACKY OK - x | 'used'=10B;;;0;9\n",
        "BACKY OK - x | 'a'=1 'a'=2\n",
    ] {
        refused(plugin, text);
    }
    let prometheus: fn(&str) = |text| drop(parse_prometheus(text));
    prometheus(
        "# HELP backy_x X.\n# TYPE backy_x gauge\nbacky_x{archive=\"/a\\\"\\\\\\n\"} -1.5\n",
    );
    for text in [
        "backy_x{archive=\"a\"} 1\n",
        "# HELP backy_x X.\nbacky_x{archive=\"a\"} 1\n",
        "# HELP backy_x X.\n# TYPE backy_x gauge\nbacky_y{archive=\"a\"} 1\n",
        "# HELP backy_x X.\n# TYPE backy_x gauge\nbacky_x{archive=\"a\\t\"} 1\n",
        "# HELP backy_x X.\n# TYPE backy_x gauge\nbacky_x{archive=\"a\"} NaN\n",
        "# HELP backy_x X.\n# TYPE backy_x gauge\nbacky_x{a=\"a\"} 1\nbacky_x{a=\"a\"} 2\n",
        "# HELP backy_age_days X.\n# TYPE backy_age_days gauge\n",
    ] {
        refused(prometheus, text);
    }
}
