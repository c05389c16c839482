//! Every key of `fleet.toml` with its default and meaning, from which the manual page fleet.toml(5) is made.

use super::keys::{Key, Table, key};

/// The tables, in the order of the manual page.
pub const FLEET_TABLES: [Table; 3] = [
    Table { name: "", text: "These keys stand above all tables." },
    Table {
        name: "groups",
        text: "For a group that is set in the backy.toml of archives, how many of their jobs run at a time. A group \
               without an entry has one.",
    },
    Table {
        name: "[archive]",
        text: "An archive that is expected: one table [[archive]] for each. 'backy run' makes one that does not exist, \
               if the folder above it does. 'backy check' is critical for one that is missing, has another source, or \
               was never backed up.",
    },
];

/// The keys, grouped by table.
pub const FLEET_KEYS: [Key; 10] = [
    key(
        "",
        "archives",
        "[\"/srv/backup/*\"]",
        Some("[]"),
        "Archives, folders that hold archives, and patterns, as absolute paths.",
    ),
    key(
        "",
        "jobs",
        "8",
        None,
        "How many jobs run at a time. Without it, as many as there are cores, and at most 4.",
    ),
    key(
        "",
        "stall",
        "\"2h\"",
        Some("\"30m\""),
        "A job that has made no progress for this long is reported as stuck.",
    ),
    key(
        "",
        "textfile",
        "\"/var/lib/node-exporter/backy.prom\"",
        None,
        "A file for Prometheus, which each run writes, with its own figures and those of all archives: an absolute \
         path that ends in .prom.",
    ),
    key(
        "",
        "archives_from",
        "[\"/usr/local/bin/list-disks\"]",
        None,
        "A program, with its arguments, that prints a JSON object on each line for an archive that is expected, with \
         the keys of an [[archive]].",
    ),
    key("groups", "GROUP", "2", Some("1"), "How many jobs of the group GROUP run at a time."),
    key(
        "[archive]",
        "path",
        "\"/srv/backup/mynode\"",
        None,
        "Its folder, an absolute path. Required.",
    ),
    key(
        "[archive]",
        "source",
        "\"/dev/vg0/mynode\"",
        None,
        "What it backs up, an absolute path. Without it, whatever its own backy.toml says.",
    ),
    key(
        "[archive]",
        "origin",
        "\"ssh://backup1/srv/backup/mynode\"",
        None,
        "In place of source, for a copy: the archive that it takes over revisions of, as url in [origin] of \
         backy.toml(5).",
    ),
    key(
        "[archive]",
        "include",
        "\"/etc/backy/standard.toml\"",
        None,
        "The settings that its backy.toml includes when it is made, an absolute path: backy.toml(5).",
    ),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::config::FleetSettings;

    /// The examples of all keys together are a file that can be read, and it has every setting.
    #[test]
    fn the_examples_are_a_file() {
        let mut text = String::new();
        for table in &FLEET_TABLES {
            if !table.name.is_empty() {
                text.push_str(&format!("[{}]\n", table.name));
            }
            // A copy has an origin in place of a source.
            let is_used = |key: &&Key| key.table == table.name && key.name != "origin";
            for key in FLEET_KEYS.iter().filter(is_used) {
                text.push_str(&format!("{} = {}\n", key.name, key.example));
            }
        }
        let read = FleetSettings::parse_bytes(text.as_bytes(), Path::new("fleet.toml")).unwrap();
        assert!(read.jobs.is_some() && read.stall.is_some() && read.textfile.is_some(), "{text}");
        let counts =
            [read.archives.len(), read.archives_from.len(), read.groups.len(), read.declared.len()];
        assert_eq!(counts, [1; 4]);
        assert!(read.declared[0].source.is_some() && read.declared[0].include.is_some());
        let copy = text.replace("source = \"", "origin = \"");
        let read = FleetSettings::parse_bytes(copy.as_bytes(), Path::new("fleet.toml")).unwrap();
        assert_eq!(read.declared[0].origin.as_deref(), Some("/dev/vg0/mynode"));
        let both = format!("{text}origin = \"/x\"\n");
        let read = FleetSettings::parse_bytes(both.as_bytes(), Path::new("fleet.toml"));
        assert!(read.unwrap_err().to_string().contains("also has a source"));
        let relative = copy.replace("/dev/vg0/mynode", "a:/b");
        let read = FleetSettings::parse_bytes(relative.as_bytes(), Path::new("fleet.toml"));
        assert!(read.unwrap_err().to_string().contains("expected \"ssh://HOST/PATH\""));
    }

    /// An unknown key is refused with a list of those that there are: each is in the table.
    #[test]
    fn the_table_has_every_key() {
        for (text, table) in [("x = 1", ""), ("[[archive]]\nx = 1", "[archive]")] {
            let error = FleetSettings::parse_bytes(text.as_bytes(), Path::new("f"))
                .unwrap_err()
                .to_string();
            let known: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
            let mut own: Vec<&str> =
                FLEET_KEYS.iter().filter(|key| key.table == table).map(|key| key.name).collect();
            if table.is_empty() {
                own.extend(["groups", "archive"]);
            }
            let sorted = |mut names: Vec<&str>| {
                names.sort_unstable();
                names.join(" ")
            };
            assert_eq!(sorted(known), sorted(own), "{error}");
        }
    }
}
