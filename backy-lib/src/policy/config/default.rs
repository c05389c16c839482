//! What holds where `backy.toml` sets nothing.

use std::collections::BTreeMap;

use super::{Config, DEFAULT_LEVEL, HooksConfig, Monitoring, OWNER_MODE, TimeLimit, Tracking};

impl Default for Config {
    fn default() -> Self {
        Config {
            source: None,
            secret_file: None,
            origin: None,
            group: None,
            includes: Vec::new(),
            schedule: BTreeMap::new(),
            max_chain: None,
            compression_level: DEFAULT_LEVEL,
            file_mode: OWNER_MODE,
            hooks: HooksConfig::default(),
            drill_timeout: TimeLimit::default(),
            tracking: Tracking::default(),
            monitoring: Monitoring::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_default_is_what_an_empty_file_says() {
        assert_eq!(Config::default(), Config::parse("", Path::new("backy.toml")).unwrap());
    }
}
