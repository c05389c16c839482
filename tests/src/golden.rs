//! The states that the golden archives of format 1 were made of. They never change: the archives are never made
//! again.

use crate::world::{BLOCK_SIZE, fill_block, random_state};
use backy_lib::storage::sim::Random;

/// Source states, oldest first: of odd sizes, growing and shrinking, with zero, compressible and incompressible blocks.
pub fn states() -> Vec<Vec<u8>> {
    let block = BLOCK_SIZE.len();
    let mut random = Random(2026);
    let first = random_state(&mut random, 7 * block);
    let mut second = first.clone();
    second.resize(10 * block + 1234, 0);
    for number in [1, 4, 8] {
        fill_block(&mut random, &mut second[number * block..(number + 1) * block]);
    }
    second[2 * block..3 * block].fill(0);
    let mut third = second[..5 * block + 77].to_vec();
    third[..block].fill(b'x');
    third[2 * block..3 * block].fill(b'z');
    let mut fourth = third.clone();
    fourth.resize(6 * block, 0);
    fourth[5 * block + 100..].fill(b'y');
    vec![first, second, third, fourth]
}

/// Source states that each differ from the one before in one block of twelve, but for the eighth and the last, which
/// are all new. Never changed either.
pub fn unusual_states() -> Vec<Vec<u8>> {
    let block = BLOCK_SIZE.len();
    let mut random = Random(1126);
    let mut noise = |len: usize| -> Vec<u8> { (0..len).map(|_| random.number() as u8).collect() };
    let mut state = noise(12 * block);
    let mut states = vec![state.clone()];
    for number in 1..9 {
        match number {
            7 | 8 => state = noise(12 * block),
            _ => state[number * block..(number + 1) * block].copy_from_slice(&noise(block)),
        }
        states.push(state.clone());
    }
    states
}

/// What was overwritten with the last of [`states`] when the undo archive was made: the same but for two of its blocks.
/// Never changed either.
pub fn overwritten_state() -> Vec<u8> {
    let block = BLOCK_SIZE.len();
    let mut state = states().pop().unwrap_or_default();
    state[block..block + 9].fill(b'q');
    state[4 * block..5 * block].fill(b'r');
    state
}

/// Source states of a disk with an MBR, of which each differs from the one before in one block of twelve. Never
/// changed either.
pub fn partitioned_states() -> Vec<Vec<u8>> {
    let mut states: Vec<Vec<u8>> = unusual_states().into_iter().take(5).collect();
    for state in &mut states {
        state[..512].fill(0);
        state[440..444].copy_from_slice(&[0x26, 0x11, 0x28, 0x02]);
        state[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 80, 0, 0, 0]);
        state[510..512].copy_from_slice(&[0x55, 0xaa]);
    }
    states
}
