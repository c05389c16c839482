//! Plants the bug that `tests/canary` expects the tests to find.

use std::sync::Once;

/// Names the bug to plant.
const VARIABLE: &str = "BACKY_CANARY";

/// Plants the bug that the environment names, if it names one.
///
/// # Panics
/// When there is no such bug, or the tests were built without the feature `canary`: nothing would be planted,
/// and nothing found.
pub fn plant() {
    static PLANTED: Once = Once::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "the library reads no environment; its tests do"
    )]
    PLANTED.call_once(|| {
        if let Ok(name) = std::env::var(VARIABLE) {
            plant_named(&name);
        }
    });
}

#[cfg(feature = "canary")]
fn plant_named(name: &str) {
    use backy_lib::canary::{self, Bug};
    let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
    let bug = bug.unwrap_or_else(|| panic!("{VARIABLE}: there is no bug '{name}'"));
    assert!(canary::plant(bug), "{VARIABLE}: another bug was planted before");
}

#[cfg(not(feature = "canary"))]
fn plant_named(name: &str) {
    panic!("{VARIABLE}={name}: these tests were built without the feature `canary`");
}
