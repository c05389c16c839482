//! SHA-256 of many blocks at once.
//!
//! The rounds of one SHA-256 depend on each other, those of several do not. So a processor with wide vectors
//! computes up to 32 in parallel, in about half the time that its SHA instructions need one after the other
//! (`doc/decisions/14-many-digests.md`).
//!
//! The parallel code is young and uses rarely used parts of the processor. So `sha2` has the last word
//! (`doc/decisions/20-digests-checked.md`): it recomputes every digest that differs from the expected one,
//! and one in [`SAMPLE`] of the others. A block counts as damaged or changed only if both agree. If they
//! disagree, that is an error and no verdict on stored data.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::DIGEST_BYTES;
use crate::base::canary::{Bug, planted};
use crate::base::error::{Error, Result};
use crate::base::fork::PerProcess;
use crate::base::units::BlockSize;

type Bytes = [u8; DIGEST_BYTES];

/// `sha2` recomputes one in this many digests that are as expected or have no expected value. It is prime, so
/// that every lane gets checked, whatever the number of lanes.
const SAMPLE: u64 = 97;

/// How many digests this process has computed in parallel.
static COMPUTED: AtomicU64 = AtomicU64::new(0);

/// The digest of each message. Those that differ from the `expected` one at their index are computed twice.
///
/// # Errors
/// When two computations of one digest differ.
pub(super) fn digests(messages: &[&[u8]], expected: &[Option<Bytes>]) -> Result<Vec<Bytes>> {
    if messages.len() < 2 || !is_right(messages) {
        return Ok(one_by_one(messages));
    }
    let digests = side_by_side(messages);
    let first = COMPUTED.fetch_add(messages.len() as u64, Ordering::Relaxed);
    for ((at, message), digest) in messages.iter().enumerate().zip(&digests) {
        let number = first + at as u64;
        let is_other =
            expected.get(at).is_some_and(|known| known.is_some_and(|known| known != *digest));
        let is_asked = is_other && !planted(Bug::UnaskedDigest);
        if is_asked || number.is_multiple_of(SAMPLE) {
            confirm(message, digest)?;
        }
    }
    Ok(digests)
}

/// Has `sha2` compute a digest again.
fn confirm(message: &[u8], digest: &Bytes) -> Result<()> {
    if Bytes::from(Sha256::digest(message)) == *digest {
        return Ok(());
    }
    let by = tape_sha256::backend();
    let bytes = message.len();
    let message = format!(
        "two computations of the SHA-256 of the same {bytes} bytes differ (tape-sha256 with {by}, and sha2): \
         the processor or the memory of this machine makes mistakes, or one of these libraries does on this processor; \
         nothing was concluded about stored data"
    );
    Err(Error::Miscomputed { message })
}

/// Whether the parallel code has proved itself in this process, on blocks as long as the longest message.
fn is_right(messages: &[&[u8]]) -> bool {
    const SIZES: usize = (BlockSize::MAX.bytes() / BlockSize::MIN.bytes()).ilog2() as usize + 1;
    static PROVED: PerProcess<[OnceLock<bool>; SIZES]> = PerProcess::new();
    let proved = PROVED.get(|| [const { OnceLock::new() }; SIZES]);
    let longest = messages.iter().map(|message| message.len()).max().unwrap_or_default();
    // The smallest block size that is at least as long.
    let size = |number: usize| BlockSize::MIN.len() << number;
    let number = (0..SIZES).find(|&number| size(number) >= longest);
    let proved = number.and_then(|number| Some((proved.get(number)?, size(number))));
    proved.is_some_and(|(proved, bytes)| *proved.get_or_init(|| agrees(side_by_side, bytes)))
}

/// Whether `compute` agrees with `sha2`: for every number of messages up to more than two rounds of lanes,
/// for all lengths around the padding steps, and for full, half-full and overfull lanes of blocks of
/// `block_bytes`, with a shorter last one.
fn agrees(compute: impl Fn(&[&[u8]]) -> Vec<Bytes>, block_bytes: usize) -> bool {
    let lanes = tape_sha256::lane_width();
    // Each message starts 64 bytes after the previous one: all of them differ, and they are aligned as blocks are.
    let content: Vec<u8> = noise(block_bytes + 64 * 3 * lanes);
    let messages = |count: usize, len: usize| -> Vec<&[u8]> {
        (0..count).filter_map(|at| content.get(64 * at..64 * at + len)).collect()
    };
    let unlike = (0..200).filter_map(|len| content.get(len..2 * len)).collect();
    let every_count = (1..=2 * lanes + 1).map(|count| messages(count, 150));
    let blocks = [lanes.div_ceil(2), lanes, lanes + 1].map(|count| messages(count, block_bytes));
    let mut short = messages(lanes, block_bytes);
    if let Some(last) = short.last_mut() {
        *last = last.get(1000..).unwrap_or_default();
    }
    let all = [unlike, short].into_iter().chain(every_count).chain(blocks);
    all.into_iter().all(|messages| compute(&messages) == one_by_one(&messages))
}

/// Bytes without a pattern, the same in every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let words: Vec<[u8; 8]> = (0..len.div_ceil(8)).map(|_| next()).collect();
    words.as_flattened().iter().copied().take(len).collect()
}

fn side_by_side(messages: &[&[u8]]) -> Vec<Bytes> {
    let mut digests = vec![[0; DIGEST_BYTES]; messages.len()];
    tape_sha256::hash_many(messages, &mut digests);
    #[cfg(any(test, feature = "testing"))]
    lies::tell(messages, &mut digests);
    digests
}

