//! Whether a backend is in use, and why not: what connects, answers and health checks say of it.
//!
//! ```text
//! unknown ──► up ──► unreachable   a connect failed           back: a connect, or `healthy` good checks
//!                ──► unhealthy     `unhealthy` bad checks     back: `healthy` good checks
//!                ──► ejected       failures in traffic        back: one trial request, or checks that mended
//! ```
//!
//! A backend that was never heard of is used like one that is up. One that is ejected gets nothing for a
//! while that doubles with each ejection in a row, then exactly one request, the trial, which decides. One
//! that comes back and soon goes out again stays out longer each time.
//!
//! Invariant: reading a condition takes no lock and no time; time is passed in, as ticks.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::snapshot::settings::{Eject, Health};

/// Going out this soon after coming back counts as the same trouble.
const CALM: Duration = Duration::from_secs(30);
/// How long a backend that is out without having failed in traffic stays so at least, the second time in a row.
const PENALTY: Duration = Duration::from_millis(250);
/// The longest such time where ejection is disabled.
const PENALTY_MAX: Duration = Duration::from_secs(30);
/// A first ejection lasts this part of `eject.for`: a trial costs one request, a backend that is well again and unused costs more.
const FIRST_EJECTION: u32 = 32;
/// Of the last 32 answers, as many failures eject, in a row or not.
const FAILURES_OF_32: u32 = 16;
/// What a returning backend gets at first, in thousandths of its share.
const SHARE_MIN: u32 = 100;

/// Where a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing was heard of it yet; it is used.
    Unknown,
    Up,
    /// Could not be connected to.
    Unreachable,
    /// Its health checks failed.
    Unhealthy,
    /// Failed in traffic.
    Ejected,
    /// Ejected, and one request is on its way to see.
    Trial,
}

impl State {
    /// Every state; the index of each is `as usize`.
    pub const ALL: [State; 6] =
        [State::Unknown, State::Up, State::Unreachable, State::Unhealthy, State::Ejected, State::Trial];

    /// The value of the `state` label.
    pub const fn label(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Up => "up",
            State::Unreachable => "unreachable",
            State::Unhealthy => "unhealthy",
            State::Ejected => "ejected",
            State::Trial => "trial",
        }
    }

    /// Whether it takes part in the choice.
    pub const fn is_in(self) -> bool {
        matches!(self, State::Unknown | State::Up)
    }
}

/// Why a backend went out: the closed set of the `cause` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Unreachable,
    Unhealthy,
    /// `eject.consecutive` failures in a row.
    InARow,
    /// Half of its last answers.
    Half,
    /// Its trial failed.
    Trial,
}

impl Cause {
    /// Every cause; the index of each is `as usize`.
    pub const ALL: [Cause; 5] = [Cause::Unreachable, Cause::Unhealthy, Cause::InARow, Cause::Half, Cause::Trial];

    /// The value of the `cause` label.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Unreachable => "unreachable",
            Cause::Unhealthy => "unhealthy",
            Cause::InARow => "in_a_row",
            Cause::Half => "half",
            Cause::Trial => "trial",
        }
    }
}

/// How an exchange failed, as far as the backend is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// It answered 5xx, which a request may have brought on itself.
    Status,
    /// It gave no answer, or none that could be read.
    NoAnswer,
}

/// A change of state; whoever gets it tells log and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub to: State,
    /// `None` when it is in again.
    pub cause: Option<Cause>,
    /// At least how long it stays out.
    pub out_for: Duration,
}

/// Where a backend stands and what led there.
pub struct Condition {
    state: AtomicU8,
    /// An ejected one has a request under way that decides.
    on_trial: AtomicBool,
    /// Ticks before which one that is out does not come back.
    until: AtomicU64,
    /// Ticks at which it came in; 0 for one that was there from the start.
    since: AtomicU64,
    /// The last 64 answers, the latest lowest: 1 is a failure.
    answers: AtomicU64,
    track: Mutex<Track>,
}

#[derive(Default)]
struct Track {
    /// Times in a row that it went out.
    strikes: u32,
    good_checks: u32,
    bad_checks: u32,
    /// A check failed since it was ejected: good ones then mean that it was mended.
    ailing: bool,
}

