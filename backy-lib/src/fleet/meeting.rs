//! Backups that meet, seen from the run that started them: whose disk is ready, who begins the backup point for all,
//! and whose turn it is to read.
//!
//! A pure state machine: what the processes say goes in, and the replies come out. [`crate::source::meeting`]
//! has the other side. Only one of them reads at a time, so that together they take one place among the jobs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::source::meeting::{Participant, Reply, Word};

/// How long those who are ready wait for the others.
const TO_MEET: Duration = Duration::from_secs(10 * 60);

/// Backups that meet. Each is known by its position.
#[derive(Debug)]
pub(super) struct Meeting {
    members: Vec<Member>,
    stage: Stage,
    /// When the first one was ready.
    since: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
enum Member {
    /// It is not ready yet.
    Coming,
    /// It is ready for a point; without a participant, only to read.
    Ready(Option<Participant>),
    /// It waits for its turn; `shares`: in the point of all.
    Waiting { shares: bool },
    /// It reads.
    Reading { shares: bool },
    /// It has read, or its process has ended.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Some may still come.
    Gathering,
    /// This one begins the point.
    Beginning(usize),
    /// Who comes now is alone.
    Over,
}

/// Replies, and which process gets each.
pub(super) type Told = Vec<(usize, Reply)>;

impl Meeting {
    pub(super) fn new(members: usize) -> Self {
        Meeting { members: vec![Member::Coming; members], stage: Stage::Gathering, since: None }
    }

    /// A process says something. What makes no sense now is ignored.
    pub(super) fn hear(&mut self, member: usize, word: Word, now: Duration) -> Told {
        let mut told = Told::new();
        let Some(state) = self.members.get_mut(member) else { return told };
        match (word, &state) {
            (Word::Arrived(participant), Member::Coming) => {
                self.since.get_or_insert(now);
                let is_late = self.stage != Stage::Gathering;
                told.extend((is_late && participant.is_some()).then_some((member, Reply::Apart)));
                *state = match is_late {
                    true => Member::Waiting { shares: false },
                    false => Member::Ready(participant),
                };
            }
            (Word::Begun(begun), _) if self.stage == Stage::Beginning(member) => {
                self.stage = Stage::Over;
                *state = Member::Reading { shares: true };
                for (at, other) in self.members.iter_mut().enumerate() {
                    if let Member::Ready(participant) = other {
                        let shares = participant.is_some();
                        *other = Member::Waiting { shares };
                        told.extend(shares.then(|| (at, Reply::Begun(begun.clone()))));
                    }
                }
            }
            (Word::Failed(_), _) if self.stage == Stage::Beginning(member) => {
                *state = Member::Ready(None);
                self.disperse(&mut told);
            }
            (Word::Left, Member::Waiting { shares: true } | Member::Reading { shares: true }) => {
                *state = Member::Done;
            }
            _ => {}
        }
        self.go_on(now, &mut told);
        told
    }

    /// A process has ended, or was not started.
    pub(super) fn gone(&mut self, member: usize, now: Duration) -> Told {
        if let Some(state) = self.members.get_mut(member) {
            *state = Member::Done;
        }
        let mut told = Told::new();
        if self.stage == Stage::Beginning(member) {
            self.disperse(&mut told);
        }
        self.go_on(now, &mut told);
        told
    }

    /// Time passes.
    pub(super) fn tick(&mut self, now: Duration) -> Told {
        let mut told = Told::new();
        self.go_on(now, &mut told);
        told
    }

    /// Whether it waits for others.
    pub(super) fn is_waiting(&self, member: usize) -> bool {
        let waits = |state: &Member| matches!(state, Member::Ready(_) | Member::Waiting { .. });
        self.members.get(member).is_some_and(waits)
    }

    /// There is no point for all: each has its own.
    fn disperse(&mut self, told: &mut Told) {
        self.stage = Stage::Over;
        for (at, state) in self.members.iter_mut().enumerate() {
            if let Member::Ready(participant) = state {
                told.extend(participant.is_some().then_some((at, Reply::Apart)));
                *state = Member::Waiting { shares: false };
            }
        }
    }

    fn go_on(&mut self, now: Duration, told: &mut Told) {
        let is_late = self.since.is_some_and(|since| now.saturating_sub(since) >= TO_MEET);
        let all_came = is_late || !self.members.contains(&Member::Coming);
        if self.stage == Stage::Gathering && all_came {
            self.gather(told);
        }
        let is_reading = |state: &Member| matches!(state, Member::Reading { .. });
        if self.stage != Stage::Over || self.members.iter().any(is_reading) {
            return;
        }
        // Whoever is alone would wait for the end of the point.
        let mut order = [true, false].into_iter();
        let next = order.find_map(|shares| {
            let waits = |state: &Member| *state == Member::Waiting { shares };
            self.members.iter().position(waits).map(|at| (at, shares))
        });
        if let Some((at, shares)) = next
            && let Some(state) = self.members.get_mut(at)
        {
            *state = Member::Reading { shares };
            told.push((at, Reply::Turn));
        }
    }

