//! Random chains of images made by `qemu-img create` and written to by `qemu-io`.

use std::fs;
use std::path::Path;

use backy_lib::storage::sim::Random;
use backy_lib::units::BlockSize;

use super::tools::{Case, converted, file, qemu_img, qemu_io, read_delta, revision};

/// A chain of images, the oldest base first.
struct Chain<'a> {
    folder: &'a Path,
    random: Random,
    cluster_bytes: u64,
}

impl Chain<'_> {
    /// A size of some clusters, usually not whole ones.
    fn size_bytes(&mut self) -> u64 {
        let most = (4 << 20) / self.cluster_bytes;
        let clusters = 1 + self.random.below(most.clamp(3, 40));
        match self.random.below(4) {
            0 => clusters * self.cluster_bytes,
            _ => clusters * self.cluster_bytes - 512 * self.random.below(self.cluster_bytes / 512),
        }
    }

    /// Makes a chain and returns the number of its top.
    fn make(&mut self) -> u64 {
        let depth = 1 + self.random.below(4);
        let mut backing = match self.random.below(4) {
            0 => None,
            _ => {
                self.make_image();
                Some(("last.raw".to_owned(), "raw"))
            }
        };
        for number in 0..depth {
            self.make_delta(
                number,
                backing.as_ref().map(|(file, format)| (file.as_str(), *format)),
            );
            backing = Some((file(number), "qcow2"));
        }
        depth - 1
    }

    /// A raw image whose length need not be whole sectors.
    fn make_image(&mut self) {
        let size_bytes = self.size_bytes();
        let odd = if self.random.flip() { self.random.below(512) } else { 0 };
        let mut bytes = vec![0; size_bytes as usize];
        for part in bytes.chunks_mut(self.cluster_bytes as usize) {
            match self.random.below(3) {
                0 => {}
                1 => part.fill(self.random.number() as u8),
                _ => part.iter_mut().for_each(|byte| *byte = self.random.number() as u8),
            }
        }
        bytes.truncate((size_bytes - odd) as usize);
        fs::write(self.folder.join("last.raw"), bytes).expect("write the raw image");
    }

    fn make_delta(&mut self, number: u64, backing: Option<(&str, &str)>) {
        let size_bytes = self.size_bytes();
        let compression = if self.random.flip() { "zlib" } else { "zstd" };
        let mut options =
            format!("cluster_size={},compression_type={compression}", self.cluster_bytes);
        if self.random.below(4) == 0 {
            options += ",lazy_refcounts=on";
        }
        let (name, size) = (file(number), size_bytes.to_string());
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        match backing {
            Some((file, format)) => args.extend(["-b", file, "-F", format]),
            // Then every cluster is allocated, and the unwritten ones have data that must not be read.
            None if self.random.below(3) == 0 => options += ",preallocation=metadata",
            None => {}
        }
        args.extend(["-o", &options, &name, &size]);
        qemu_img(self.folder, &args);
        let commands: Vec<String> =
            (0..self.random.below(20)).filter_map(|_| self.command(size_bytes)).collect();
        qemu_io(self.folder, &name, "qcow2", &commands);
    }

    /// Something that changes an image. `None` where it does not fit.
    fn command(&mut self, size_bytes: u64) -> Option<String> {
        let cluster = self.cluster_bytes;
        let pattern = self.random.below(256);
        if self.random.below(3) == 0 {
            // Compressed writes cover whole clusters. The last one covers what there is of it.
            let offset = self.random.below(size_bytes.div_ceil(cluster)) * cluster;
            let bytes = cluster.min(size_bytes - offset);
            return Some(match self.random.below(3) {
                0 => format!("write -q -c -P {pattern} {offset} {bytes}"),
                _ => format!("write -q -c -s {} {offset} {bytes}", self.content(bytes)),
            });
        }
        let offset = self.random.below(size_bytes / 512) * 512;
        let most = (size_bytes - offset).min(3 * cluster) / 512;
        let bytes = 512 * (1 + self.random.below(most));
        Some(match self.random.below(8) {
            0 => format!("write -q -z {offset} {bytes}"),
            1 => format!("write -q -z -u {offset} {bytes}"),
            2 => format!("discard -q {offset} {bytes}"),
            3 | 4 => format!("write -q -P {pattern} {offset} {bytes}"),
            _ => format!("write -q -s {} {offset} {bytes}", self.content(bytes)),
        })
    }

    /// A file with content that compresses well, a little, or not at all.
    fn content(&mut self, bytes: u64) -> String {
        let mut content = vec![0; bytes as usize];
        let repeat = 1 + self.random.below(3) * self.random.below(5000);
        let mut random = self.random;
        for run in content.chunks_mut(repeat as usize) {
            run.fill(random.number() as u8);
        }
        let name = format!("content-{}", self.random.number());
        fs::write(self.folder.join(&name), content).expect("write content");
        name
    }
}

fn compare(seed: u64, cluster_bytes: u64) {
    let _case = Case(format!("seed {seed} with clusters of {cluster_bytes}"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let random = Random(seed ^ cluster_bytes);
    let top = Chain { folder: folder.path(), random, cluster_bytes }.make();
    let cluster_size = BlockSize::new(cluster_bytes).expect("a block size");
    // Check every image of the chain: the lower ones have seen other writes.
    for number in 0..=top {
        let expected = converted(folder.path(), &file(number), "qcow2");
        let found = read_delta(folder.path(), revision(number), cluster_size);
        let found = found.unwrap_or_else(|error| panic!("image {number}: {error}"));
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "image {number}: the first byte that differs");
        assert_eq!(found.len(), expected.len(), "image {number}: length");
    }
}

/// Chains of QEMU's images with clusters of any size that we use, of zlib and zstd, with zero and discarded clusters,
/// over shorter and longer backing files, read as `qemu-img convert` reads them.
#[test]
fn chains_of_qemu_read_as_qemu_reads_them() {
    if !backy_tests::qemu::available() {
        return;
    }
    for bits in 12..=21 {
        // Small clusters are quick, and every case occurs in them.
        let seeds = if bits <= 16 { 10 } else { 3 };
        for seed in 0..seeds {
            compare(seed, 1 << bits);
        }
    }
}
