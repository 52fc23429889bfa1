//! Which backend takes a request: the less loaded of two random ones.
//!
//! Two random choices are nearly as even as a full search and have no herd: many gateways that all see
//! the same least loaded backend do not all fall upon it (Mitzenmacher, 2001).

use std::sync::Arc;

use crate::axon::Backend;

/// The backends that a request has tried, by index; endpoints are at most 64.
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

/// The less loaded of two random untried reachable backends, by index.
///
/// When none is reachable, one is tried all the same, but only as a request's first: a dead Axon must
/// not cost each request a connect timeout per endpoint.
pub fn choose(backends: &[Arc<Backend>], tried: Tried, random: u64) -> Option<usize> {
    let usable = |(index, backend): &(usize, &Arc<Backend>)| !tried.has(*index) && backend.reachable();
    let candidates = backends.iter().enumerate().filter(usable).count();
    if candidates == 0 {
        let first = tried.0 == 0 && !backends.is_empty();
        return first.then(|| spread(random, backends.len()));
    }
    let nth = |n: usize| backends.iter().enumerate().filter(usable).nth(n);
    let first = spread(random, candidates);
    // The second is another one wherever there are two.
    let second = (first + 1 + spread(random >> 32, candidates.saturating_sub(1).max(1))) % candidates;
    let (one, two) = (nth(first)?, nth(second)?);
    Some(if two.1.in_flight() < one.1.in_flight() { two.0 } else { one.0 })
}

/// Maps random bits onto `0..n` (Lemire's multiplication).
fn spread(random: u64, n: usize) -> usize {
    (((random & 0xffff_ffff) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::axon::dial::Dialer;
    use crate::telemetry::Metrics;

    fn backends(n: u16) -> Vec<Arc<Backend>> {
        let metrics = Metrics::new("test").expect("metrics");
        (1..=n)
            .map(|port| {
                let label = format!("127.0.0.1:{port}");
                Backend::new(([127, 0, 0, 1], port).into(), &label, Dialer::plain(), metrics.backend(&label))
                    .expect("a backend")
            })
            .collect()
    }

    /// A fixed sequence that spreads well (SplitMix64).
    fn randoms() -> impl Iterator<Item = u64> {
        (1u64..).map(|n| {
            let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z ^ (z >> 31)
        })
    }

    #[test]
    fn a_busy_backend_gets_only_what_nobody_else_could_take() {
        let backends = backends(2);
        let _busy = backends[0].occupy();
        for random in randoms().take(1000) {
            assert_eq!(choose(&backends, Tried::default(), random), Some(1));
        }
    }

    #[test]
    fn equal_backends_share_evenly() {
        let backends = backends(3);
        let mut hits = [0; 3];
        for random in randoms().take(30_000) {
            hits[choose(&backends, Tried::default(), random).expect("one")] += 1;
        }
        assert!(hits.iter().all(|h| (9_000..11_000).contains(h)), "{hits:?}");
    }

    #[test]
    fn unreachable_and_tried_ones_are_passed_over() {
        let backends = backends(3);
        backends[0].set_reachable(false);
        let mut tried = Tried::default();
        tried.add(1);
        for random in randoms().take(100) {
            assert_eq!(choose(&backends, tried, random), Some(2));
        }
        tried.add(2);
        assert_eq!(choose(&backends, tried, 7), None);
    }

    #[test]
    fn with_none_reachable_one_is_tried_and_no_second() {
        let backends = backends(3);
        backends.iter().for_each(|b| {
            b.set_reachable(false);
        });
        let index = choose(&backends, Tried::default(), 7).expect("one");
        let mut tried = Tried::default();
        tried.add(index);
        assert_eq!(choose(&backends, tried, 7), None);
        assert_eq!(choose(&[], Tried::default(), 7), None);
    }
}