    fn gather(&mut self, told: &mut Told) {
        let mut targets = BTreeSet::new();
        for (at, state) in self.members.iter_mut().enumerate() {
            // A disk that two archives back up has one bitmap in a point.
            if let Member::Ready(Some(participant)) = state
                && !targets.insert(participant.target.clone())
            {
                told.push((at, Reply::Apart));
                *state = Member::Waiting { shares: false };
            }
        }
        let ready = self.members.iter().enumerate().filter_map(|(at, state)| match state {
            Member::Ready(Some(participant)) => Some((at, participant.clone())),
            _ => None,
        });
        let ready: Vec<(usize, Participant)> = ready.collect();
        match ready.first() {
            Some(&(first, _)) if ready.len() > 1 => {
                self.stage = Stage::Beginning(first);
                let all = ready.into_iter().map(|(_, participant)| participant);
                told.push((first, Reply::Begin(all.collect())));
            }
            _ => self.disperse(told),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::source::meeting::Begun;

    fn disk(at: usize) -> Participant {
        let uuid = format!("00000000-0000-7000-8000-{at:012}");
        let name = format!("backy.{uuid}.{uuid}").parse().unwrap();
        let (target, scratch) = (format!("vd{at}"), "/var/tmp".into());
        Participant { target, name, is_marked: true, since: None, scratch, freezes: false }
    }

    fn begun(by: usize) -> Begun {
        Begun { by: disk(by), doubt: None, unmarked: BTreeMap::new() }
    }

    /// When all are ready, the first begins a point for all; then they read one after the other.
    #[test]
    fn disks_have_one_point_and_take_turns() {
        let mut meeting = Meeting::new(3);
        let now = Duration::ZERO;
        assert_eq!(meeting.hear(1, Word::Arrived(Some(disk(1))), now), []);
        assert_eq!(meeting.hear(2, Word::Arrived(Some(disk(2))), now), []);
        let told = meeting.hear(0, Word::Arrived(Some(disk(0))), now);
        assert_eq!(told, [(0, Reply::Begin((0..3).map(disk).collect()))]);
        let told = meeting.hear(0, Word::Begun(begun(0)), now);
        assert_eq!(told, [(1, Reply::Begun(begun(0))), (2, Reply::Begun(begun(0)))]);
        assert_eq!(meeting.hear(0, Word::Left, now), [(1, Reply::Turn)]);
        // Its process is killed.
        assert_eq!(meeting.gone(1, now), [(2, Reply::Turn)]);
        assert_eq!(meeting.hear(2, Word::Left, now), []);
    }

    /// If no point can be begun for all, each has its own, one after the other.
    #[test]
    fn without_a_point_for_all_each_has_its_own() {
        for is_killed in [false, true] {
            let mut meeting = Meeting::new(2);
            let now = Duration::ZERO;
            meeting.hear(0, Word::Arrived(Some(disk(0))), now);
            meeting.hear(1, Word::Arrived(Some(disk(1))), now);
            if is_killed {
                assert_eq!(meeting.gone(0, now), [(1, Reply::Apart), (1, Reply::Turn)]);
                continue;
            }
            let told = meeting.hear(0, Word::Failed("why".into()), now);
            assert_eq!(told, [(1, Reply::Apart), (0, Reply::Turn)]);
            assert_eq!(meeting.gone(0, now), [(1, Reply::Turn)]);
        }
    }

    /// Of two archives of one disk, the second one has a point of its own, after the others.
    #[test]
    fn a_disk_is_in_a_point_once() {
        let mut meeting = Meeting::new(3);
        let now = Duration::ZERO;
        let same = Participant { target: disk(0).target, ..disk(1) };
        meeting.hear(0, Word::Arrived(Some(disk(0))), now);
        meeting.hear(1, Word::Arrived(Some(same)), now);
        let told = meeting.hear(2, Word::Arrived(Some(disk(2))), now);
        assert_eq!(told, [(1, Reply::Apart), (0, Reply::Begin(vec![disk(0), disk(2)]))]);
        assert_eq!(meeting.hear(0, Word::Begun(begun(0)), now), [(2, Reply::Begun(begun(0)))]);
        assert_eq!(meeting.hear(0, Word::Left, now), [(2, Reply::Turn)]);
        assert_eq!(meeting.hear(2, Word::Left, now), [(1, Reply::Turn)]);
    }

    /// Who comes too late does not keep the others, and is alone.
    #[test]
    fn nobody_waits_long_for_one_that_does_not_come() {
        let mut meeting = Meeting::new(3);
        meeting.hear(0, Word::Arrived(Some(disk(0))), Duration::ZERO);
        meeting.hear(1, Word::Arrived(Some(disk(1))), Duration::ZERO);
        assert_eq!(meeting.tick(TO_MEET - Duration::from_secs(1)), []);
        assert_eq!(meeting.tick(TO_MEET), [(0, Reply::Begin(vec![disk(0), disk(1)]))]);
        assert_eq!(meeting.hear(2, Word::Arrived(Some(disk(2))), TO_MEET), [(2, Reply::Apart)]);
        let told = meeting.hear(0, Word::Begun(begun(0)), TO_MEET);
        assert_eq!(told, [(1, Reply::Begun(begun(0)))]);
        assert!(meeting.is_waiting(2) && meeting.is_waiting(1) && !meeting.is_waiting(0));
        meeting.hear(0, Word::Left, TO_MEET);
        assert_eq!(meeting.hear(1, Word::Left, TO_MEET), [(2, Reply::Turn)]);
    }

    /// What a process does next, if it may.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        /// Ends without arriving.
        Skips,
        /// Has no part in a point.
        Reads,
        /// Takes part, and can begin a point or not.
        Shares { begins: bool, dies: bool },
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![
            Just(Fate::Skips),
            Just(Fate::Reads),
            any::<(bool, bool)>().prop_map(|(begins, dies)| Fate::Shares { begins, dies }),
        ]
    }

    /// Processes that do what the replies say.
    struct Played<'a> {
        meeting: Meeting,
        fates: &'a [Fate],
        waiting: Vec<(usize, Reply)>,
        reading: Option<usize>,
        done: Vec<bool>,
    }

