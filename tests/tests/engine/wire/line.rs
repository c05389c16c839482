//! Lines that are slow, silent, or cut.

use std::time::{Duration, Instant};

use super::*;

/// Asks for everything over a line, and returns both ends' results.
fn over(link: &Link) -> (Result<usize>, Result<Outcome>, backy_tests::link::Traffic) {
    let laid = link.lay();
    let far = answering(fake(), laid.caller, link.patience);
    let near = asking(laid.called, link.patience).and_then(|mut near| {
        let count = everything(&mut near)?.len();
        near.finish()?;
        Ok(count)
    });
    (near, far.join().expect("no panic"), laid.traffic)
}

/// Wherever a line is cut, in either direction, within a frame or between two, both sides end with an error that says
/// so, and nobody waits.
#[test]
fn a_line_that_is_cut_anywhere_is_an_error_on_both_sides() {
    let (near, far, traffic) = over(&Link::default());
    assert!(near.is_ok() && far.is_ok());
    for way in [Way::Out, Way::Back] {
        let frames = traffic.frames(way);
        assert!(frames > 20, "{frames}");
        for cut in 0..frames {
            let began = Instant::now();
            let (near, far, _) = over(&Link::cut(way, cut));
            assert!(began.elapsed() < Duration::from_secs(10), "{way:?} {cut}");
            // The last frame of the side that asks is the end itself.
            let is_end = way == Way::Back && cut + 1 == frames;
            let near = near.map(drop).map_err(|error| error.to_string());
            assert!(is_end || near.is_err(), "{way:?} {cut}: {near:?}");
            let far = far.map_err(|error| error.to_string());
            assert!(!matches!(far, Ok(Outcome::Done(_))), "{way:?} {cut}: {far:?}");
            for text in [near.err(), far.err()].into_iter().flatten() {
                assert!(
                    !text.contains('\n') && text.contains("connection"),
                    "{way:?} {cut}: {text}"
                );
            }
        }
    }
}

/// Requests are sent ahead of the answers: a line with 20 ms in each direction is used well.
#[test]
fn latency_costs_little() {
    let mut origin = FakeOrigin::with(&[vec![0; 24 << 20]]);
    let mut random = backy_lib::storage::sim::Random(3);
    origin.revisions[0].1.fill_with(|| random.number() as u8);
    let rate = 40e6;
    let latency = Duration::from_millis(20);
    let link = Link { latency, bytes_per_second: Some(rate), ..Link::default() };
    let laid = link.lay();
    let far = answering(origin, laid.caller, patience());
    let mut near = asking(laid.called, patience()).expect("a connection");
    let revision = near.listing().expect("a list").revisions[0].uuid;
    let wanted: Vec<BlockIndex> = (0..(24 << 20) / 4096).map(BlockIndex).collect();
    let began = Instant::now();
    near.fetch(revision, &wanted, &mut |_, _| Ok(())).expect("all blocks");
    let took = began.elapsed().as_secs_f64();
    near.finish().expect("an end");
    far.join().expect("no panic").expect("an end");
    let best = laid.traffic.bytes(Way::Out) as f64 / rate;
    // One request after the other would take 24 x 40 ms longer.
    assert!(took < best * 1.25 + 0.3, "{took} s, at best {best} s");
}

/// A side that is slow, and says that it is alive, is waited for; the one that asks says so, too.
#[test]
fn a_slow_side_that_is_alive_is_waited_for() {
    let patience = Patience {
        silence: Duration::from_millis(600),
        answer: Duration::from_millis(1900),
        alive: Duration::from_millis(100),
    };
    let link = Link { patience, ..Link::default() };
    let laid = link.lay();
    let streams = laid.caller;
    let far = std::thread::spawn(move || {
        let connection = call(streams, "far", &hello(Role::Answer, "copy"), patience)?;
        let origin = || -> Result<Box<dyn Origin>> {
            std::thread::sleep(Duration::from_millis(1500));
            Ok(Box::new(fake()))
        };
        let block_size = fake().block_size();
        let (threads, limit_rate, stop) = (Some(1), None, Arc::default());
        answer(
            connection,
            &Answering { origin: &origin, block_size, threads, limit_rate, patience, stop },
        )
    });
    let mut near = asking(laid.called, patience).expect("a connection");
    near.listing().expect("a list");
    // However long it is busy with something else.
    std::thread::sleep(Duration::from_millis(2500));
    everything(&mut near).expect("everything");
    near.finish().expect("an end");
    far.join().expect("no panic").expect("an end");
}

/// A side that says nothing at all for too long is given up, by the side that asks and by the one that answers.
#[test]
fn a_silent_side_is_given_up() {
    let short = Patience {
        silence: Duration::from_millis(300),
        answer: Duration::from_secs(20),
        alive: Duration::from_secs(20),
    };
    // Nobody answers.
    let laid = Link { patience: short, ..Link::default() }.lay();
    let error = call(laid.caller, "far", &hello(Role::Answer, "copy"), short).map(drop);
    let text = error.expect_err("silence").to_string();
    assert_eq!(text, "far: no byte came for 0.3 s; gave up");
    drop(laid.called);
    // Nobody asks.
    let laid = Link { patience: short, ..Link::default() }.lay();
    let far = answering(fake(), laid.caller, short);
    let near = asking(laid.called, patience()).expect("a connection");
    let text = far.join().expect("no panic").expect_err("silence").to_string();
    assert_eq!(text, "far: no byte came for 0.3 s; gave up");
    drop(near);
}

/// A limit on the rate holds, and the other side does not take the pauses for the end.
#[test]
fn a_limited_rate_is_kept() {
    let mut origin = FakeOrigin::with(&[vec![0; 2 << 20]]);
    let mut random = backy_lib::storage::sim::Random(3);
    origin.revisions[0].1.fill_with(|| random.number() as u8);
    let patience = Patience {
        silence: Duration::from_millis(700),
        answer: Duration::from_secs(20),
        alive: Duration::from_millis(100),
    };
    let laid = Link { patience, ..Link::default() }.lay();
    let streams = laid.caller;
    let far = std::thread::spawn(move || {
        let connection = call(streams, "far", &hello(Role::Answer, "copy"), patience)?;
        let make = || -> Result<Box<dyn Origin>> { Ok(Box::new(origin.clone())) };
        let block_size = origin.block_size();
        let (threads, limit_rate, stop) = (Some(1), Some(1 << 20), Arc::default());
        answer(
            connection,
            &Answering { origin: &make, block_size, threads, limit_rate, patience, stop },
        )
    });
    let mut near = asking(laid.called, patience).expect("a connection");
    let revision = near.listing().expect("a list").revisions[0].uuid;
    let began = Instant::now();
    let wanted: Vec<BlockIndex> = (0..512).map(BlockIndex).collect();
    near.fetch(revision, &wanted, &mut |_, _| Ok(())).expect("all blocks");
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    near.finish().expect("an end");
    far.join().expect("no panic").expect("an end");
}
