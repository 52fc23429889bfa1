//! How many requests may be under way at once.
//!
//! `pingora_limits::inflight` counts by key in a sketch and after the fact; this is one exact number,
//! taken before and given back on drop, whichever way the request ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on requests in flight.
#[derive(Debug)]
pub struct Capacity {
    in_flight_max: usize,
    in_use: AtomicUsize,
}

impl Capacity {
    /// Room for `in_flight_max` requests; 0 admits none.
    pub fn new(in_flight_max: usize) -> Arc<Self> {
        Arc::new(Self { in_flight_max, in_use: AtomicUsize::new(0) })
    }

    /// A place, or `None` when all are taken; never waits.
    pub fn acquire(self: &Arc<Self>) -> Option<Permit> {
        // Relaxed: the number alone is shared, no other memory is published through it.
        let taken = |n: usize| (n < self.in_flight_max).then_some(n + 1);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        Some(Permit { capacity: Arc::clone(self) })
    }

    /// Places taken now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Places in all.
    pub fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }
}

/// One place, given back on drop.
#[derive(Debug)]
#[must_use = "dropping a permit gives its place back at once"]
pub struct Permit {
    capacity: Arc<Capacity>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.capacity.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn places_are_given_back_on_drop() {
        let capacity = Capacity::new(2);
        let first = capacity.acquire().unwrap();
        let second = capacity.acquire().unwrap();
        assert!(capacity.acquire().is_none());
        assert_eq!(capacity.in_use(), 2);
        drop(first);
        assert!(capacity.acquire().is_some());
        drop(second);
        assert_eq!(capacity.in_use(), 0);
        assert!(Capacity::new(0).acquire().is_none());
    }

    #[test]
    fn a_place_comes_back_when_its_holder_panics() {
        let capacity = Capacity::new(1);
        let held = Arc::clone(&capacity);
        let holder = thread::spawn(move || {
            let _permit = held.acquire().unwrap();
            panic!("on purpose");
        });
        assert!(holder.join().is_err());
        assert_eq!(capacity.in_use(), 0);
    }

    #[test]
    fn threads_never_hold_more_than_there_is_and_always_fill_it() {
        let capacity = Capacity::new(10);
        let all_tried = Barrier::new(4);
        let held: usize = thread::scope(|scope| {
            let take = || {
                let permits: Vec<_> = (0..10).filter_map(|_| capacity.acquire()).collect();
                all_tried.wait();
                permits.len()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(held, 10);
        assert_eq!(capacity.in_use(), 0);
    }
}
