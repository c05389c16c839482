//! What runs backy: systemd units, cron, Nagios, Prometheus, and the contents of the package. All of it is for other
//! programs. Where those are installed, the tests ask them, and run the commands in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use backy_lib::Level;
use backy_lib::health::Cause;
use backy_tests::command::{checkout, program};
use backy_tests::qemu::skipped;
use yaml_rust2::{Yaml, YamlLoader};

/// A folder as an instance, and the folder itself.
const INSTANCE: (&str, &str) = ("srv-backup-mynode", "/srv/backup/mynode");
const PROGRAM: &str = "/usr/bin/backy";

fn text(name: &str) -> String {
    let path = checkout().join("dist").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn units() -> Vec<String> {
    let entries = checkout().join("dist/systemd").read_dir().expect("the units").flatten();
    let names = entries.map(|entry| entry.file_name().into_string().expect("text"));
    let mut units: Vec<String> = names.filter(|name| name.starts_with("backy-")).collect();
    units.sort();
    assert_eq!(units.len(), 8, "{units:?}");
    units
}

/// The units, as instances and with the binary under test, in a folder.
fn instances() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = units().into_iter().map(|name| {
        let unit = text(&format!("systemd/{name}"));
        let unit = unit.replace(PROGRAM, program());
        // An instance's own file comes before the template.
        let path = folder.path().join(name.replace('@', &format!("@{}", INSTANCE.0)));
        fs::write(&path, unit).expect("write a unit");
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

/// `systemd-analyze` with these arguments; `None` when it is not here.
fn analyze(arguments: &[&str], units: &[PathBuf]) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    let folder = units.first()?.parent()?;
    command.args(arguments).args(units).env("SYSTEMD_UNIT_PATH", format!("{}:", folder.display()));
    match command.output() {
        Ok(output) => Some(output),
        Err(_) => {
            skipped("systemd-analyze is not installed");
            None
        }
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// systemd accepts the units, and rejects a misspelled setting.
#[test]
fn systemd_accepts_the_units() {
    let (_folder, mut units) = instances();
    let Some(output) = analyze(&["verify", "--man=no"], &units) else { return };
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    let unit = fs::read_to_string(&units[0]).expect("a unit");
    fs::write(&units[0], unit.replace("PrivateTmp=", "PrivatTmp=")).expect("write a unit");
    units.truncate(1);
    let output = analyze(&["verify", "--man=no"], &units).expect("it was here");
    assert!(said(&output).contains("PrivatTmp"), "{}", said(&output));
}

/// A service can do little but its work: systemd's own measure of exposure, from 0 to 10, is at most 3.
#[test]
fn the_services_are_sandboxed() {
    let (_folder, mut units) = instances();
    units.retain(|unit| unit.extension().is_some_and(|extension| extension == "service"));
    let arguments = ["security", "--no-pager", "--offline=true", "--threshold=30"];
    for unit in units {
        let Some(output) = analyze(&arguments, std::slice::from_ref(&unit)) else { return };
        let said = said(&output);
        assert!(output.status.success(), "{}: {said}", unit.display());
        assert!(said.contains("Overall exposure level"), "{said}");
    }
}

/// Every timer has a service of the same name. Every service has idle I/O priority and can write only to its archive.
/// The first line of each unit names its file.
#[test]
fn the_units_belong_together() {
    for name in units() {
        let unit = text(&format!("systemd/{name}"));
        assert!(unit.starts_with(&format!("# /lib/systemd/system/{name}: ")), "{name}");
        match name.strip_suffix(".timer") {
            Some(stem) => {
                assert!(units().contains(&format!("{stem}.service")), "{name}");
                for setting in ["RandomizedDelaySec=", "Persistent=yes", "WantedBy=timers.target"] {
                    assert!(unit.contains(setting), "{name}: {setting}");
                }
            }
            None => {
                for setting in [
                    "IOSchedulingClass=idle",
                    "ProtectSystem=strict",
                    if name == "backy-run.service" {
                        "ReadWritePaths=-/srv"
                    } else {
                        "ReadWritePaths=%f\n"
                    },
                    "NoNewPrivileges=yes",
                    "NotifyAccess=main",
                ] {
                    assert!(unit.contains(setting), "{name}: {setting}");
                }
            }
        }
    }
}

/// No service reaches another machine by itself: only the drop-in for hooks allows it.
#[test]
fn only_hooks_may_use_the_network() {
    let families = |name: &str| -> BTreeSet<String> {
        let unit = text(name);
        let lines = unit.lines().filter_map(|line| line.strip_prefix("RestrictAddressFamilies="));
        lines.flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    for name in units().iter().filter(|name| name.ends_with(".service")) {
        assert!(families(&format!("systemd/{name}")).iter().eq(["AF_UNIX"]), "{name}");
    }
    let hooks = families("systemd/hooks.conf");
    assert!(["AF_INET", "AF_INET6"].iter().all(|family| hooks.contains(*family)), "{hooks:?}");
}

/// The calls of backy in what is for cron, systemd, Nagios and NRPE.
fn calls() -> Vec<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    for name in units().iter().filter(|name| name.ends_with(".service")) {
        let unit = text(&format!("systemd/{name}"));
        lines.extend(
            unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).map(str::to_owned),
        );
    }
    for name in ["cron.d/backy", "nagios/backy.cfg", "nagios/nrpe.cfg"] {
        let file = text(name);
        let lines_here = file.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.extend(lines_here.filter(|line| line.contains("backy ")).map(str::to_owned));
    }
    let words = |line: &String| -> Option<Vec<String>> {
        let (_, call) =
            line.split_once("backy ").filter(|(before, _)| before.ends_with(['/', ' ', '=']))?;
        Some(call.split_whitespace().map(str::to_owned).collect())
    };
    lines.iter().filter_map(words).collect()
}

/// Every call of backy in these files works on a healthy archive.
#[test]
fn the_commands_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = folder.path().join("archive");
    let archive = archive.to_str().expect("text");
    fs::write(folder.path().join("source"), vec![7; 100_000]).expect("a source");
    let run = |arguments: &[String]| {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(folder.path()).output().expect("run backy")
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(run(&words(&format!("-b {archive} init source"))).status.success());
    let mut commands = BTreeSet::new();
    for call in calls() {
        let place = |word: &String| match word.as_str() {
            "%f" | "$ARG1$" | "/srv/backup/mynode" | "/srv/backup" => archive.to_owned(),
            _ => word.clone(),
        };
        let mut arguments: Vec<String> = call.iter().map(place).collect();
        if arguments.contains(&"run".to_owned()) {
            // In place of what /etc/backy/fleet.toml names.
            arguments.push(archive.to_owned());
        }
        assert!(arguments.contains(&archive.to_owned()), "{call:?}");
        let output = run(&arguments);
        assert!(output.status.success(), "{call:?}: {}", said(&output));
        commands.extend(call.into_iter().filter(|word| word.starts_with(char::is_alphabetic)));
    }
    for command in ["backup", "maintenance", "scrub", "status", "check", "run"] {
        assert!(commands.contains(command), "{commands:?}");
    }
}

/// The alerts are YAML in the form that Prometheus wants for a rule, and backy exports every figure in them.
/// Prometheus's own tool checks them where it is installed.
#[test]
fn prometheus_accepts_the_alerts() {
    let file = text("prometheus/backy-alerts.yml");
    let documents = YamlLoader::load_from_str(&file).expect("YAML");
    let rules = documents[0]["groups"][0]["rules"].as_vec().expect("rules");
    let known: BTreeSet<&str> = backy_lib::monitoring::prometheus_names().collect();
    let mut names = BTreeSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        assert!(names.insert(name), "{name} is there twice");
        let expression = rule["expr"].as_str().expect("an expression");
        let figures = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let figures: Vec<&str> = figures.filter(|word| word.starts_with("backy_")).collect();
        assert!(!figures.is_empty(), "{name}");
        for figure in figures {
            assert!(known.contains(figure), "{name}: there is no {figure}");
        }
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning")), "{name}");
        for annotation in ["summary", "description"] {
            assert!(
                matches!(&rule["annotations"][annotation], Yaml::String(_)),
                "{name}: {annotation}"
            );
        }
    }
    assert!(names.len() >= 5, "{names:?}");
    severities_are_levels(rules);
    let path = checkout().join("dist/prometheus/backy-alerts.yml");
    // A large package that nothing else needs; so its absence is no reason to fail.
    if let Ok(output) = Command::new("promtool").args(["check", "rules"]).arg(path).output() {
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// An alert on a problem, or on a verdict, has the severity of its level in the library's table; and there is
/// an alert on each level.
fn severities_are_levels(rules: &[Yaml]) {
    let severity = |level: Level| match level {
        Level::Warning => "warning",
        Level::Critical | Level::Unknown => "critical",
        Level::Ok => panic!("no alert is on what is well"),
    };
    let levels = [Level::Warning, Level::Critical, Level::Unknown];
    let level = |number: &str| {
        let number: u8 = number.trim().parse().expect("a level");
        levels.into_iter().find(|level| level.exit_status() == number).expect("a level")
    };
    let mut verdicts = BTreeSet::new();
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        let expression = rule["expr"].as_str().expect("an expression");
        let told = rule["labels"]["severity"].as_str().expect("a severity");
        let Some((figure, number)) = expression.split_once(" == ") else {
            // By the time alone, also when nobody writes figures any more.
            assert!(name == "BackupOverdue" && expression.contains("> 1.5 *"), "{name}");
            assert_eq!(told, severity(Cause::LongOverdue.level()));
            continue;
        };
        assert_eq!(told, severity(level(number)), "{name}");
        if figure == "backy_status" {
            verdicts.insert(level(number));
            continue;
        }
        let (_, kinds) = figure.split_once("backy_problem{kind=").expect("a problem");
        for kind in kinds.trim_matches(|c: char| "~\"}".contains(c)).split('|') {
            let has =
                |cause: &Cause| cause.kind().as_str() == kind && cause.level() == level(number);
            assert!(Cause::ALL.iter().any(has), "{name}: {kind} is never {number}");
        }
    }
    assert_eq!(verdicts, BTreeSet::from(levels));
}

/// All files of the Debian package exist, except those that are built for it. Its scripts are valid for the shell.
#[test]
fn the_package_is_made_of_files_that_are_there() {
    let manifest = fs::read_to_string(checkout().join("backy-cli/Cargo.toml")).expect("a manifest");
    let (_, assets) = manifest.split_once("assets = [\n").expect("assets");
    let (assets, _) = assets.split_once("\n]").expect("their end");
    let sources: Vec<&str> = assets.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(sources.len() > 10, "{sources:?}");
    for source in sources {
        let Some(source) = source.strip_prefix("../").filter(|path| !path.starts_with("target/"))
        else {
            continue;
        };
        let path = checkout().join(source);
        let (folder, name) = (path.parent().expect("a folder"), path.file_name().expect("a name"));
        let name = name.to_str().expect("text");
        let found = folder.read_dir().expect("list the folder").flatten().any(|entry| {
            let entry = entry.file_name().into_string().expect("text");
            match name.split_once('*') {
                Some((begin, end)) => entry.starts_with(begin) && entry.ends_with(end),
                None => entry == name,
            }
        });
        assert!(found, "{source}");
    }
    for script in ["prerm", "postrm", "postinst"] {
        let path = checkout().join("dist/debian").join(script);
        let output = Command::new("sh").arg("-n").arg(&path).output().expect("run sh");
        assert!(output.status.success(), "{script}: {}", said(&output));
    }
}

/// The command as the tests call it, in the project's folder.
fn ran(command: &mut Command) -> String {
    let output = command.current_dir(checkout()).output().expect("run a program");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn generated(arguments: &[&str]) -> String {
    ran(Command::new("python3").arg(checkout().join("dist/debian/generate")).args(arguments))
}

/// Whoever gets the package can read whose work is in it and under which terms: of everything that cargo links into
/// the command, including the C library that comes with a crate.
#[test]
fn the_package_has_the_notices_of_all_that_is_linked_in() {
    let copyright = generated(&["copyright"]);
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree =
        ["tree", "--locked", "-p", "backy-cli", "-e", "normal,no-proc-macro", "--prefix=none"];
    let tree = ran(Command::new(cargo).args(tree).args(["--format", "{p}"]));
    let mut linked = BTreeSet::new();
    for package in tree.lines().filter(|package| !package.contains("(/") && !package.is_empty()) {
        let (name, version) = package.split_once(" v").expect("a name and a version");
        let version = version.split(' ').next().unwrap_or_default();
        linked.insert(format!("{name} {version} ("));
    }
    assert!(linked.len() > 40, "{linked:?}");
    for package in &linked {
        let at = copyright.find(&format!("\n{package}")).unwrap_or_else(|| panic!("no {package}"));
        let notice = copyright[at + 1..].lines().nth(1).unwrap_or_default();
        assert!(notice.trim_start().to_lowercase().contains("copyright"), "{package}: {notice}");
    }
    for words in ["Meta Platforms", "BSD License", "Permission is hereby granted", "GPL-3"] {
        assert!(copyright.contains(words), "{words}");
    }
}

/// The changelog of the package is one for Debian's own tools, and is about this version.
#[test]
fn the_package_has_a_changelog() {
    let changelog = generated(&["changelog", "A Name <name@example.org>"]);
    let version = env!("CARGO_PKG_VERSION");
    assert!(changelog.starts_with(&format!("backy ({version}) unstable; ")), "{changelog}");
    assert!(changelog.lines().all(|line| line.chars().count() <= 80), "{changelog}");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(file.path(), &changelog).expect("write it");
    let mut parse = Command::new("dpkg-parsechangelog");
    parse.arg("-l").arg(file.path());
    let Ok(output) = parse.output() else { return skipped("dpkg-parsechangelog is not installed") };
    let said = said(&output);
    assert!(output.status.success() && output.stderr.is_empty(), "{said}");
    for line in [format!("Version: {version}"), "Maintainer: A Name <name@example.org>".to_owned()]
    {
        assert!(said.lines().any(|found| found == line), "{line}: {said}");
    }
}

/// Whoever maintains the package can be written to, as far as the address says; what its scripts need is named.
#[test]
fn the_package_names_a_maintainer_and_what_its_scripts_need() {
    let manifest = fs::read_to_string(checkout().join("backy-cli/Cargo.toml")).expect("a manifest");
    let setting = |name: &str| {
        let line = manifest.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")));
        line.unwrap_or_else(|| panic!("no {name}")).trim_end_matches('"').to_owned()
    };
    let maintainer = setting("maintainer");
    let (_, host) = maintainer.trim_end_matches('>').split_once('@').expect("an address");
    assert!(host.contains('.') && !host.contains("localhost"), "{maintainer}");
    let makefile = fs::read_to_string(checkout().join("Makefile")).expect("the Makefile");
    assert!(makefile.contains(host), "another address than {host}");
    let scripts =
        fs::read_to_string(checkout().join("dist/rescue/backy-rescue.py")).expect("the script");
    assert!(scripts.starts_with("#!/usr/bin/env python3\n"));
    let needs = format!("{}, {}", setting("depends"), setting("recommends"));
    assert!(needs.split(", ").any(|package| package == "python3"), "{needs}");
}

/// A package contains what cargo built in its configured folder. Nothing is taken from the default build folder.
#[test]
fn the_package_is_made_where_cargo_builds() {
    let mut make = Command::new("make");
    make.args(["--dry-run", "deb"]).env("CARGO_TARGET_DIR", "/elsewhere");
    make.env_remove("MAKEFLAGS");
    let commands = ran(&mut make);
    for path in ["/elsewhere/release/backy man", "/elsewhere/release/package/backy.toml.5.gz"] {
        assert!(commands.contains(path), "{path}: {commands}");
    }
    let here =
        commands.split_whitespace().find(|word| word.trim_matches('\'').starts_with("target/"));
    assert_eq!(here, None, "{commands}");
    // cargo-deb looks for these where cargo builds, and for nothing else.
    let manifest = fs::read_to_string(checkout().join("backy-cli/Cargo.toml")).expect("a manifest");
    let built = manifest.lines().filter(|line| line.contains("/package/"));
    let is_found = |line: &str| line.contains("\"target/release/package/");
    assert!(
        built.clone().count() >= 7 && built.clone().all(is_found),
        "{:?}",
        built.collect::<Vec<_>>()
    );
}
