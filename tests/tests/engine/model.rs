//! Random histories of an archive, against a plain `Vec<u8>` per revision.

use backy_tests::model::{History, Interruption, Model, Operation, Verb};
use backy_tests::qemu;
use proptest::prelude::*;

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        8 => (any::<bool>(), prop::bool::weighted(0.1), 1..4usize).prop_map(
            |(in_place, if_due, threads)| Verb::Backup { in_place, if_due, threads }
        ),
        3 => any::<u8>().prop_map(|which| Verb::Remove { which }),
        3 => any::<u8>().prop_map(|keep| Verb::Maintain { keep }),
        2 => (any::<u8>(), 0..4u8, any::<bool>())
            .prop_map(|(number, tag, remove)| Verb::Tag { number, tag, remove }),
        1 => (any::<u8>(), 1..3usize).prop_map(|(which, threads)| Verb::Scrub { which, threads }),
        1 => any::<u8>().prop_map(|number| Verb::Drill { number }),
        1 => Just(Verb::Import),
        1 => any::<bool>().prop_map(|lost| Verb::Rebuild { lost }),
        1 => Just(Verb::Recover),
    ]
}

fn interruption() -> impl Strategy<Value = Interruption> {
    prop_oneof![
        4 => Just(Interruption::PowerCut),
        1 => Just(Interruption::Error),
        1 => Just(Interruption::Errors),
        1 => Just(Interruption::Full),
        1 => Just(Interruption::StaysFull),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (any::<u16>(), 1..9000u16, any::<u16>())
            .prop_map(|(offset, len, seed)| Operation::Write { offset, len, seed }),
        2 => (any::<u16>(), any::<u16>()).prop_map(|(offset, len)| Operation::Discard { offset, len }),
        2 => any::<u16>().prop_map(|bytes| Operation::Resize { bytes }),
        10 => verb().prop_map(Operation::Do),
        6 => (verb(), any::<u16>(), interruption(), any::<u16>()).prop_map(
            |(verb, call, interruption, seed)| Operation::Fail { verb, call, interruption, seed }
        ),
        1 => any::<bool>().prop_map(|kept| Operation::PowerCut { kept }),
        2 => (any::<u8>(), any::<bool>(), 1..3usize).prop_map(
            |(number, onto_other, threads)| Operation::Restore { number, onto_other, threads }
        ),
        1 => any::<u8>().prop_map(|number| Operation::Hold { number }),
        2 => (any::<u8>(), any::<u16>(), 0..8u8)
            .prop_map(|(file, offset, bit)| Operation::Damage { file, offset, bit }),
        1 => any::<u8>().prop_map(|block| Operation::Rot { block }),
        1 => (0..4u8, 0..4u8)
            .prop_map(|(schedule, max_chain)| Operation::Configure { schedule, max_chain }),
        1 => any::<i8>().prop_map(|days| Operation::Wait { days }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, all committed revisions read right, and in the end the archive is tidy and QEMU agrees.
    #[test]
    fn any_history(
        clones in any::<bool>(),
        bytes in any::<u16>(),
        operations in prop::collection::vec(operation(), 1..History::MAX_OPERATIONS),
    ) {
        let model = Model::run(&History { clones, bytes, operations });
        if bytes % 8 == 0 && qemu::available() {
            let folder = tempfile::tempdir().expect("a temporary folder");
            qemu::write_out(&model.world().disk, folder.path());
            qemu::check(folder.path(), &model.world().expected, 0, true).expect("QEMU agrees");
        }
    }
}
