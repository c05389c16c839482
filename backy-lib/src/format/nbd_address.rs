//! Where an NBD export is: URIs as the document "The NBD Uniform Resource Indicator (URI) format" specifies them.
//!
//! What is not understood is refused, and so is what needs TLS.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::base::error::{Error, Result};
use crate::base::escape::is_unsafe;

/// Longest name of an export or a bitmap; "Values", as for all strings of the protocol.
pub(crate) const MOST_NAME_BYTES: usize = 4096;

/// What IANA assigned to NBD: "NBD URI authority".
const DEFAULT_PORT: u16 = 10809;

/// Longest path of a Unix socket on Linux, without the zero byte at its end.
const MOST_SOCKET_BYTES: usize = 107;

const FORMS: &str = "expected nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=/PATH";

/// An export of an NBD server: `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=/PATH`. Shown as it was
/// written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdAddress {
    text: String,
    place: Place,
    export: String,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl NbdAddress {
    /// Reads an address.
    ///
    /// # Errors
    /// A sentence that begins with the address.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        parse(text).map_err(|why| format!("'{}': {why}", text.escape_debug()))
    }

    /// The name of the export; empty for the server's default.
    pub fn export(&self) -> &str {
        &self.export
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether a text begins as an address of this kind, and not as a path. It may still be refused.
    pub fn is_meant(text: &str) -> bool {
        ["nbd:", "nbd+", "nbds:", "nbds+"].iter().any(|scheme| text.starts_with(scheme))
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for NbdAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        NbdAddress::parse(text).map_err(|message| Error::Specification { message })
    }
}

fn parse(text: &str) -> std::result::Result<NbdAddress, String> {
    if let Some(c) = text.chars().find(|&c| c == ' ' || is_unsafe(c)) {
        return Err(format!("found {c:?}; write it as %{:02X}", u32::from(c)));
    }
    let (scheme, rest) = text.split_once("://").ok_or(FORMS)?;
    if rest.contains('#') {
        return Err("found '#'; write it as %23".to_owned());
    }
    let (hierarchy, query) = match rest.split_once('?') {
        Some((hierarchy, query)) => (hierarchy, Some(query)),
        None => (rest, None),
    };
    let (authority, export) = hierarchy.split_once('/').unwrap_or((hierarchy, ""));
    let place = match scheme {
        "nbd" => {
            if let Some(query) = query {
                return Err(format!("found '?{query}', which backy does not know; {FORMS}"));
            }
            tcp(authority)?
        }
        "nbd+unix" if authority.is_empty() => Place::Unix(socket(query)?),
        "nbd+unix" => {
            return Err(format!("found the host '{authority}' before a Unix socket; {FORMS}"));
        }
        "nbds" | "nbds+unix" => {
            return Err(
                "backy does not speak TLS; forward the server's port or socket with ssh -L or stunnel, and name that"
                    .to_owned(),
            );
        }
        other => return Err(format!("found the scheme '{other}'; {FORMS}")),
    };
    let export = String::from_utf8(decoded(export)?)
        .map_err(|_| "the name of the export is not UTF-8".to_owned())?;
    if export.contains('\0') || export.len() > MOST_NAME_BYTES {
        let length = export.len();
        return Err(format!(
            "the name of the export has {length} bytes; expected at most {MOST_NAME_BYTES}, none of them zero"
        ));
    }
    Ok(NbdAddress { text: text.to_owned(), place, export })
}

