//! Every key of `backy.toml` with its default and meaning. The manual page backy.toml(5) is generated from this, and
//! a test compares it with what the reader of the config knows.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its table, as written in the file; empty for the keys above all tables.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// A valid value, as written in the file.
    pub example: &'static str,
    /// Its value if the key is missing, as it would be written; `None` if there is none.
    pub default: Option<&'static str>,
    /// Full sentences on what it does.
    pub text: &'static str,
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// As written in the file; empty for the keys above all tables.
    pub name: &'static str,
    /// Full sentences on what it is for.
    pub text: &'static str,
}

/// In names of tables, stands for any tag.
pub(super) const SCHEDULE: &str = "schedule.TAG";

/// The tables, in the order of the manual page.
pub const TABLES: [Table; 7] = [
    Table { name: "", text: "These keys stand above all tables." },
    Table {
        name: SCHEDULE,
        text: "When a backup is due, and how many revisions backy keeps: one table for each tag, such as \
               [schedule.daily]. A tag has 1 to 64 letters, digits, '_', '-' and '.', and begins with a letter or a \
               digit; at most 24 tags. Without a schedule, a backup is always due, and nothing expires.",
    },
    Table {
        name: "hooks",
        text: "Programs that backy runs before and after it reads the source. Each is a list of a program and its \
               arguments, or one line for /bin/sh.",
    },
    Table {
        name: "origin",
        text: "For a copy of another archive: where that is. A copy has no source; 'backy pull' takes over the \
               revisions of its origin, and the schedule here decides how long they stay.",
    },
    Table {
        name: "tracking",
        text: "How far a backup relies on a source that reports what has changed.",
    },
    Table { name: "drill", text: "Test restores with 'backy drill'." },
    Table {
        name: "monitoring",
        text: "What 'backy status' and 'backy check' report as a problem.",
    },
];

pub(super) const fn key(
    table: &'static str,
    name: &'static str,
    example: &'static str,
    default: Option<&'static str>,
    text: &'static str,
) -> Key {
    Key { table, name, example, default, text }
}

