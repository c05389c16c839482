//! What the real `thin_delta` says of metadata that the real `thin_restore` has made.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use backy_lib::extent::Extent;
use backy_lib::source::thin::{Difference, Question, difference};
use backy_lib::storage::sim::Random;

use super::are_tools_here;
use crate::site::{text, works};

/// What a device maps: which block of the pool is where.
type Mappings = BTreeMap<u64, u64>;

/// Two devices that have some blocks in common, some at the same place and some elsewhere, in a pool with any unit and
/// of any size: the answer is that of a plain comparison of the mappings.
#[test]
fn a_difference_is_that_of_the_mappings() {
    if !are_tools_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (xml, metadata) = (folder.path().join("pool.xml"), folder.path().join("metadata"));
    for seed in 0..60 {
        let mut random = Random(seed);
        let sectors = 128 * (1 + random.below(9));
        let devices = [mappings(&mut random, &Mappings::new())];
        let devices = [mappings(&mut random, &devices[0]), devices[0].clone()];
        let numbers = [1 + random.below(9) as u32, 10 + random.below(1 << 20) as u32];
        fs::write(&xml, described(sectors, &numbers, &devices)).expect("write the XML");
        fs::File::create(&metadata)
            .and_then(|file| file.set_len(1 << 20))
            .expect("make the metadata");
        works(Command::new("thin_restore").args(["-i", text(&xml), "-o", text(&metadata)]));
        for (left, right) in [(0, 1), (1, 0), (1, 1)] {
            let block_bytes = sectors * 512;
            // Some blocks may lie behind the end, which is anywhere within a block.
            let size_bytes = 512 * (1 + random.below(70 * sectors));
            let asked =
                Question { left: numbers[left], right: numbers[right], block_bytes, size_bytes };
            let [first, second] = [asked.left, asked.right].map(|number| number.to_string());
            let snaps = ["--snap1", &first, "--snap2", &second, text(&metadata)];
            let printed = works(Command::new("thin_delta").args(snaps));
            let found = difference(&*printed, asked)
                .unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
            assert_eq!(found, model(&devices[left], &devices[right], asked), "seed {seed}");
        }
    }
}

/// Some runs of blocks, of which many are those of another device.
fn mappings(random: &mut Random, other: &Mappings) -> Mappings {
    let mut mappings = Mappings::new();
    let (mut block, mut next) = (random.below(3), 10_000 - 5_000 * u64::from(other.is_empty()));
    while block < 64 {
        let kind = random.below(4);
        for block in block..block + 1 + random.below(7) {
            let stored = match (kind, other.get(&block)) {
                (0, _) => continue,
                (1 | 2, Some(stored)) => *stored,
                _ => {
                    next += 1 + random.below(2);
                    next
                }
            };
            mappings.insert(block, stored);
        }
        block += 1 + random.below(8);
    }
    mappings
}

fn described(sectors: u64, numbers: &[u32; 2], devices: &[Mappings; 2]) -> String {
    let mut xml = format!(
        "<superblock uuid=\"\" time=\"2\" transaction=\"7\" flags=\"0\" version=\"2\" data_block_size=\"{sectors}\" \
         nr_data_blocks=\"20000\">\n"
    );
    for (number, mappings) in numbers.iter().zip(devices) {
        let count = mappings.len();
        let _ = writeln!(
            xml,
            "<device dev_id=\"{number}\" mapped_blocks=\"{count}\" transaction=\"1\" creation_time=\"0\" \
             snap_time=\"1\">"
        );
        for (block, stored) in mappings {
            let _ = writeln!(
                xml,
                "<single_mapping origin_block=\"{block}\" data_block=\"{stored}\" time=\"1\"/>"
            );
        }
        xml.push_str("</device>\n");
    }
    xml + "</superblock>\n"
}

fn model(left: &Mappings, right: &Mappings, asked: Question) -> Difference {
    let extents = |wanted: &dyn Fn(u64) -> bool| {
        let mut extents: Vec<Extent> = Vec::new();
        for block in (0..100).filter(|&block| wanted(block)) {
            let end = ((block + 1) * asked.block_bytes).min(asked.size_bytes);
            let extent = Extent::between(block * asked.block_bytes, end);
            match extents.last_mut() {
                _ if extent.len == 0 => {}
                Some(last) if last.end() == extent.offset => last.len += extent.len,
                _ => extents.push(extent),
            }
        }
        extents
    };
    let changed = extents(&|block| left.get(&block) != right.get(&block));
    Difference { changed, data: extents(&|block| right.contains_key(&block)) }
}
