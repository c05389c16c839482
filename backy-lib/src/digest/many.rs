//! SHA-256 of many blocks at once.
//!
//! The rounds of one SHA-256 wait for each other; those of several do not, so a processor with wide vectors computes up to sixteen side
//! by side in little more than half the time that its SHA instructions take for one after the other (`doc/decisions/14-many-digests.md`).

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use super::DIGEST_BYTES;

/// Whether what computes many digests has computed the same as what computes one, in this process on this processor.
static AGREES: LazyLock<bool> = LazyLock::new(|| {
    // More than there are lanes, and lengths around those where the padding takes one more step.
    let bytes: Vec<u8> = (0..200u8).collect();
    let equal = vec![&bytes[..]; 40];
    let unlike: Vec<&[u8]> = (0..bytes.len()).filter_map(|len| bytes.get(..len)).collect();
    [equal, unlike].iter().all(|messages| side_by_side(messages) == one_by_one(messages))
});

/// The digest of each of the messages.
pub(super) fn digests(messages: &[&[u8]]) -> Vec<[u8; DIGEST_BYTES]> {
    if messages.len() > 1 && *AGREES { side_by_side(messages) } else { one_by_one(messages) }
}

fn side_by_side(messages: &[&[u8]]) -> Vec<[u8; DIGEST_BYTES]> {
    let mut digests = vec![[0; DIGEST_BYTES]; messages.len()];
    tape_sha256::hash_many(messages, &mut digests);
    digests
}

fn one_by_one(messages: &[&[u8]]) -> Vec<[u8; DIGEST_BYTES]> {
    messages.iter().map(|message| Sha256::digest(message).into()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_processor_computes_many_as_it_computes_one() {
        assert!(*AGREES);
    }

    proptest! {
        #[test]
        fn many_are_computed_as_one(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..70),
        ) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(side_by_side(&messages), one_by_one(&messages));
        }

        #[test]
        fn blocks_of_one_length_are_computed_as_one(
            seed in any::<u8>(), count in 0usize..40, len in prop::sample::select(vec![4096usize, 65536, 65535]),
        ) {
            let bytes: Vec<u8> = (0..count * len).map(|at| (at % 251) as u8 ^ (at / len) as u8 ^ seed).collect();
            let blocks: Vec<&[u8]> = bytes.chunks(len).collect();
            prop_assert_eq!(digests(&blocks), one_by_one(&blocks));
        }
    }
}
