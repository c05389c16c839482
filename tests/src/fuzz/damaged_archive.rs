//! A valid archive with bytes changed: right bytes or an error, never wrong bytes, never a panic.
//!
//! The input decides which archive, which changes to which files, and which commands run afterwards. After each
//! command every revision is read in every way. What a command reports has to be true: what a scrub calls clean reads
//! right, so does what a drill passes and what an export writes, and a new revision is that of the source.
//!
//! An input may also ask for corrected checksums, of the manifest and of the headers of digest files, so that the
//! fuzzer gets behind what they guard. Then wrong bytes are no fault of ours: whoever can forge those can forge
//! everything. The promise is that there is no panic, no excessive memory, and that everything ends soon.

use arbitrary::{Arbitrary, Unstructured};

use crate::damage::{Damaged, Edit, Verb, base};

/// More of them find nothing new.
const MAX_EDITS: usize = 6;
const MAX_VERBS: usize = 5;

#[derive(Debug)]
struct Input {
    base: u8,
    forged: bool,
    edits: Vec<(u8, Edit)>,
    verbs: Vec<Verb>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let (base, forged) = (input.arbitrary()?, input.arbitrary()?);
        let edits = (0..input.int_in_range(1..=MAX_EDITS)?).map(|_| input.arbitrary());
        let edits = edits.collect::<arbitrary::Result<_>>()?;
        let mut verbs = Vec::new();
        while !input.is_empty() && verbs.len() < MAX_VERBS {
            verbs.push(input.arbitrary()?);
        }
        Ok(Input { base, forged, edits, verbs })
    }
}

/// Damages an archive as the bytes say, and works with it.
///
/// # Panics
/// When it returns wrong bytes, or reports something untrue.
pub fn run(data: &[u8]) {
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    let base = base(input.base.into());
    let mut damaged = Damaged::of(base);
    for (file, edit) in input.edits {
        edit.apply(&damaged.world.disk, file);
    }
    if input.forged {
        damaged.forge();
    }
    damaged.check("as it is");
    for verb in input.verbs {
        // An error is as good as a success.
        let _ = damaged.apply(verb, &base.next);
        damaged.check(&format!("after {verb:?}"));
    }
}
