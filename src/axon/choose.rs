//! Which backend takes a request.
//!
//! *Least loaded* looks at two random ones: nearly as even as a full search, and without its herd: many
//! gateways that all see the same least loaded backend do not all fall upon it (Mitzenmacher, 2001).
//! *Round robin* is nginx's smooth weighted one: a backend of weight 5 among two of weight 1 is never asked
//! five times in a row. *Hash* is weighted rendezvous hashing: a backend that leaves moves only its own
//! share, and gateways that have the same configuration agree.
//!
//! Invariant: choosing allocates nothing and waits for nobody but another choice.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use parking_lot::Mutex;

use crate::axon::Backend;
use crate::axon::condition::State;
use crate::snapshot::settings::Balance;

/// Most backends of one upstream.
pub const BACKENDS_MAX: usize = 64;

/// A backend and its part of the requests.
#[derive(Clone)]
pub struct Member {
    pub backend: Arc<Backend>,
    /// 1–100, relative to the other members.
    pub weight: u8,
}

/// The backends of an upstream at one moment; at most `BACKENDS_MAX`.
pub struct Backends {
    members: Vec<Member>,
    /// Smooth weighted round robin's state, by member: how much each is owed.
    owed: Mutex<ArrayVec<i64, BACKENDS_MAX>>,
}

/// A member that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub index: usize,
    pub how: How,
}

/// What the choice thinks of its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is in use.
    Usual,
    /// It is out, and this request is to see whether it is better; nobody else's is.
    Trial,
    /// It is out, and so is every other.
    LastResort,
    /// The same, and this is the only request that is to wait for it.
    LastTrial,
}

impl How {
    /// Whether the exchange is the one under way that decides about a backend that is out.
    pub fn is_trial(self) -> bool {
        matches!(self, How::Trial | How::LastTrial)
    }

    /// Whether it is no news that nobody is there.
    pub fn is_last(self) -> bool {
        matches!(self, How::LastResort | How::LastTrial)
    }
}

/// How to choose.
#[derive(Clone, Copy)]
pub struct Terms {
    pub balance: Balance,
    pub slow_start: Duration,
    /// Whether an ejected member is better than none.
    pub ejected_if_all_are_out: bool,
}

/// What a request brings to the choice.
#[derive(Clone, Copy)]
pub struct Draw {
    /// Evenly spread bits.
    pub random: u64,
    /// [`key_of`] what is hashed.
    pub key: u64,
    /// In ticks.
    pub now: u64,
}

/// The members that a request has tried, by index.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tried(u64);

impl Tried {
    pub fn add(&mut self, index: usize) {
        self.0 |= 1 << (index & 63);
    }

    pub fn has(self, index: usize) -> bool {
        self.0 & (1 << (index & 63)) != 0
    }
}

/// A member that may be chosen.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    index: usize,
    /// Never 0; relative to the other candidates.
    share: u32,
    backend: &'a Backend,
}

type Candidates<'a> = ArrayVec<Candidate<'a>, BACKENDS_MAX>;

