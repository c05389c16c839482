//! Which image of a Ceph cluster is meant: `rbd:POOL/IMAGE`, as QEMU writes it.
//!
//! What is not understood is refused.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::base::escape::is_unsafe;

/// Longest name of a pool, a namespace, an image or a client; Ceph allows fewer bytes.
const MOST_NAME_BYTES: usize = 4096;

const FORMS: &str = "expected rbd:POOL/IMAGE or rbd:POOL/NAMESPACE/IMAGE, and then ':id=CLIENT' \
                     or ':conf=/PATH' if need be";

/// An image of Ceph RBD: `rbd:POOL[/NAMESPACE]/IMAGE[:id=CLIENT][:conf=/PATH]`. Shown as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdAddress {
    text: String,
    pool: String,
    namespace: Option<String>,
    image: String,
    client: Option<String>,
    conf: Option<PathBuf>,
}

impl RbdAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// A sentence that begins with the address.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        parse(text).map_err(|why| format!("'{}': {why}", text.escape_debug()))
    }

    /// The pool.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The namespace within the pool, if it is not the default one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The image.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The client whose key is used, without `client.`.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// The configuration of the cluster.
    pub fn conf(&self) -> Option<&Path> {
        self.conf.as_deref()
    }

    /// The image as Ceph's programs want it.
    pub(crate) fn spec(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{namespace}/{}", self.pool, self.image),
            None => format!("{}/{}", self.pool, self.image),
        }
    }
}

impl fmt::Display for RbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(text: &str) -> std::result::Result<RbdAddress, String> {
    if let Some(c) = text.chars().find(|&c| is_unsafe(c)) {
        return Err(format!("found {c:?}, which no name may have"));
    }
    let rest = text.strip_prefix("rbd:").ok_or(FORMS)?;
    let mut parts = rest.split(':');
    let spec = parts.next().unwrap_or_default();
    if spec.contains('@') {
        return Err(
            "found '@'; name the image only, since backy makes its own snapshots".to_owned()
        );
    }
    let names: Vec<&str> = spec.split('/').collect();
    let (pool, namespace, image) = match *names {
        [pool, image] => (pool, None, image),
        [pool, namespace, image] => (pool, Some(namespace), image),
        _ => return Err(FORMS.to_owned()),
    };
    for name in [Some(pool), namespace, Some(image)].into_iter().flatten() {
        check_name(name)?;
    }
    let (mut client, mut conf) = (None, None);
    for option in parts {
        match option.split_once('=') {
            Some(("id", name)) if client.is_none() => {
                check_name(name)?;
                client = Some(name.to_owned());
            }
            Some(("conf", path)) if conf.is_none() => {
                if !Path::new(path).is_absolute() {
                    return Err(format!("found 'conf={path}', expected an absolute path"));
                }
                conf = Some(path.into());
            }
            _ => return Err(format!("found ':{option}'; {FORMS}")),
        }
    }
    let namespace = namespace.map(str::to_owned);
    let (pool, image) = (pool.to_owned(), image.to_owned());
    Ok(RbdAddress { text: text.to_owned(), pool, namespace, image, client, conf })
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    match name.len() {
        // A program would take it for an option.
        _ if name.starts_with('-') => {
            Err(format!("found the name '{name}', which begins with '-'"))
        }
        1..=MOST_NAME_BYTES => Ok(()),
        0 => Err(format!("found an empty name; {FORMS}")),
        length => {
            Err(format!("found a name of {length} bytes, expected at most {MOST_NAME_BYTES}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address has its parts, and is shown as it was written.
    #[test]
    fn addresses_are_read() {
        let plain = RbdAddress::parse("rbd:vms/disk 1,a").unwrap();
        assert_eq!((plain.pool(), plain.namespace(), plain.image()), ("vms", None, "disk 1,a"));
        assert_eq!((plain.client(), plain.conf()), (None, None));
        assert_eq!(
            (plain.spec(), plain.to_string()),
            ("vms/disk 1,a".into(), "rbd:vms/disk 1,a".into())
        );
        let text = "rbd:vms/a/disk:conf=/etc/ceph/b.conf:id=backy";
        let full = RbdAddress::parse(text).unwrap();
        assert_eq!((full.pool(), full.namespace(), full.image()), ("vms", Some("a"), "disk"));
        assert_eq!(
            (full.client(), full.conf()),
            (Some("backy"), Some(Path::new("/etc/ceph/b.conf")))
        );
        assert_eq!((full.spec(), full.to_string()), ("vms/a/disk".into(), text.into()));
    }

    /// Anything else is refused, with what was found.
    #[test]
    fn other_addresses_are_refused() {
        for (wrong, part) in [
            ("rbd:vms", "expected rbd:POOL/IMAGE"),
            ("rbd:", "expected rbd:POOL/IMAGE"),
            ("rbd:/vms/disk", "an empty name"),
            ("rbd:vms/", "an empty name"),
            ("rbd:vms//disk", "an empty name"),
            ("rbd:a/b/c/d", "expected rbd:POOL/IMAGE"),
            ("rbd:vms/disk@one", "its own snapshots"),
            ("rbd:-p/disk", "begins with '-'"),
            ("rbd:vms/disk\n", "'\\n'"),
            ("rbd:vms/disk:conf=x", "an absolute path"),
            ("rbd:vms/disk:id=", "an empty name"),
            ("rbd:vms/disk:id=a:id=b", "found ':id=b'"),
            ("rbd:vms/disk:key=secret", "found ':key=secret'"),
            ("vms/disk", "expected rbd:POOL/IMAGE"),
        ] {
            let error = RbdAddress::parse(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        let long = RbdAddress::parse(&format!("rbd:a/{}", "x".repeat(5000))).unwrap_err();
        assert!(long.contains("5000 bytes"), "{long}");
    }
}
