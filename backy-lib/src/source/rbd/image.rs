//! An image, as the programs of Ceph see it.

use std::ffi::OsString;
use std::io::PipeReader;
use std::time::Duration;

use super::answers::{self, Difference, Info, Snapshot};
use crate::base::error::Error;
use crate::base::escape;
use crate::format::rbd_address::RbdAddress;
use crate::source::program::{Misread, Program};

const RBD: Program = Program { name: "rbd", package: "ceph-common" };
const CEPH: Program = Program { name: "ceph", package: "ceph-common" };

/// How long a command may take.
const WITHIN: Duration = Duration::from_secs(5 * 60);

/// How long `rbd diff` may take: it asks for each object of the image, of which 10 TiB have 2.6 million.
const DIFF_WITHIN: Duration = Duration::from_secs(60 * 60);

/// How many seconds the monitors of the cluster have to answer.
const CONNECT_SECONDS: u64 = 30;

/// What `rbd` says if they do not.
const NOT_CONNECTED: &str = "couldn't connect to the cluster";

type Answer<T> = std::result::Result<T, String>;

/// An image, and how to reach it.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub address: RbdAddress,
    /// Whether its object map is believed.
    pub fast_diff: bool,
}

impl Image {
    pub(super) fn info(&self) -> Answer<Info> {
        Info::parse(&self.rbd(&["info", "--format=json"], &self.address.spec())?)
    }

    pub(super) fn snapshots(&self) -> Answer<Vec<Snapshot>> {
        answers::snapshots(&self.rbd(&["snap", "ls", "--format=json"], &self.address.spec())?)
    }

    pub(super) fn make(&self, snapshot: &str) -> Answer<()> {
        self.rbd(&["snap", "create", "--no-progress"], &self.of(snapshot)).map(drop)
    }

    pub(super) fn remove(&self, snapshot: &str) -> Answer<()> {
        self.rbd(&["snap", "rm", "--no-progress"], &self.of(snapshot)).map(drop)
    }

    /// What a snapshot has that an earlier one has not; without that, where it has data at all. Each object is looked
    /// at: the object map, which would spare that, can be wrong. Where it is believed, objects are listed whole.
    pub(super) fn difference(
        &self,
        since: Option<&str>,
        snapshot: &str,
        size_bytes: u64,
    ) -> Answer<Difference> {
        let mut words = self.words();
        words.extend(["diff", "--format=json"].map(Into::into));
        if self.fast_diff {
            words.push("--whole-object".into());
        }
        if let Some(since) = since {
            words.push(format!("--from-snap={since}").into());
        }
        words.push(self.of(snapshot).into());
        let read = move |printed: PipeReader| {
            answers::difference(printed, size_bytes).map_err(|error| Misread {
                is_cut: error.is_eof(),
                why: format!("'rbd diff' printed something else than expected: {error}"),
            })
        };
        RBD.run_reading(&words, DIFF_WITHIN, read).map_err(advised)
    }

    /// What distinguishes the cluster and the pool from others.
    pub(super) fn place(&self) -> Answer<String> {
        let ask = |question: &[&str]| {
            let mut words = self.words();
            words.push(format!("--connect-timeout={CONNECT_SECONDS}").into());
            words.push("--format=json".into());
            words.extend(question.iter().map(Into::into));
            CEPH.run(&words, WITHIN).map_err(advised)
        };
        let fsid = answers::cluster(&ask(&["fsid"])?)?;
        let pool = answers::pool(&ask(&["osd", "lspools"])?, self.address.pool())?;
        Ok(format!("cluster {fsid}, pool {pool}"))
    }

    /// What QEMU opens to read a snapshot.
    pub(super) fn options(&self, snapshot: &str) -> Vec<OsString> {
        let address = &self.address;
        let conf = address.conf().map(|path| path.display().to_string());
        let parts = [
            ("pool", Some(address.pool())),
            ("namespace", address.namespace()),
            ("image", Some(address.image())),
            ("snapshot", Some(snapshot)),
            ("user", address.client()),
            ("conf", conf.as_deref()),
        ];
        let mut options = "driver=rbd".to_owned();
        for (name, value) in parts {
            if let Some(value) = value {
                // A comma is written twice.
                options.push_str(&format!(",{name}={}", value.replace(',', ",,")));
            }
        }
        vec!["--image-opts".into(), options.into()]
    }

    pub(super) fn error(&self, why: &str) -> Error {
        let message = escape::line(why).into_owned();
        Error::Source { path: self.address.to_string().into(), message }
    }

    fn of(&self, snapshot: &str) -> String {
        format!("{}@{snapshot}", self.address.spec())
    }

    fn rbd(&self, command: &[&str], of: &str) -> Answer<Vec<u8>> {
        let mut words = self.words();
        words.extend(command.iter().map(Into::into));
        words.push(of.into());
        RBD.run(&words, WITHIN).map_err(advised)
    }

    /// With what each command begins. The log of the client would hide what the command itself says.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            ["--log-to-stderr=false", "--err-to-stderr=false"].map(Into::into).into();
        words.push(format!("--client-mount-timeout={CONNECT_SECONDS}").into());
        if let Some(client) = self.address.client() {
            words.push(format!("--id={client}").into());
        }
        if let Some(conf) = self.address.conf() {
            words.push("--conf".into());
            words.push(conf.into());
        }
        words
    }
}

/// With what to do about it.
fn advised(why: String) -> String {
    match why.contains(NOT_CONNECTED) {
        true => format!(
            "{why}; check that the monitors answer within {CONNECT_SECONDS} s, that 'conf' names the cluster's \
             configuration, and that the key of the client 'id' is where that says"
        ),
        false => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(address: &str) -> Image {
        Image { address: RbdAddress::parse(address).unwrap(), fast_diff: false }
    }

    /// QEMU gets the parts of the address, and Ceph's programs the same.
    #[test]
    fn programs_get_the_address() {
        let plain = image("rbd:vms/a,b").options("s");
        assert_eq!(plain, ["--image-opts", "driver=rbd,pool=vms,image=a,,b,snapshot=s"]);
        let full = image("rbd:vms/n/disk:id=backy:conf=/etc/c,1");
        let options = full.options("s");
        let expected =
            "driver=rbd,pool=vms,namespace=n,image=disk,snapshot=s,user=backy,conf=/etc/c,,1";
        assert_eq!(options.last().unwrap(), expected);
        let words = full.words();
        assert!(words.ends_with(&["--id=backy".into(), "--conf".into(), "/etc/c,1".into()]));
        assert_eq!(full.of("s"), "vms/n/disk@s");
    }

    /// If the cluster does not answer, the message says what to check.
    #[test]
    fn a_silent_cluster_gets_advice() {
        let said = advised("'rbd' ended: rbd: couldn't connect to the cluster!".to_owned());
        assert!(said.contains("monitors answer within 30 s"), "{said}");
        assert_eq!(advised("other".to_owned()), "other");
    }
}