    impl Played<'_> {
        /// Nobody may read while another one does.
        fn take(&mut self, told: Told) {
            for (at, reply) in told {
                let may_read = matches!(reply, Reply::Turn);
                assert!(!may_read || self.reading.replace(at).is_none(), "two read at once");
                self.waiting.push((at, reply));
            }
        }

        fn says(&mut self, at: usize, word: Word) {
            let told = self.meeting.hear(at, word, Duration::ZERO);
            self.take(told);
        }

        fn ends(&mut self, at: usize) {
            self.done[at] = true;
            self.reading = self.reading.filter(|reading| *reading != at);
            let told = self.meeting.gone(at, Duration::ZERO);
            self.take(told);
        }

        fn hears(&mut self, at: usize, reply: &Reply) {
            let Fate::Shares { begins, dies } = self.fates[at] else {
                assert_eq!(*reply, Reply::Turn);
                return self.ends(at);
            };
            match reply {
                Reply::Begin(_) if dies => self.ends(at),
                Reply::Begin(_) if begins => {
                    assert_eq!(self.reading.replace(at), None);
                    self.says(at, Word::Begun(begun(at)));
                    self.leaves(at);
                }
                Reply::Begin(_) => self.says(at, Word::Failed(String::new())),
                Reply::Turn if dies => self.ends(at),
                Reply::Turn => self.leaves(at),
                Reply::Begun(_) | Reply::Apart => {}
            }
        }

        fn leaves(&mut self, at: usize) {
            self.reading = None;
            self.says(at, Word::Left);
            self.ends(at);
        }
    }

    proptest! {
        /// Whoever comes, fails or dies, in any order: all are done in the end, and one reads at a time.
        #[test]
        fn a_meeting_ends_and_one_reads_at_a_time(
            fates in prop::collection::vec(fate(), 1..6), picks in prop::collection::vec(0..6_usize, 40),
        ) {
            let (meeting, done) = (Meeting::new(fates.len()), vec![false; fates.len()]);
            let mut played = Played { meeting, fates: &fates, waiting: Vec::new(), reading: None, done };
            let mut coming: Vec<usize> = (0..fates.len()).collect();
            for pick in picks.into_iter().cycle() {
                if !coming.is_empty() && (pick % 2 == 0 || played.waiting.is_empty()) {
                    let at = coming.swap_remove(pick % coming.len());
                    match fates[at] {
                        Fate::Skips => played.ends(at),
                        Fate::Reads => played.says(at, Word::Arrived(None)),
                        Fate::Shares { .. } => played.says(at, Word::Arrived(Some(disk(at)))),
                    }
                } else if !played.waiting.is_empty() {
                    let (at, reply) = played.waiting.remove(0);
                    played.hears(at, &reply);
                } else {
                    break;
                }
            }
            prop_assert!(played.done.iter().all(|done| *done), "{:?}", played.meeting);
        }
    }
}