impl Condition {
    /// `since`: ticks at which the backend joined others; 0 for one that is there from the start.
    pub fn new(since: u64) -> Self {
        Self {
            state: AtomicU8::new(State::Unknown as u8),
            on_trial: AtomicBool::new(false),
            until: AtomicU64::new(0),
            since: AtomicU64::new(since),
            answers: AtomicU64::new(0),
            track: Mutex::default(),
        }
    }

    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Unknown,
            1 => State::Up,
            2 => State::Unreachable,
            3 => State::Unhealthy,
            _ if self.on_trial.load(Ordering::Relaxed) => State::Trial,
            _ => State::Ejected,
        }
    }

    /// The part of its usual share that a backend gets, in thousandths: less while it starts slowly, `None`
    /// while it is out.
    pub fn share(&self, now: u64, slow_start: Duration) -> Option<u32> {
        if !self.state().is_in() {
            return None;
        }
        let (since, slow_start) = (self.since.load(Ordering::Relaxed), nanos(slow_start));
        let here = now.saturating_sub(since);
        if since == 0 || here >= slow_start {
            return Some(1000);
        }
        Some(SHARE_MIN.max((u128::from(here) * 1000 / u128::from(slow_start.max(1))) as u32))
    }

    /// Whether a trial is due that nobody has begun.
    pub fn awaits_trial(&self, now: u64) -> bool {
        self.state() == State::Ejected && now >= self.until.load(Ordering::Relaxed)
    }

    /// Begins the one request that may be under way while a backend is out; false if somebody else did.
    pub fn begin_trial(&self) -> bool {
        !self.on_trial.swap(true, Ordering::AcqRel)
    }

    /// Ends it, whatever it came to.
    pub fn end_trial(&self) {
        self.on_trial.store(false, Ordering::Release);
    }

    /// An answer that was none of the failures. `trial`: of the one request that was to see.
    pub fn answered(&self, now: u64, trial: bool) -> Option<Change> {
        match self.state() {
            State::Up if self.answers.load(Ordering::Relaxed) == 0 => None,
            State::Up => {
                let _ = self.answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |answers| Some(answers << 1));
                None
            }
            State::Unknown => self.come_in(now, |state| state == State::Unknown),
            State::Unreachable => self.come_in(now, |state| state == State::Unreachable),
            State::Unhealthy => None,
            State::Ejected | State::Trial => {
                if trial {
                    self.come_in(now, |state| !state.is_in())
                } else {
                    None
                }
            }
        }
    }

    /// A failure of a request that began at `began`; says why the backend is due to be ejected, if it is.
    pub fn failed(&self, began: u64, trial: bool, how: Failing, eject: &Eject) -> Option<Cause> {
        match self.state() {
            State::Unknown | State::Up => {}
            State::Ejected | State::Trial => return trial.then_some(Cause::Trial),
            State::Unreachable | State::Unhealthy => return None,
        }
        // What began before the backend came back says nothing of it now.
        if began < self.since.load(Ordering::Relaxed) {
            return None;
        }
        // No answer at all weighs twice: no request can bring that on itself.
        let push = |answers: u64| match how {
            Failing::Status => answers << 1 | 1,
            Failing::NoAnswer => answers << 2 | 3,
        };
        let before = self.answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |answers| Some(push(answers)));
        let answers = before.map_or(0, push);
        let of_32 = (answers as u32).count_ones();
        if answers.trailing_ones() >= eject.consecutive {
            Some(Cause::InARow)
        } else if of_32 >= FAILURES_OF_32.max(eject.consecutive) {
            Some(Cause::Half)
        } else {
            None
        }
    }

    /// Forgives the failures so far: the backend was due to be ejected and could not be.
    pub fn forgive(&self) {
        self.answers.store(0, Ordering::Relaxed);
    }

    /// Ejects a backend that is due.
    pub fn eject(&self, now: u64, cause: Cause, eject: &Eject) -> Option<Change> {
        let mut track = self.track.lock();
        let due = match cause {
            Cause::Trial => matches!(self.state(), State::Ejected | State::Trial),
            _ => self.state().is_in(),
        };
        if !due {
            return None;
        }
        let out_for = self.strike(&mut track, now, eject.longest / FIRST_EJECTION, eject.longest, 1);
        track.ailing = false;
        Some(self.go_out(now, State::Ejected, cause, out_for))
    }

    /// A connect failed.
    pub fn unconnected(&self, now: u64, eject: Option<&Eject>) -> Option<Change> {
        let mut track = self.track.lock();
        track.good_checks = 0;
        if self.state() == State::Unreachable {
            return None;
        }
        Some(self.move_out(&mut track, now, State::Unreachable, Cause::Unreachable, eject))
    }

    /// A connect worked, which says all there is to know where no health is checked; not to be told elsewhere.
    pub fn connected(&self, now: u64) -> Option<Change> {
        let over = now >= self.until.load(Ordering::Relaxed);
        self.come_in(now, |state| match state {
            State::Unknown => true,
            State::Unreachable | State::Unhealthy => over,
            State::Up | State::Ejected | State::Trial => false,
        })
    }

    /// A health check passed.
    pub fn check_passed(&self, now: u64, health: &Health) -> Option<Change> {
        let mended = {
            let mut track = self.track.lock();
            track.bad_checks = 0;
            track.good_checks = track.good_checks.saturating_add(1);
            (track.good_checks >= health.healthy, track.ailing)
        };
        let over = now >= self.until.load(Ordering::Relaxed);
        self.come_in(now, |state| match (state, mended) {
            (State::Unknown, _) => true,
            (State::Unreachable | State::Unhealthy, (true, _)) => over,
            // Checks that never failed cannot tell that what failed in traffic is better.
            (State::Ejected, (true, true)) => true,
            _ => false,
        })
    }

    /// A health check failed over a connection that was made. `suspected`: requests wait in vain as well, so
    /// one is enough.
    pub fn check_failed(&self, now: u64, suspected: bool, health: &Health, eject: Option<&Eject>) -> Option<Change> {
        let mut track = self.track.lock();
        track.good_checks = 0;
        track.bad_checks = track.bad_checks.saturating_add(1);
        track.ailing = true;
        if self.state() == State::Unhealthy || track.bad_checks < health.unhealthy && !suspected {
            return None;
        }
        Some(self.move_out(&mut track, now, State::Unhealthy, Cause::Unhealthy, eject))
    }

    /// Whether the last check said something else than the state does: worth another look soon.
    pub fn is_in_doubt(&self) -> bool {
        !self.state().is_in() || self.track.lock().bad_checks > 0
    }

    /// Counts a going out; says how long it is to last: nothing before the strike `free`, then `first`, doubling.
    fn strike(&self, track: &mut Track, now: u64, first: Duration, longest: Duration, free: u32) -> Duration {
        let since = self.since.load(Ordering::Relaxed);
        let calm = self.state().is_in() && (since == 0 || now.saturating_sub(since) >= nanos(CALM));
        track.strikes = if calm { 1 } else { track.strikes.saturating_add(1) };
        match track.strikes.checked_sub(free) {
            None => Duration::ZERO,
            Some(doublings) => first.saturating_mul(1 << doublings.min(20)).min(longest),
        }
    }

    /// Goes out, or from one way of being out to another, which is the same trouble still.
    fn move_out(&self, track: &mut Track, now: u64, to: State, cause: Cause, eject: Option<&Eject>) -> Change {
        if self.state().is_in() {
            let out_for = self.strike(track, now, PENALTY, eject.map_or(PENALTY_MAX, |eject| eject.longest), 2);
            return self.go_out(now, to, cause, out_for);
        }
        self.state.store(to as u8, Ordering::Release);
        let rest = self.until.load(Ordering::Relaxed).saturating_sub(now);
        Change { to, cause: Some(cause), out_for: Duration::from_nanos(rest) }
    }

    fn go_out(&self, now: u64, to: State, cause: Cause, out_for: Duration) -> Change {
        self.until.store(now.saturating_add(nanos(out_for)), Ordering::Relaxed);
        self.answers.store(0, Ordering::Relaxed);
        self.state.store(to as u8, Ordering::Release);
        Change { to, cause: Some(cause), out_for }
    }

    fn come_in(&self, now: u64, may: impl FnOnce(State) -> bool) -> Option<Change> {
        let mut track = self.track.lock();
        let state = self.state();
        if state == State::Up || !may(state) {
            return None;
        }
        if state != State::Unknown {
            self.since.store(now, Ordering::Relaxed);
        }
        (track.bad_checks, track.ailing) = (0, false);
        self.answers.store(0, Ordering::Relaxed);
        self.state.store(State::Up as u8, Ordering::Release);
        Some(Change { to: State::Up, cause: None, out_for: Duration::ZERO })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const START: u64 = 1000 * S;
    const EJECT: Eject = Eject { consecutive: 5, longest: Duration::from_secs(16), max_percent: 50 };
    const HEALTH: Health = Health {
        path: String::new(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        healthy: 2,
        unhealthy: 3,
    };
    const NONE: Duration = Duration::ZERO;

    fn up() -> Condition {
        let condition = Condition::new(0);
        assert_eq!(condition.answered(START, false).map(|change| change.to), Some(State::Up));
        condition
    }

    /// Fails with 500 until ejected, at `now`; how many it took and for how long it is out.
    fn ejected(condition: &Condition, now: u64) -> (usize, Duration) {
        for n in 1..100 {
            if let Some(cause) = condition.failed(now, false, Failing::Status, &EJECT) {
                let change = condition.eject(now, cause, &EJECT).expect("a change");
                assert_eq!((change.to, condition.state()), (State::Ejected, State::Ejected));
                return (n, change.out_for);
            }
        }
        panic!("never ejected");
    }

    fn trial_fails(condition: &Condition, now: u64) -> Duration {
        assert!(condition.awaits_trial(now) && condition.begin_trial());
        assert_eq!(condition.state(), State::Trial);
        assert_eq!(condition.failed(now, true, Failing::Status, &EJECT), Some(Cause::Trial));
        let change = condition.eject(now, Cause::Trial, &EJECT).expect("a change");
        condition.end_trial();
        change.out_for
    }

    #[test]
    fn what_was_never_heard_of_is_used() {
        let condition = Condition::new(0);
        assert_eq!((condition.state(), condition.share(START, 10 * CALM)), (State::Unknown, Some(1000)));
        assert_eq!(condition.check_passed(START, &HEALTH).map(|change| change.to), Some(State::Up));
        assert_eq!(condition.answered(START, false), None);
    }

    #[test]
    fn failures_in_a_row_eject_and_an_answer_between_them_forgives() {
        let condition = up();
        for _ in 0..20 {
            for _ in 0..4 {
                assert_eq!(condition.failed(START, false, Failing::Status, &EJECT), None);
            }
            // So many that half is never reached either.
            (0..8).for_each(|_| assert_eq!(condition.answered(START, false), None));
        }
        assert_eq!(ejected(&condition, START), (5, EJECT.longest / FIRST_EJECTION));
        assert_eq!(condition.share(START, NONE), None);
    }

    #[test]
    fn no_answer_at_all_weighs_twice() {
        let condition = up();
        let failed = || condition.failed(START, false, Failing::NoAnswer, &EJECT);
        assert_eq!([failed(), failed(), failed()], [None, None, Some(Cause::InARow)]);
    }

    #[test]
    fn half_of_the_last_answers_eject_without_a_row() {
        let condition = up();
        for n in 1..=15 {
            assert_eq!(condition.failed(START, false, Failing::Status, &EJECT), None, "{n}");
            assert_eq!(condition.answered(START, false), None);
        }
        assert_eq!(condition.failed(START, false, Failing::Status, &EJECT), Some(Cause::Half));
        // Spread thinner they never do.
        let condition = up();
        for _ in 0..100 {
            assert_eq!(condition.failed(START, false, Failing::Status, &EJECT), None);
            (0..2).for_each(|_| assert_eq!(condition.answered(START, false), None));
        }
    }

    #[test]
    fn exactly_one_trial_decides_and_each_that_fails_doubles_the_wait() {
        let condition = up();
        let (_, first) = ejected(&condition, START);
        let mut now = START + nanos(first);
        assert!(!condition.awaits_trial(now - 1));
        for seconds in [1, 2, 4, 8, 16, 16] {
            assert_eq!(trial_fails(&condition, now), Duration::from_secs(seconds));
            assert!(!condition.awaits_trial(now + seconds * S - 1));
            now += seconds * S;
        }
        assert!(condition.awaits_trial(now) && condition.begin_trial());
        assert!(!condition.awaits_trial(now) && !condition.begin_trial(), "only one");
        // Others that were still under way decide nothing.
        assert_eq!(condition.answered(now, false), None);
        assert_eq!(condition.failed(now, false, Failing::NoAnswer, &EJECT), None);
        assert_eq!(condition.answered(now, true).map(|change| change.to), Some(State::Up));
        condition.end_trial();
        assert_eq!(condition.state(), State::Up);
    }

    #[test]
    fn a_trial_that_comes_to_nothing_leaves_room_for_another() {
        let condition = up();
        ejected(&condition, START);
        assert!(condition.begin_trial());
        condition.end_trial();
        assert!(condition.awaits_trial(START + 2 * S));
    }

    #[test]
    fn trouble_soon_after_a_return_goes_on_where_it_left_off_and_calm_is_forgotten() {
        let condition = up();
        let (_, first) = ejected(&condition, START);
        assert!(condition.begin_trial());
        let back = START + nanos(first);
        condition.answered(back, true).expect("back");
        condition.end_trial();
        assert_eq!(ejected(&condition, back + 29 * S).1, 2 * first);
        condition.begin_trial();
        condition.answered(back + 40 * S, true).expect("back");
        condition.end_trial();
        assert_eq!(ejected(&condition, back + 71 * S).1, first);
    }

    #[test]
    fn a_returning_backend_starts_slowly() {
        let condition = up();
        let slow = Duration::from_secs(10);
        assert_eq!(condition.share(START, slow), Some(1000));
        condition.unconnected(START, Some(&EJECT)).expect("out");
        assert_eq!(condition.share(START, slow), None);
        condition.connected(START).expect("back");
        let share = |after: u64| condition.share(START + after, slow).expect("in");
        assert_eq!([share(0), share(S), share(5 * S), share(9 * S), share(10 * S)], [100, 100, 500, 900, 1000]);
        assert_eq!(condition.share(START, NONE), Some(1000));
        // One that joins others does, too.
        assert_eq!(Condition::new(START).share(START + 5 * S, slow), Some(500));
    }

    #[test]
    fn what_began_before_a_return_says_nothing() {
        let condition = up();
        condition.unconnected(START, Some(&EJECT)).expect("out");
        condition.connected(START + S).expect("back");
        for _ in 0..10 {
            assert_eq!(condition.failed(START, false, Failing::NoAnswer, &EJECT), None);
        }
        assert_eq!(ejected(&condition, START + S).0, 5);
    }

    #[test]
    fn one_connect_takes_out_and_one_brings_back_but_not_for_ever_at_once() {
        let condition = up();
        let mut now = START;
        for millis in [0, 250, 500, 1000, 2000, 4000, 8000, 16000, 16000] {
            let change = condition.unconnected(now, Some(&EJECT)).expect("out");
            assert_eq!((change.to, change.out_for), (State::Unreachable, Duration::from_millis(millis)));
            assert_eq!(condition.unconnected(now, Some(&EJECT)), None, "known");
            now += millis * 1_000_000;
            if millis > 0 {
                assert_eq!(condition.connected(now - 1), None);
            }
            assert_eq!(condition.connected(now).map(|change| change.to), Some(State::Up));
            now += 1;
        }
        let change = condition.unconnected(now + 30 * S, Some(&EJECT)).expect("out");
        assert_eq!(change.out_for, NONE);
    }

    #[test]
    fn checks_need_their_thresholds_both_ways() {
        let condition = up();
        let fails = || condition.check_failed(START, false, &HEALTH, Some(&EJECT)).map(|change| change.to);
        let passes = || condition.check_passed(START, &HEALTH).map(|change| change.to);
        assert!(!condition.is_in_doubt());
        assert_eq!([fails(), fails(), passes()], [None; 3]);
        assert!(!condition.is_in_doubt());
        assert_eq!(fails(), None);
        assert!(condition.is_in_doubt());
        assert_eq!([fails(), fails(), fails()], [None, Some(State::Unhealthy), None]);
        assert_eq!(condition.share(START, NONE), None);
        assert!(!condition.awaits_trial(u64::MAX), "checks decide, not requests");
        assert_eq!([passes(), fails(), passes(), passes()], [None, None, None, Some(State::Up)]);
    }

    #[test]
    fn one_failed_check_is_enough_where_requests_wait_in_vain() {
        let condition = up();
        assert_eq!(condition.check_failed(START, true, &HEALTH, None).map(|c| c.to), Some(State::Unhealthy));
    }

    #[test]
    fn good_checks_bring_back_what_was_ejected_only_if_they_had_failed() {
        let condition = up();
        ejected(&condition, START);
        let passes = || condition.check_passed(START, &HEALTH).map(|change| change.to);
        assert_eq!([passes(), passes(), passes()], [None; 3]);
        condition.check_failed(START, false, &HEALTH, None);
        assert_eq!([passes(), passes()], [None, Some(State::Up)]);
    }

    #[test]
    fn from_one_way_of_being_out_to_another_is_no_second_strike() {
        let condition = up();
        condition.unconnected(START, Some(&EJECT)).expect("out");
        let change = condition.check_failed(START, true, &HEALTH, Some(&EJECT)).expect("a change");
        assert_eq!((change.to, change.out_for), (State::Unhealthy, NONE));
        condition.unconnected(START, Some(&EJECT)).expect("a change");
        assert_eq!(condition.connected(START).map(|change| change.to), Some(State::Up));
    }

    #[test]
    fn an_unreachable_backend_that_answers_a_request_is_back() {
        let condition = up();
        condition.unconnected(START, None).expect("out");
        assert_eq!(condition.answered(START, false).map(|change| change.to), Some(State::Up));
    }
}