fn one_by_one(messages: &[&[u8]]) -> Vec<Bytes> {
    messages.iter().map(|message| Sha256::digest(message).into()).collect()
}

/// For tests: a machine that computes digests wrong.
#[cfg(any(test, feature = "testing"))]
pub mod lies {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{Bytes, DIGEST_BYTES};

    /// A digest to be computed wrong.
    #[derive(Debug, Clone)]
    pub struct Lie {
        /// Applies to blocks that begin with these bytes.
        pub about: Vec<u8>,
        /// The wrong digest that they get.
        pub digest: [u8; DIGEST_BYTES],
    }

    static LIE: Mutex<Option<Lie>> = Mutex::new(None);

    /// Makes the whole process compute this digest wrong while `run` runs. Other callers wait until it has finished.
    pub fn during<T>(lie: Lie, run: impl FnOnce() -> T) -> T {
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = lock(&ALONE);
        *lock(&LIE) = Some(lie);
        let result = catch_unwind(AssertUnwindSafe(run));
        *lock(&LIE) = None;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(messages: &[&[u8]], digests: &mut [Bytes]) {
        let Some(Lie { about, digest: wrong }) = &*lock(&LIE) else { return };
        let about = messages.iter().zip(digests).filter(|(message, _)| message.starts_with(about));
        about.for_each(|(_, digest)| *digest = *wrong);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::lies::Lie;
    use super::*;

    /// Blocks that begin with `word` and all differ.
    fn blocks(word: &str, seed: u8) -> Vec<Vec<u8>> {
        (0..120).map(|at| [word.as_bytes(), &[seed, at, 1, 2, 3][..]].concat()).collect()
    }

    /// A library that works on this processor proves itself with every block size.
    #[test]
    fn this_processor_computes_the_same_digests_in_parallel() {
        for block_bytes in [4096, 65536, 2 << 20] {
            assert!(agrees(side_by_side, block_bytes));
        }
    }

    /// A broken library does not prove itself, whether it fails in one lane of a full round, in a partial
    /// round, only for whole blocks, or only after the first round.
    #[test]
    fn a_library_that_computes_wrong_does_not_prove_itself() {
        let lanes = tape_sha256::lane_width();
        let broken = |is_wrong: &dyn Fn(usize, usize, &[u8]) -> bool| {
            let compute = |messages: &[&[u8]]| {
                let mut digests = one_by_one(messages);
                for (at, digest) in digests.iter_mut().enumerate() {
                    digest[31] ^= u8::from(is_wrong(messages.len(), at, messages[at]));
                }
                digests
            };
            agrees(compute, 65536)
        };
        assert!(broken(&|_, _, _| false));
        for lane in 0..lanes {
            assert!(!broken(&|_, at, _| at == lane), "lane {lane}");
        }
        for partial in 1..lanes {
            assert!(!broken(&|count, at, _| count == partial && at == 0), "{partial} messages");
        }
        assert!(!broken(&|count, at, message| message.len() == 65536 && at + 1 == count));
        assert!(!broken(&|_, at, message| message.len() == 65536 && at == lanes));
        assert!(!broken(&|_, _, message| message.len() == 55));
        assert!(!broken(&|_, _, message| message.len() == 64));
    }

    /// A digest that differs from the expected one is recomputed before it is returned.
    #[test]
    fn a_wrong_unexpected_digest_is_an_error() {
        let blocks = blocks("unexpected", 1);
        let messages: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let right = one_by_one(&messages);
        let lie = Lie { about: blocks[70].clone(), digest: right[3] };
        let expected: Vec<_> = right.iter().copied().map(Some).collect();
        let mut others = expected.clone();
        others[70] = Some(right[4]);
        for expected in [&expected, &others] {
            let result = lies::during(lie.clone(), || digests(&messages, expected));
            let error = result.expect_err("sha2 computes a different one").to_string();
            assert!(error.contains(tape_sha256::backend()) && !error.contains('\n'), "{error}");
        }
        assert_eq!(digests(&messages, &expected).ok(), Some(right));
    }

    /// One in a hundred of the digests that are as expected, or have no expected value, is recomputed: a
    /// lasting fault is noticed.
    #[test]
    fn sampling_notices_a_wrong_digest_that_nothing_contradicts() {
        let blocks = blocks("sampled", 2);
        let messages: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        let old = [7; DIGEST_BYTES];
        let lie = Lie { about: b"sampled".to_vec(), digest: old };
        // More blocks than lie between two samples.
        for expected in [vec![Some(old); messages.len()], vec![None; messages.len()], Vec::new()] {
            assert!(lies::during(lie.clone(), || digests(&messages, &expected)).is_err());
        }
    }

    proptest! {
        #[test]
        fn parallel_digests_equal_single_ones(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..70),
        ) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(side_by_side(&messages), one_by_one(&messages));
        }

        #[test]
        fn digests_of_blocks_of_equal_length_equal_single_ones(
            seed in any::<u8>(), count in 0usize..40, len in prop::sample::select(vec![4096usize, 65536, 65535]),
        ) {
            let bytes: Vec<u8> = (0..count * len).map(|at| (at % 251) as u8 ^ (at / len) as u8 ^ seed).collect();
            let blocks: Vec<&[u8]> = bytes.chunks(len).collect();
            prop_assert_eq!(digests(&blocks, &[]).unwrap(), one_by_one(&blocks));
        }
    }
}