/// "NBD URI authority".
fn tcp(authority: &str) -> std::result::Result<Place, String> {
    if authority.contains('@') {
        return Err("found a user, which only TLS uses; backy does not speak TLS".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("found '[' without ']'")?;
            let allowed = |c: char| c.is_ascii_hexdigit() || ":.".contains(c);
            let (number, zone) = host.split_once("%25").unwrap_or((host, "0"));
            let is_zone = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let is_host = number.contains(':') && number.chars().all(allowed);
            if !is_host || zone.is_empty() || !zone.chars().all(is_zone) {
                return Err(format!("found '[{host}]'; expected an IPv6 address between [ and ]"));
            }
            let host = host.replacen("%25", "%", 1);
            match after {
                "" => (host, None),
                after => (host, Some(after.strip_prefix(':').ok_or(FORMS)?)),
            }
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let allowed = |c: char| c.is_alphanumeric() || "._-".contains(c);
            if host.is_empty() || !host.chars().all(allowed) {
                return Err(format!("found the host '{host}'; {FORMS}"));
            }
            (host.to_owned(), port)
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => {
            let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let number = port.parse().ok().filter(|&number| is_number && number > 0);
            number.ok_or_else(|| format!("found the port '{port}'; expected 1 to 65535"))?
        }
    };
    Ok(Place::Tcp { host, port })
}

/// "NBD URI socket parameter". Parameters that are not understood are refused.
fn socket(query: Option<&str>) -> std::result::Result<PathBuf, String> {
    let mut found = None;
    for parameter in query.unwrap_or_default().split('&').filter(|word| !word.is_empty()) {
        let Some(path) = parameter.strip_prefix("socket=") else {
            return Err(format!("found '{parameter}', which backy does not know; {FORMS}"));
        };
        if found.replace(decoded(path)?).is_some() {
            return Err("found 'socket=' twice; expected one socket".to_owned());
        }
    }
    let path = found.ok_or(FORMS)?;
    if path.first() != Some(&b'/') || path.contains(&0) {
        return Err("the path of the socket is not absolute; expected socket=/PATH".to_owned());
    }
    if path.len() > MOST_SOCKET_BYTES {
        let length = path.len();
        return Err(format!(
            "the path of the socket has {length} bytes; expected at most {MOST_SOCKET_BYTES}"
        ));
    }
    Ok(PathBuf::from(OsString::from_vec(path)))
}

/// The bytes that `%XX` stand for, as RFC 3986 has it.
fn decoded(text: &str) -> std::result::Result<Vec<u8>, String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("found '%' without two hexadecimal digits; write '%' as %25".to_owned());
        };
        bytes.push((high * 16 + low) as u8);
        rest = after.get(2..).unwrap_or_default();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> NbdAddress {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn tcp_of(text: &str) -> (String, u16, String) {
        let address = address(text);
        match address.place {
            Place::Tcp { host, port } => (host, port, address.export),
            Place::Unix(path) => panic!("{text}: {path:?}"),
        }
    }

    /// The forms of the specification, each with the export that it names; what was written is what is shown.
    #[test]
    fn the_forms_of_the_specification_are_understood() {
        for (text, host, port, export) in [
            ("nbd://example.com/disk", "example.com", 10809, "disk"),
            ("nbd://example.com/", "example.com", 10809, ""),
            ("nbd://example.com", "example.com", 10809, ""),
            ("nbd://example.com//disk", "example.com", 10809, "/disk"),
            ("nbd://example.com/hello%20world", "example.com", 10809, "hello world"),
            ("nbd://10.0.0.1:1/a/b%2Fc", "10.0.0.1", 1, "a/b/c"),
            ("nbd://[::1]/x", "::1", 10809, "x"),
            ("nbd://[fe80::1%25eth0]:65535/%C3%BC", "fe80::1%eth0", 65535, "ü"),
            ("nbd://host/ü+%3F%23", "host", 10809, "ü+?#"),
        ] {
            assert_eq!(tcp_of(text), (host.to_owned(), port, export.to_owned()));
            assert_eq!(address(text).to_string(), text);
            assert!(NbdAddress::is_meant(text));
        }
        for (text, path, export) in [
            ("nbd+unix:///vda?socket=/run/vda.sock", "/run/vda.sock", "vda"),
            ("nbd+unix://?socket=/s", "/s", ""),
            ("nbd+unix:///?socket=/with%20space%26%3D/ü", "/with space&=/ü", ""),
            ("nbd+unix:////a?&socket=/s", "/s", "/a"),
        ] {
            let found = address(text);
            assert_eq!(found.place, Place::Unix(PathBuf::from(path)), "{text}");
            assert_eq!((found.export(), found.to_string().as_str()), (export, text));
        }
    }

    /// Anything else is refused in one line that says why.
    #[test]
    fn other_addresses_are_refused_with_the_reason() {
        let long = format!("nbd://h/{}", "x".repeat(4097));
        let long_socket = format!("nbd+unix:///?socket=/{}", "x".repeat(107));
        for (text, why) in [
            ("", "expected nbd://HOST"),
            ("nbd:", "expected nbd://HOST"),
            ("nbd:host:10809", "expected nbd://HOST"),
            ("nbd://", "found the host ''"),
            ("nbd:///export", "found the host ''"),
            ("nbd://a b/x", "write it as %20"),
            ("nbd://h/\n", "write it as %0A"),
            ("nbd://h/\u{202e}", "write it as"),
            ("nbd://h/x#y", "write it as %23"),
            ("nbd://h:0/x", "expected 1 to 65535"),
            ("nbd://h:/x", "expected 1 to 65535"),
            ("nbd://h:+5/x", "expected 1 to 65535"),
            ("nbd://h:65536/x", "expected 1 to 65535"),
            ("nbd://h:x/x", "expected 1 to 65535"),
            ("nbd://h_;i/x", "found the host"),
            ("nbd://u@h/x", "TLS"),
            ("nbd://[::1/x", "without ']'"),
            ("nbd://[::1]x/x", "expected nbd://HOST"),
            ("nbd://[h]/x", "IPv6"),
            ("nbd://[::1%25]/x", "IPv6"),
            ("nbd://h/x?socket=/s", "does not know"),
            ("nbd://h/%", "two hexadecimal digits"),
            ("nbd://h/%f", "two hexadecimal digits"),
            ("nbd://h/%+1", "two hexadecimal digits"),
            ("nbd://h/%FF", "not UTF-8"),
            ("nbd://h/%00", "none of them zero"),
            (&long, "4097 bytes"),
            ("nbd+unix:///x", "expected nbd://HOST"),
            ("nbd+unix://host/x?socket=/s", "found the host 'host'"),
            ("nbd+unix:///x?socket=s", "not absolute"),
            ("nbd+unix:///x?socket=", "not absolute"),
            ("nbd+unix:///x?socket=/%00", "not absolute"),
            ("nbd+unix:///x?socket=/a&socket=/b", "twice"),
            ("nbd+unix:///x?socket=/a&tls-type=psk", "does not know"),
            (&long_socket, "108 bytes"),
            ("nbds://h/x", "TLS"),
            ("nbds+unix:///x?socket=/s", "TLS"),
            ("nbd+vsock://2/x", "found the scheme"),
            ("http://h/x", "found the scheme"),
        ] {
            let error = text.parse::<NbdAddress>().expect_err(text).to_string();
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
    }

    /// Paths are not taken for addresses.
    #[test]
    fn a_path_is_no_address() {
        for text in ["/dev/nbd0", "nbd", "./nbd:x", "disk.img", "nbd0p1"] {
            assert!(!NbdAddress::is_meant(text), "{text}");
        }
    }

    proptest! {
        /// Any name of an export survives being written with %XX, and any text is an address or an error of one line.
        #[test]
        fn names_survive(name in "[^\\x00]{0,40}", text in "(nbd(\\+unix)?://)?\\PC{0,60}") {
            let written: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(tcp_of(&format!("nbd://h/{written}")).2, name);
            match text.parse::<NbdAddress>() {
                Ok(address) => prop_assert_eq!(address.to_string(), text),
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
