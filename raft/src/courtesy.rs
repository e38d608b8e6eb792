//! How the threads of a node go to sleep: those of its runtime, and the one that writes the log.
//!
//! **Idea.** A thread that has nothing to do sleeps in the kernel until something comes, and is woken by whoever
//! brings it. Under load both happen after every few requests, and cost more than the requests. So a thread
//! first lets whoever else is ready on its processor run, once (`sched_yield(2)`): the clients, the disk thread, other nodes.
//! When it is its turn again there is often a whole batch to do. Where nobody is ready that takes less than a
//! microsecond. With 64 connections to three nodes on two processors it saves a sixth of the servers' time for
//! a get, and 3 to 9 % of it for a put; that the log's thread does it, too, another 3 % for a put.
//!
//! **Whom it would harm.** Beside a program that never sleeps, to step back once costs a time slice of the
//! kernel, some 3 ms, and a request wakes several threads. Such turns are told by their length, because Hearth's own
//! threads and its clients sleep before their slice is over: of the turns under full load 1 % are longer than
//! `SLICE`, beside busy loops a quarter. A thread that meets too many of them does not step back for a while
//! (`Courtesy`).

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A turn of others that takes longer than this was a whole time slice.
const SLICE: Duration = Duration::from_millis(2);
/// What a long turn adds to the score; a short one takes 1 away. So long ones are allowed to be one in 25.
const LONG: u32 = 24;
/// The score at which a thread stops stepping back: reached after five long turns in a row.
const SCORE_MAX: u32 = 5 * LONG;
/// The score after a pause: one long turn more, and it was too early.
const SCORE_AFTER_PAUSE: u32 = SCORE_MAX - LONG;
/// The first pause, and the longest: each is twice as long as the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Lets others run before the calling thread goes to sleep, unless that did not pay lately. Returns when it is the
/// thread's turn again: beside whoever never sleeps that is a time slice of the kernel, some 3 ms. To be called where
/// the thread would sleep, once, and then to look again whether there is something to do.
pub fn step_back() {
    thread_local! {
        static COURTESY: Cell<Courtesy> = const { Cell::new(Courtesy::NEW) };
    }
    let begun = Instant::now();
    let mut courtesy = COURTESY.get();
    if courtesy.may_step_back(begun) {
        std::thread::yield_now();
        courtesy.note(begun, begun.elapsed());
        COURTESY.set(courtesy);
    }
}

/// Whether a thread steps back, from how long the turns of others took.
#[derive(Debug, Clone, Copy)]
struct Courtesy {
    score: u32,
    pause: Duration,
    /// Not before.
    again_at: Option<Instant>,
}

impl Courtesy {
    const NEW: Self = Self { score: 0, pause: PAUSES.0, again_at: None };

    fn may_step_back(&self, now: Instant) -> bool {
        self.again_at.is_none_or(|at| at <= now)
    }

    /// The turn of others that began at `begun` took `turn`.
    fn note(&mut self, begun: Instant, turn: Duration) {
        self.again_at = None;
        if turn <= SLICE {
            self.score = self.score.saturating_sub(1);
            if self.score == 0 {
                self.pause = PAUSES.0;
            }
            return;
        }
        self.score += LONG;
        if self.score >= SCORE_MAX {
            self.again_at = Some(begun + turn + self.pause);
            self.pause = (self.pause * 2).min(PAUSES.1);
            self.score = SCORE_AFTER_PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_TURN: Duration = Duration::from_millis(3);
    const SHORT_TURN: Duration = Duration::from_micros(300);

    /// How often a thread steps back in `span` when each turn takes as long as `turn` says, given its number,
    /// and 100 us pass between two.
    fn steps(span: Duration, turn: impl Fn(u32) -> Duration) -> (u32, u32) {
        let (begun, mut courtesy) = (Instant::now(), Courtesy::NEW);
        let (mut now, mut steps, mut long) = (begun, 0, 0);
        while now - begun < span {
            if courtesy.may_step_back(now) {
                let turn = turn(steps);
                courtesy.note(now, turn);
                steps += 1;
                long += u32::from(turn > SLICE);
                now += turn;
            }
            now += Duration::from_micros(100);
        }
        (steps, long)
    }

    #[test]
    fn beside_who_sleeps_it_steps_back_always() {
        let second = Duration::from_secs(1);
        assert_eq!(steps(second, |_| SHORT_TURN).0, 2500);
        let (most, long) =
            steps(second, |number| if number.is_multiple_of(50) { LONG_TURN } else { SHORT_TURN });
        assert!(most > 2000 && long > 40, "one long turn in 50: {most}, {long} of them long");
    }

    #[test]
    fn beside_a_busy_loop_it_stops() {
        let (steps_all, _) = steps(Duration::from_secs(60), |_| LONG_TURN);
        // Five, then one after each of 0.1, 0.2 … 6.4 s, then one each 10 s.
        assert!((10..=20).contains(&steps_all), "{steps_all}");
        let quarter = |number: u32| if number.is_multiple_of(4) { LONG_TURN } else { SHORT_TURN };
        let (_, long) = steps(Duration::from_secs(60), quarter);
        assert!((10..=40).contains(&long), "a quarter of all turns: {long}");
    }

    #[test]
    fn it_begins_again_when_the_busy_loop_is_gone() {
        let (begun, mut courtesy) = (Instant::now(), Courtesy::NEW);
        let mut now = begun;
        for _ in 0..20 {
            now = courtesy.again_at.unwrap_or(now);
            courtesy.note(now, LONG_TURN);
        }
        let again_at = courtesy.again_at.unwrap();
        assert!(!courtesy.may_step_back(again_at - Duration::from_millis(1)));
        assert!(courtesy.may_step_back(again_at));
        for _ in 0..SCORE_MAX {
            courtesy.note(again_at, SHORT_TURN);
            assert!(courtesy.may_step_back(again_at));
        }
        assert_eq!((courtesy.score, courtesy.pause), (0, PAUSES.0));
    }
}
