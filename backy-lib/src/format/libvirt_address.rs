//! The address of a disk of a libvirt domain: the domain, and what the disk is called in it.

use std::fmt;

/// Characters that neither a domain nor a disk has in its name.
const NOT_IN_NAMES: [char; 3] = ['/', '\n', '\0'];

/// A disk of a domain: `DOMAIN/DISK`, as it stands behind `libvirt:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtAddress {
    domain: String,
    disk: String,
}

impl LibvirtAddress {
    /// Reads what follows `libvirt:`.
    ///
    /// # Errors
    /// A sentence: what was found, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| !name.is_empty() && !name.contains(NOT_IN_NAMES);
        match text.split_once('/') {
            Some((domain, disk)) if is_name(domain) && is_name(disk) => {
                Ok(LibvirtAddress { domain: domain.to_owned(), disk: disk.to_owned() })
            }
            _ => Err(format!(
                "found {text:?}, expected a domain of libvirt and the target of one of its disks, as in \
                 libvirt:mynode/vda"
            )),
        }
    }

    /// The name or the UUID of the domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The target of the disk, such as `vda`.
    pub fn disk(&self) -> &str {
        &self.disk
    }
}

impl fmt::Display for LibvirtAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "libvirt:{}/{}", self.domain, self.disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A domain and a disk, both with a name.
    #[test]
    fn an_address_has_a_domain_and_a_disk() {
        let address = LibvirtAddress::parse("my node/vda").unwrap();
        assert_eq!((address.domain(), address.disk()), ("my node", "vda"));
        assert_eq!(address.to_string(), "libvirt:my node/vda");
        for wrong in ["", "/", "mynode", "mynode/", "/vda", "a/b/c", "a\nb/vda"] {
            let why = LibvirtAddress::parse(wrong).unwrap_err();
            assert!(why.contains("libvirt:mynode/vda"), "{wrong}: {why}");
        }
    }
}