/// The keys, grouped by table.
pub const KEYS: [Key; 40] = [
    key(
        "",
        "include",
        "\"/etc/backy/standard.toml\"",
        None,
        "A file with settings for several archives, or a list of such files. What a later file sets overrides an \
         earlier one, and what this file sets overrides them all: key by key, also in a table such as \
         [schedule.daily]. An included file may include others. A relative path begins in the folder of the file that \
         has it; backy expands neither '~' nor variables. Nobody but you and root may be able to change an included \
         file, or a folder above it. If one is missing, 'backy backup' and 'backy maintenance' fail; the archive can \
         still be read, restored, verified and mounted.",
    ),
    key(
        "",
        "without",
        "[\"schedule.monthly\", \"hooks\"]",
        None,
        "Keys and tables that this file does not take from the files that it includes. It may set them itself. A tag \
         with a '.' needs quotation marks, as in a header.",
    ),
    key(
        "",
        "source",
        "\"/dev/vg0/mynode\"",
        None,
        "What to back up: the absolute path of a block device or a file. If it is a symbolic link, every \
         backup follows it. \"reflink:PATH\" is a file on XFS or btrfs, of which a backup reads only what has changed; \
         \"qcow2:PATH\" is the guest's disk in an image that no virtual machine has open; \
         \"libvirt:DOMAIN/DISK\" is a disk of a domain of libvirt; \
         \"qmp:SOCKET/DISK\" is a disk of a virtual machine that runs, with the socket of QEMU's monitor; \
         \"rbd:POOL/IMAGE\" is an image of Ceph RBD, also while it is in use; \
         \"lvm-thin:VG/LV\" is a thin volume of LVM, also while it is in use; \
         \"nbd://HOST/EXPORT\" and \"nbd+unix:///EXPORT?socket=PATH\" are exports of an NBD server. doc/sources.md \
         describes them.",
    ),
    key(
        "",
        "secret_file",
        "\"/etc/backy/mynode.secret\"",
        None,
        "For a source \"qcow2:PATH\" that is encrypted: the absolute path of a file with its passphrase and nothing \
         else, not even the end of a line. Only QEMU reads it.",
    ),
    key(
        "",
        "group",
        "\"vg0\"",
        None,
        "Archives with the same group share a limit of 'backy run'. A name as of a tag: 1 to 64 letters, digits, '_', \
         '-' and '.'.",
    ),
    key(
        "",
        "compression_level",
        "19",
        Some("1"),
        "The zstd level for the blocks of deltas, from 1 (fast) to 19 (small).",
    ),
    key(
        "",
        "file_mode",
        "\"0640\"",
        Some("\"0600\""),
        "Permissions of new files in the archive: \"0600\", \"0640\" or \"0644\".",
    ),
    key(
        "",
        "max_chain",
        "50",
        None,
        "The longest chain of deltas. If it grows longer, 'backy maintenance' makes one revision standalone.",
    ),
    key(
        SCHEDULE,
        "interval",
        "\"1d\"",
        None,
        "The time from one revision with the tag to the next. Required.",
    ),
    key(
        SCHEDULE,
        "keep",
        "9",
        None,
        "How many revisions keep the tag; it expires on older ones. Required.",
    ),
    key(
        SCHEDULE,
        "full",
        "true",
        Some("false"),
        "Whether maintenance makes every revision with the tag standalone, so that it needs no other file.",
    ),
    key(
        SCHEDULE,
        "at",
        "\"02:00\"",
        None,
        "The time of day at which the tag is due; without it, the time at which the first revision with the tag was \
         made. Needs an interval of whole days, or one that divides a day.",
    ),
    key(
        SCHEDULE,
        "window",
        "\"22:00-04:00\"",
        None,
        "The part of the day in which backy makes revisions with the tag. It may span midnight.",
    ),
    key(
        SCHEDULE,
        "timezone",
        "\"Europe/Berlin\"",
        None,
        "The time zone of 'at' and 'window'; without it, the system's time zone.",
    ),
    key(
        "hooks",
        "before",
        "[\"true\"]",
        None,
        "Runs before backy opens the source. If it fails, backy makes no backup.",
    ),
    key(
        "hooks",
        "after",
        "\"true\"",
        None,
        "Runs after backy has read the source or failed to, even if backy is killed.",
    ),
    key("hooks", "timeout", "\"90s\"", Some("\"5m\""), "The longest time for each hook."),
    key(
        "hooks",
        "max_hold",
        "\"10m\"",
        None,
        "The longest time from the start of 'before' to 'after'. Then backy runs 'after' in any case, and the backup \
         fails. Without it 1h, or 24h with a snapshot; \"none\" for no limit.",
    ),
    key(
        "hooks",
        "snapshot",
        "\"/dev/vg0/snap\"",
        None,
        "What backy reads instead of the source, if 'before' makes a snapshot.",
    ),
    key(
        "origin",
        "url",
        "\"ssh://backup1/srv/backup/mynode\"",
        None,
        "The archive to copy: ssh://[USER@]HOST[:PORT]/PATH, or an absolute path. Without it the archive is no copy.",
    ),
    key("origin", "interval", "\"6h\"", Some("\"1d\""), "The time from one pull to the next."),
    key(
        "origin",
        "ssh",
        "[\"ssh\", \"-i\", \"/etc/backy/key\"]",
        None,
        "The program that connects to the host, and its arguments. Without it, ssh.",
    ),
    key(
        "origin",
        "limit_rate",
        "\"20M\"",
        None,
        "The most bytes per second that a pull reads from the origin.",
    ),
    key(
        "tracking",
        "mode",
        "\"require\"",
        Some("\"auto\""),
        "\"auto\": a backup reads what has changed according to the source, and everything when there is any doubt. \
         \"off\": it always reads everything. \"require\": it fails instead of reading everything; only the first \
         backup, and one with --read-all, may.",
    ),
    key(
        "tracking",
        "verify_within",
        "\"7d\"",
        Some("\"30d\""),
        "The longest time that a block may go without being compared with the source, whatever that reports. Each \
         backup reads its share, those blocks first that were compared longest ago.",
    ),
    key(
        "tracking",
        "scratch",
        "\"/srv/scratch\"",
        Some("\"/var/tmp\""),
        "For a source \"libvirt:DOMAIN/DISK\" or \"qmp:SOCKET/DISK\": an absolute path of a folder, where QEMU keeps \
         what the virtual machine overwrites while backy reads its disk.",
    ),
    key(
        "tracking",
        "quiesce",
        "\"require\"",
        Some("\"auto\""),
        "For a source \"libvirt:DOMAIN/DISK\" that runs. \"auto\": the guest agent freezes the file systems of the \
         guest for the moment of the backup, if it is connected. \"off\": it does not. \"require\": without the agent \
         there is no backup.",
    ),
    key(
        "tracking",
        "fast_diff",
        "true",
        Some("false"),
        "For a source \"rbd:POOL/IMAGE\". true: Ceph looks up in the object map which objects have changed, and a \
         backup reads these whole. false: Ceph asks each object, and a backup reads only the bytes that have changed.",
    ),
    key(
        "tracking",
        "command",
        "[\"true\"]",
        None,
        "For a source that is a block device or a file: a program that makes marks at its storage, and knows what has \
         changed since one. A list of the program and its arguments, or one line for /bin/sh. doc/hint-program.md \
         describes what it is asked.",
    ),
    key(
        "drill",
        "timeout",
        "\"1h\"",
        Some("\"1d\""),
        "The longest time for the command of a drill. Then backy ends it and whatever it started, and the drill has \
         failed. \"none\" for no limit.",
    ),
    key(
        "monitoring",
        "textfile",
        "\"/var/lib/node-exporter/mynode.prom\"",
        None,
        "A file for Prometheus, which every command that may change the archive writes: an absolute path that \
         ends in .prom.",
    ),
    key(
        "monitoring",
        "max_age",
        "\"36h\"",
        None,
        "The greatest age of the newest revision, in addition to the schedule.",
    ),
    key(
        "monitoring",
        "scrub_within",
        "\"30d\"",
        Some("\"60d\""),
        "The longest time that stored data may stay unverified.",
    ),
    key("monitoring", "drill_within", "\"90d\"", None, "The longest time without a drill."),
    key(
        "monitoring",
        "long_chain",
        "100",
        None,
        "A chain of more deltas is a problem. Without it 10 more than max_chain, or 200.",
    ),
    key(
        "monitoring",
        "min_free_percent",
        "10",
        Some("5"),
        "Less free space than this share of the file system is a problem; 0 to 99.",
    ),
    key(
        "monitoring",
        "full_within",
        "\"30d\"",
        Some("\"14d\""),
        "A file system that is expected to be full within this time is a problem.",
    ),
    key(
        "monitoring",
        "change_factor",
        "10",
        Some("5"),
        "A backup in which this many times more changed than usual is unusual; at least 2.",
    ),
    key(
        "monitoring",
        "freeze",
        "false",
        Some("true"),
        "Whether nothing expires until you confirm alarms and damage.",
    ),
    key(
        "monitoring",
        "accept_no_permissions",
        "true",
        Some("false"),
        "Whether to accept without a warning that the archive's file system has no permissions (FAT, exFAT, NTFS), so \
         that everybody on the host may write to it.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::base::error::Result;
    use crate::policy::config::Config;

    /// The lines that a key cannot do without.
    fn companions(key: &Key) -> &'static str {
        match (key.table, key.name) {
            (SCHEDULE, "interval") => "keep = 1\n",
            (SCHEDULE, "keep") => "interval = \"1d\"\n",
            (SCHEDULE, _) => "interval = \"1d\"\nkeep = 1\n",
            ("hooks", "max_hold") => "after = \"true\"\n",
            ("origin", "interval" | "ssh" | "limit_rate") => "url = \"/srv/a\"\n",
            ("hooks", "snapshot") => "before = \"true\"\n",
            _ => "",
        }
    }

    fn parse(key: &Key, line: &str) -> Result<Config> {
        let header = match key.table.replace("TAG", "daily") {
            table if table.is_empty() => String::new(),
            table => format!("[{table}]\n"),
        };
        Config::parse(&format!("{header}{}{line}", companions(key)), Path::new("backy.toml"))
    }

    /// The example of every key is valid and has an effect; writing out the default changes nothing.
    #[test]
    fn examples_and_defaults_are_right() {
        for key in &KEYS {
            let written = parse(key, &format!("{} = {}\n", key.name, key.example));
            let written = written.unwrap_or_else(|error| panic!("{}: {error}", key.name));
            let Some(default) = key.default else { continue };
            assert_ne!(default, key.example, "{}", key.name);
            let absent = parse(key, "").unwrap();
            assert_ne!(written, absent, "{} does nothing", key.name);
            let as_default = parse(key, &format!("{} = {default}\n", key.name)).unwrap();
            assert_eq!(as_default, absent, "{}", key.name);
        }
    }

    /// The tables and keys are those that the parser lists when it finds an unknown one.
    #[test]
    fn every_known_key_is_described() {
        for table in &TABLES {
            let named = KEYS.iter().filter(|key| key.table == table.name).map(|key| key.name);
            let mut described: BTreeSet<&str> = named.collect();
            if table.name.is_empty() {
                let tables = TABLES.iter().filter_map(|table| table.name.split('.').next());
                described.extend(tables.filter(|name| !name.is_empty()));
            }
            let unknown =
                Key { table: table.name, name: "unknown", example: "1", default: None, text: "" };
            let error = parse(&unknown, "unknown = 1\n").expect_err("it is unknown").to_string();
            let (_, listed) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
            let known: BTreeSet<&str> = listed.split('`').skip(1).step_by(2).collect();
            assert_eq!(known, described, "[{}]: {error}", table.name);
        }
        let texts = KEYS.iter().map(|key| key.text).chain(TABLES.iter().map(|table| table.text));
        assert!(
            texts.clone().all(|text| text.ends_with('.') && !text.contains("  ")),
            "{:?}",
            texts.collect::<Vec<_>>()
        );
    }
}
