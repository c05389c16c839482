//! What monitoring runs: `status --check` and `check`. Their exit status is the verdict. Without a verdict, wrong
//! arguments included, it is 3 with a line on standard output: whoever runs them reads nothing else.

use std::ffi::OsString;

use backy_lib::Level;
use backy_lib::monitoring::nagios_unknown;

use crate::errors::Failure;
use crate::output::Output;

/// Whether these arguments, which may be wrong, are for one of the two.
pub(crate) fn is_probe(args: &[OsString]) -> bool {
    let mut words = args.iter().skip(1).map(|word| word.to_string_lossy());
    let mut command = None;
    let mut asks = false;
    while let Some(word) = words.next() {
        match &*word {
            "--" => break,
            "-b" | "--backupdir" => drop(words.next()),
            "--check" => asks = true,
            word if command.is_none() && !word.starts_with('-') => command = Some(word.to_owned()),
            _ => {}
        }
    }
    match command.as_deref() {
        Some("check") => true,
        Some("status") => asks,
        _ => false,
    }
}

/// Reports why there is no verdict. Returns the exit status. A verdict that has been printed keeps its own.
pub(crate) fn unknown(output: &Output, failure: &Failure) -> u8 {
    match failure {
        Failure::Verdict(status) => *status,
        // Nobody reads it; the verdict is not known to be ok.
        Failure::Output(_) => Level::Unknown.exit_status(),
        _ => match output.result(nagios_unknown(&failure.text()).as_bytes()) {
            Ok(()) | Err(_) => Level::Unknown.exit_status(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the two commands for monitoring count as such, wherever their options stand.
    #[test]
    fn the_commands_for_monitoring_are_known_by_their_arguments() {
        for (line, expected) in [
            ("backy status --check", true),
            ("backy -b check status --check --forse", true),
            ("backy check /srv", true),
            ("backy -q check", true),
            ("backy status", false),
            ("backy -b check status", false),
            ("backy --backupdir=check backup", false),
            ("backy drill -- check --check", false),
            ("backy scrub --check", false),
            ("backy", false),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(is_probe(&args), expected, "{line}");
        }
    }
}
