//! `doc/nbd.md`: its limits are those of the client.

use backy_lib::source::nbd::LIMITS;

use super::*;

/// The table of limits has each of them, with its value.
#[test]
fn the_limits_of_nbd_hold() {
    let rows = table(&document("doc/nbd.md"), "## Limits");
    let found: Vec<(String, u64)> =
        rows.iter().map(|row| (row[0].clone(), number(&row[1]))).collect();
    assert_eq!(found, LIMITS.map(|(name, value)| (name.to_owned(), value)));
}
