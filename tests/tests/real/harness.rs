//! Other systems that tests start and end.

pub(crate) mod ceph;
pub(crate) mod libvirt;