impl Backends {
    /// Members beyond `BACKENDS_MAX` are left out.
    pub fn new(mut members: Vec<Member>) -> Self {
        members.truncate(BACKENDS_MAX);
        let owed = members.iter().map(|_| 0).collect();
        Self { members, owed: Mutex::new(owed) }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// An untried member.
    ///
    /// One that is due for its trial is taken at once: only a request can tell. When all are out, one that was
    /// ejected is tried all the same, if that is allowed, or one that could not be connected to, by one request
    /// at a time and only as its first: a dead Axon must not cost each request a connect timeout.
    pub fn choose(&self, terms: Terms, draw: Draw, tried: Tried) -> Option<Chosen> {
        let mut usual = Candidates::new();
        for (index, member) in self.untried(tried) {
            let condition = member.backend.condition();
            match condition.share(draw.now, terms.slow_start) {
                Some(permille) => {
                    let share = u32::from(member.weight) * permille;
                    usual.push(Candidate { index, share, backend: &member.backend });
                }
                None if condition.awaits_trial(draw.now) && condition.begin_trial() => {
                    return Some(Chosen { index, how: How::Trial });
                }
                None => {}
            }
        }
        if !usual.is_empty() {
            let index = self.balanced(terms.balance, draw, &usual)?;
            return Some(Chosen { index, how: How::Usual });
        }
        if tried.0 == 0 { self.last_resort(terms, draw) } else { None }
    }

    fn last_resort(&self, terms: Terms, draw: Draw) -> Option<Chosen> {
        let in_state = |wanted: fn(State) -> bool| {
            let untried = self.untried(Tried::default());
            untried.filter(move |(_, member)| wanted(member.backend.condition().state()))
        };
        if terms.ejected_if_all_are_out {
            let ejected = in_state(|state| matches!(state, State::Ejected | State::Trial));
            let candidates: Candidates<'_> = ejected
                .map(|(index, member)| Candidate { index, share: member.weight.into(), backend: &member.backend })
                .collect();
            if !candidates.is_empty() {
                let index = self.balanced(terms.balance, draw, &candidates)?;
                return Some(Chosen { index, how: How::LastResort });
            }
        }
        let unreachable = || in_state(|state| state == State::Unreachable);
        let skipped = spread(draw.random, unreachable().count() as u64) as usize;
        let mut from_there = unreachable().cycle().skip(skipped).take(unreachable().count());
        let (index, _) = from_there.find(|(_, member)| member.backend.condition().begin_trial())?;
        Some(Chosen { index, how: How::LastTrial })
    }

    fn untried(&self, tried: Tried) -> impl Iterator<Item = (usize, &Member)> + Clone {
        self.members.iter().enumerate().filter(move |(index, _)| !tried.has(*index))
    }

    fn balanced(&self, balance: Balance, draw: Draw, candidates: &Candidates<'_>) -> Option<usize> {
        match balance {
            Balance::LeastLoaded => least_loaded(candidates, draw.random),
            Balance::RoundRobin => self.round_robin(candidates),
            Balance::HashPrincipal => rendezvous(candidates, draw.key),
        }
    }

    fn round_robin(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let total: i64 = candidates.iter().map(|candidate| i64::from(candidate.share)).sum();
        let mut owed = self.owed.lock();
        for candidate in candidates {
            *owed.get_mut(candidate.index)? += i64::from(candidate.share);
        }
        // The first of equals, so that equal ones take turns in the order of the file.
        let most = candidates.iter().rev().max_by_key(|candidate| owed.get(candidate.index))?;
        *owed.get_mut(most.index)? -= total;
        Some(most.index)
    }
}

/// Two random ones, by share; the less loaded, of equals the first unless the other answers twice as fast.
fn least_loaded(candidates: &Candidates<'_>, random: u64) -> Option<usize> {
    let first = by_share(candidates, random & 0xffff_ffff, None)?;
    let Some(second) = by_share(candidates, random >> 32, Some(first.index)) else { return Some(first.index) };
    let load = |one: &Candidate<'_>, other: &Candidate<'_>| u64::from(one.backend.in_flight()) * u64::from(other.share);
    let (one, two) = (load(first, second), load(second, first));
    let faster = || second.backend.latency_micros().saturating_mul(2) < first.backend.latency_micros();
    Some(if two < one || two == one && faster() { second.index } else { first.index })
}

/// One of the candidates but `except`, each as likely as its share is large.
fn by_share<'c, 'a>(candidates: &'c Candidates<'a>, random: u64, except: Option<usize>) -> Option<&'c Candidate<'a>> {
    let others = || candidates.iter().filter(|candidate| Some(candidate.index) != except);
    let mut left = spread(random, others().map(|candidate| u64::from(candidate.share)).sum());
    others().find(|candidate| match left.checked_sub(u64::from(candidate.share)) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}

/// The candidate with the highest score for this key: weighted rendezvous hashing, -share / ln(hash).
fn rendezvous(candidates: &Candidates<'_>, key: u64) -> Option<usize> {
    let score = |candidate: &Candidate<'_>| {
        // 53 bits, in (0, 1): ln is then finite and below zero.
        let hash = ((mix(key ^ candidate.backend.hash()) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        f64::from(candidate.share) / -hash.ln()
    };
    let best = candidates.iter().map(|candidate| (score(candidate), candidate.index));
    best.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, index)| index)
}

/// What [`Draw::key`] is made of: FNV-1a, the same in every process, so that gateways agree.
pub fn key_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads every bit over all (the finaliser of SplitMix64).
pub fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Maps 32 random bits onto `0..n` (Lemire's multiplication).
fn spread(random: u64, n: u64) -> u64 {
    ((random & 0xffff_ffff) * n) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axon::Meter;
    use crate::axon::condition::Cause;
    use crate::axon::dial::Dialer;
    use crate::snapshot::settings::Eject;
    use crate::telemetry::Metrics;

    fn backends(weights: &[u8]) -> Backends {
        let metrics = Metrics::new("test").expect("metrics");
        let member = |(n, weight): (usize, &u8)| {
            let label = format!("127.0.0.1:{}", n + 1);
            let address = ([127, 0, 0, 1], n as u16 + 1).into();
            let backend = Backend::new(address, &label, &label, Dialer::plain(), 0, metrics.backend(&label));
            let backend = backend.expect("a backend");
            Member { backend, weight: *weight }
        };
        Backends::new(weights.iter().enumerate().map(member).collect())
    }

    const NOW: u64 = 1_000_000_000_000;

    fn draws() -> impl Iterator<Item = Draw> {
        let random = |n: u64| mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (1u64..).map(random).map(|random| Draw { random, key: mix(random), now: NOW })
    }

    fn terms(balance: Balance) -> Terms {
        Terms { balance, slow_start: Duration::from_secs(10), ejected_if_all_are_out: false }
    }

    fn usual(index: usize) -> Option<Chosen> {
        Some(Chosen { index, how: How::Usual })
    }

    fn shares(pool: &Backends, balance: Balance, n: usize) -> Vec<usize> {
        let mut shares = vec![0; pool.members().len()];
        for draw in draws().take(n) {
            shares[pool.choose(terms(balance), draw, Tried::default()).expect("one").index] += 1;
        }
        shares
    }

    /// Takes a member out of use.
    fn out(pool: &Backends, index: usize) {
        pool.members()[index].backend.condition().unconnected(NOW, None).expect("a change");
    }

    const EJECT: Eject = Eject { consecutive: 1, longest: Duration::from_secs(32), max_percent: 50 };

    fn eject(pool: &Backends, index: usize) {
        pool.members()[index].backend.condition().eject(NOW, Cause::InARow, &EJECT).expect("a change");
    }

    const ALL: [Balance; 3] = [Balance::LeastLoaded, Balance::RoundRobin, Balance::HashPrincipal];

    #[test]
    fn a_busy_backend_gets_only_what_nobody_else_could_take() {
        let pool = backends(&[1, 1]);
        let _busy = pool.members()[0].backend.occupy(NOW, false);
        assert_eq!(shares(&pool, Balance::LeastLoaded, 1000), [0, 1000]);
    }

    #[test]
    fn load_is_measured_by_weight() {
        let pool = backends(&[3, 1]);
        let large = &pool.members()[0].backend;
        let _busy: Vec<_> = (0..2).map(|_| large.occupy(NOW, false)).collect();
        let _one = pool.members()[1].backend.occupy(NOW, false);
        assert_eq!(shares(&pool, Balance::LeastLoaded, 1000), [1000, 0], "two of three are less than one of one");
    }

    #[test]
    fn of_two_equally_loaded_ones_the_much_faster_is_taken() {
        let pool = backends(&[1, 1]);
        pool.members().iter().zip([1000, 400]).for_each(|(member, micros)| member.backend.note_latency(micros));
        assert_eq!(shares(&pool, Balance::LeastLoaded, 1000), [0, 1000]);
        pool.members()[1].backend.note_latency(100_000);
        assert_eq!(shares(&pool, Balance::LeastLoaded, 1000), [1000, 0]);
    }

    #[test]
    fn every_balance_shares_by_weight() {
        for balance in ALL {
            for weights in [&[1, 1, 1][..], &[5, 1, 2], &[100, 1]] {
                let pool = backends(weights);
                let shares = shares(&pool, balance, 40_000);
                let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
                for (share, weight) in shares.iter().zip(weights) {
                    let due = 40_000.0 * f64::from(*weight) / f64::from(total);
                    assert!(
                        (*share as f64 - due).abs() < 5.0 * due.sqrt() + 1.0,
                        "{balance:?} {weights:?}: {shares:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn round_robin_is_smooth() {
        let pool = backends(&[5, 1, 1]);
        let draw = Draw { random: 0, key: 0, now: NOW };
        let next = || pool.choose(terms(Balance::RoundRobin), draw, Tried::default()).expect("one").index;
        let order: Vec<_> = (0..7).map(|_| next()).collect();
        // The example of nginx's change that brought it.
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn a_lost_backend_moves_only_its_own_keys() {
        let pool = backends(&[1, 3, 2, 1]);
        let hash = terms(Balance::HashPrincipal);
        let owner = |draw| pool.choose(hash, draw, Tried::default()).expect("one").index;
        let before: Vec<_> = draws().take(4000).map(owner).collect();
        out(&pool, 2);
        let mut moved_to = [0; 4];
        for (draw, before) in draws().zip(&before) {
            match (*before, owner(draw)) {
                (2, after) => moved_to[after] += 1,
                (before, after) => assert_eq!(before, after),
            }
        }
        assert!(moved_to[0] > 0 && moved_to[1] > moved_to[0] && moved_to[3] > 0, "{moved_to:?}");
        pool.members()[2].backend.condition().connected(NOW).expect("a change");
        let later = |draw: Draw| owner(Draw { now: NOW + 10_000_000_000, ..draw });
        assert_eq!(draws().take(4000).map(later).collect::<Vec<_>>(), before);
    }

    #[test]
    fn one_that_is_out_or_was_tried_is_passed_over() {
        for balance in ALL {
            let pool = backends(&[1, 1, 1]);
            out(&pool, 0);
            let mut tried = Tried::default();
            tried.add(1);
            for draw in draws().take(100) {
                assert_eq!(pool.choose(terms(balance), draw, tried), usual(2));
            }
            tried.add(2);
            assert_eq!(pool.choose(terms(balance), Draw { random: 7, key: 7, now: NOW }, tried), None);
        }
    }

    #[test]
    fn a_returning_backend_gets_less_than_its_share_under_every_balance() {
        for balance in ALL {
            let pool = backends(&[1, 1]);
            out(&pool, 0);
            pool.members()[0].backend.condition().connected(NOW).expect("a change");
            let shares = shares(&pool, balance, 11_000);
            assert!((800..1200).contains(&shares[0]), "a tenth at first, {balance:?}: {shares:?}");
        }
    }

    #[test]
    fn exactly_one_request_is_the_trial() {
        for balance in ALL {
            let pool = backends(&[1, 1]);
            eject(&pool, 0);
            let at = |now| pool.choose(terms(balance), Draw { random: 7, key: 7, now }, Tried::default());
            assert_eq!(at(NOW + 999_999_999), usual(1));
            assert_eq!(at(NOW + 1_000_000_000), Some(Chosen { index: 0, how: How::Trial }));
            assert_eq!(at(NOW + 1_000_000_000), usual(1));
        }
    }

    #[test]
    fn with_none_reachable_one_request_at_a_time_tries_one_and_no_second() {
        for balance in ALL {
            let (pool, draw) = (backends(&[1, 1, 1]), Draw { random: 7, key: 7, now: NOW });
            (0..3).for_each(|index| out(&pool, index));
            let first = pool.choose(terms(balance), draw, Tried::default()).expect("one");
            assert_eq!(first.how, How::LastTrial);
            let mut tried = Tried::default();
            tried.add(first.index);
            assert_eq!(pool.choose(terms(balance), draw, tried), None);
            let others = [(); 3].map(|()| pool.choose(terms(balance), draw, Tried::default()));
            assert_eq!(others.iter().flatten().count(), 2, "each backend has its one");
            pool.members()[first.index].backend.condition().end_trial();
            assert_eq!(pool.choose(terms(balance), draw, Tried::default()), Some(first));
            assert_eq!(Backends::new(Vec::new()).choose(terms(balance), draw, Tried::default()), None);
        }
    }

    #[test]
    fn one_that_was_ejected_is_better_than_none_where_that_is_allowed() {
        for balance in ALL {
            let (pool, draw) = (backends(&[1, 1]), Draw { random: 7, key: 7, now: NOW });
            eject(&pool, 0);
            out(&pool, 1);
            let allowed = Terms { ejected_if_all_are_out: true, ..terms(balance) };
            for _ in 0..3 {
                let chosen = pool.choose(allowed, draw, Tried::default());
                assert_eq!(chosen, Some(Chosen { index: 0, how: How::LastResort }));
            }
            let chosen = pool.choose(terms(balance), draw, Tried::default());
            assert_eq!(chosen, Some(Chosen { index: 1, how: How::LastTrial }));
        }
    }
}
