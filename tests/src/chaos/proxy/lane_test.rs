//! What a lane counts is what a receiver sees, to the datagram; time is a number here.
use super::super::{Counts, Faults};
use super::Lane;
use crate::chaos::rng::Rng;
use std::collections::BTreeMap;
use std::time::Duration;

/// Sends numbered datagrams, one every `every` microseconds, and gives what comes out, with when.
fn pass(faults: Faults, n: u64, len: usize, every: u64) -> (Vec<(u64, Vec<u8>)>, Counts) {
    let mut lane = Lane::new(Rng::new(3));
    lane.set(faults);
    let (mut out, mut now) = (Vec::new(), 0);
    for number in 0..n {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(len, 0);
        lane.offer(now, bytes, ());
        out.extend(std::iter::from_fn(|| lane.pop(now)).map(|(bytes, ())| (now, bytes)));
        now += every;
    }
    while let Some(due) = lane.next_due() {
        now = now.max(due);
        out.extend(std::iter::from_fn(|| lane.pop(now)).map(|(bytes, ())| (now, bytes)));
    }
    assert_eq!(lane.inside(), 0);
    let counts = lane.counts();
    assert_eq!(
        counts.arrived + counts.duplicated,
        counts.forwarded + counts.dropped + counts.blackholed + counts.overflowed
    );
    assert_eq!((counts.arrived, counts.forwarded), (n, out.len() as u64));
    (out, counts)
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk::<8>().unwrap())
}

fn numbers(out: &[(u64, Vec<u8>)]) -> Vec<u64> {
    out.iter().map(|(_, bytes)| number(bytes)).collect()
}

/// As a receiver counts them: after one with a higher number.
fn late(numbers: &[u64]) -> u64 {
    let mut front = 0;
    let mut late = 0;
    for n in numbers {
        late += u64::from(*n < front);
        front = front.max(*n);
    }
    late
}

#[test]
fn without_faults_everything_passes_at_once_and_in_order() {
    let (out, counts) = pass(Faults::default(), 10_000, 8, 1);
    assert_eq!(numbers(&out), (0..10_000).collect::<Vec<_>>());
    assert!(out.iter().all(|(at, bytes)| *at == number(bytes)));
    assert_eq!(counts, Counts { arrived: 10_000, forwarded: 10_000, ..Counts::default() });
}

#[test]
fn dropped_and_received_are_all_that_was_sent() {
    let (out, counts) = pass(Faults { drop: 10.0, ..Faults::default() }, 10_000, 8, 1);
    assert!((900..1_100).contains(&counts.dropped), "{counts}");
    assert_eq!(out.len() as u64 + counts.dropped, 10_000);
    let seen = numbers(&out);
    assert!(seen.is_sorted_by(|a, b| a < b), "no other is touched");
}

#[test]
fn duplicates_are_counted_one_by_one() {
    let (out, counts) = pass(Faults { duplicate: 7.0, ..Faults::default() }, 10_000, 8, 1);
    let mut seen = BTreeMap::<u64, u64>::new();
    for n in numbers(&out) {
        *seen.entry(n).or_default() += 1;
    }
    assert_eq!(seen.len(), 10_000);
    assert_eq!(seen.values().filter(|n| **n == 2).count() as u64, counts.duplicated);
    assert!(counts.duplicated > 500 && seen.values().all(|n| *n <= 2));
}

#[test]
fn the_reordered_are_those_that_a_receiver_sees_late() {
    for faults in [
        Faults { reorder: 5.0, window: 4, ..Faults::default() },
        Faults { delay: (Duration::from_micros(10), Duration::from_micros(500)), ..Faults::default() },
    ] {
        let (out, counts) = pass(faults.clone(), 10_000, 8, 100);
        let seen = numbers(&out);
        assert_eq!(counts.reordered, late(&seen), "{faults:?}");
        assert!(counts.reordered > 200, "{counts}");
        let window = if faults.window == 0 { 6 } else { faults.window };
        for (at, n) in seen.iter().enumerate() {
            assert!((at as u64).abs_diff(*n) <= window, "{n} went out as number {at}");
        }
    }
}

#[test]
fn a_constant_delay_keeps_order_and_is_exactly_that_long() {
    let five = Duration::from_millis(5);
    let (out, counts) = pass(Faults { delay: (five, five), ..Faults::default() }, 1_000, 8, 10_000);
    assert_eq!(counts.delayed, 1_000);
    assert_eq!(counts.reordered, 0);
    // Time moves in steps of 10 ms here, and at the end to the last due time.
    assert!(out.iter().all(|(at, bytes)| (5_000..=10_000).contains(&(at - number(bytes) * 10_000))));
}

#[test]
fn a_rate_is_never_exceeded_and_what_would_wait_too_long_overflows() {
    // 1,000 bytes a millisecond come in, 32,000 bytes a second may go out.
    let (out, counts) = pass(Faults { rate: Some(32_000), ..Faults::default() }, 4_000, 1_000, 1_000);
    let last = out.last().unwrap().0;
    assert!(out.len() as u64 * 1_000 * 1_000_000 / 32_000 <= last, "{} in {last} us", out.len());
    assert!(counts.overflowed > 3_000, "{counts}");
    assert!(numbers(&out).is_sorted());
}

#[test]
fn damage_is_counted_where_it_shows() {
    let (out, counts) = pass(Faults { corrupt: 10.0, ..Faults::default() }, 5_000, 64, 1);
    let changed = out.iter().enumerate().filter(|(at, (_, bytes))| {
        let mut whole = (*at as u64).to_le_bytes().to_vec();
        whole.resize(64, 0);
        whole != *bytes
    });
    assert_eq!(changed.count() as u64, counts.corrupted);
    let (out, counts) = pass(Faults { truncate: 10.0, ..Faults::default() }, 5_000, 64, 1);
    assert_eq!(out.iter().filter(|(_, bytes)| bytes.len() < 64).count() as u64, counts.truncated);
    assert!(counts.truncated > 400);
}

#[test]
fn a_blackhole_lets_nothing_through_until_it_is_healed() {
    let mut lane = Lane::new(Rng::new(1));
    lane.set(Faults::blackhole());
    lane.offer(0, vec![1], ());
    assert!(lane.pop(u64::MAX).is_none());
    lane.set(Faults::default());
    lane.offer(1, vec![2], ());
    assert_eq!(lane.pop(1), Some((vec![2], ())));
    assert_eq!(lane.counts(), Counts { arrived: 2, forwarded: 1, blackholed: 1, ..Counts::default() });
}

#[test]
fn everything_at_once_still_adds_up() {
    let all = Faults {
        drop: 20.0,
        duplicate: 20.0,
        corrupt: 5.0,
        truncate: 5.0,
        reorder: 20.0,
        window: 8,
        delay: (Duration::ZERO, Duration::from_millis(200)),
        rate: Some(50_000),
        blackhole: false,
    };
    let (_, counts) = pass(all, 10_000, 100, 1_000);
    assert!(counts.overflowed > 0 && counts.dropped > 0 && counts.duplicated > 0 && counts.reordered > 0);
}
