//! How many requests begin in one turn of the event loop.
//!
//! A request is worked on a few times: read and admitted, written to Axon, answered. With a thousand requests ready
//! at once, a loop that takes all of them through each step in turn comes back to one only when the processor's caches
//! have lost it. So of those that wait for their beginning, [`EACH`] begin in a turn; the others stay unread, in order,
//! and cost nothing but their socket. Requests that have begun, and answers of Axon's, never wait here
//! (`docs/performance.md`).
//!
//! With one thread a turn lasts until everything that was ready has been worked on. With several, each has turns of its
//! own, which tokio ends after 61 steps at the latest, and the order is approximate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use thread_local::ThreadLocal;
use tokio::task::yield_now;

/// Enough that writes to one peer leave one behind the other, few enough that their state stays in a cache of 1 MiB.
const EACH: usize = 32;

/// The beginnings of all workers; each worker has turns of its own.
#[derive(Default)]
pub struct Turns {
    workers: ThreadLocal<Arc<Mutex<Worker>>>,
}

/// What waits at one worker. The beginning of a task that has left is lost.
struct Worker {
    /// How many more may begin before a turn has to end.
    left: usize,
    waiting: VecDeque<Waker>,
    /// The number of the first that waits: all before it may begin.
    first: u64,
    /// Whether a task waits for the end of the turn.
    is_turning: bool,
}

/// A place among those that wait.
pub struct Place {
    worker: Arc<Mutex<Worker>>,
    number: u64,
}

impl Turns {
    /// Ready when a request may begin. For most that is at once; where few begin, one in so many sees to the end of a
    /// turn. While it is not ready, the caller keeps its `place`, and its task is woken when it is.
    pub fn poll_begin(&self, place: &mut Option<Place>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(taken) = place {
            if taken.worker.lock().first <= taken.number {
                return Poll::Pending;
            }
            *place = None;
            return Poll::Ready(());
        }
        let shared = self.workers.get_or_default();
        let mut worker = shared.lock();
        if worker.left > 0 {
            worker.left -= 1;
            return Poll::Ready(());
        }
        *place = Some(Place { worker: shared.clone(), number: worker.first + worker.waiting.len() as u64 });
        worker.waiting.push_back(cx.waker().clone());
        if !worker.is_turning {
            worker.is_turning = true;
            tokio::spawn(turn(shared.clone()));
        }
        Poll::Pending
    }
}

/// Turns for as long as somebody waits. What yields is resumed after the system was asked what is ready now.
async fn turn(shared: Arc<Mutex<Worker>>) {
    loop {
        yield_now().await;
        let mut worker = shared.lock();
        let begin = worker.waiting.len().min(EACH);
        worker.left = EACH - begin;
        worker.first += begin as u64;
        worker.waiting.drain(..begin).for_each(Waker::wake);
        if begin == 0 {
            worker.is_turning = false;
            return;
        }
    }
}

impl Default for Worker {
    fn default() -> Self {
        Self { left: EACH, waiting: VecDeque::new(), first: 0, is_turning: false }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    async fn begin(turns: &Turns) {
        let mut place = None;
        let begun = poll_fn(|cx| turns.poll_begin(&mut place, cx));
        tokio::time::timeout(Duration::from_secs(10), begun).await.expect("its turn");
    }

    /// Lets all tasks come as far as they can in one turn.
    async fn one_turn() {
        yield_now().await;
    }

    /// Tasks that begin and write down their numbers.
    fn spawn(turns: &Arc<Turns>, begun: &Arc<Mutex<Vec<usize>>>, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let (turns, begun) = (turns.clone(), begun.clone());
            tokio::spawn(async move {
                begin(&turns).await;
                begun.lock().push(number);
            });
        }
    }

    #[tokio::test]
    async fn some_begin_in_each_turn_and_all_in_their_order() {
        let (turns, begun) = (Arc::new(Turns::default()), Arc::new(Mutex::new(Vec::new())));
        spawn(&turns, &begun, 0..5 * EACH + 7);
        let mut late = 5 * EACH + 7;
        let mut before = 0;
        for _ in 0..100 {
            one_turn().await;
            let now = begun.lock().len();
            assert!(now - before <= EACH, "{before} and then {now}");
            before = now;
            if now < 4 * EACH {
                // Whoever comes while others wait passes none of them.
                spawn(&turns, &begun, late..late + 1);
                late += 1;
            }
        }
        assert!(late > 5 * EACH + 7);
        assert_eq!(*begun.lock(), (0..late).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn nobody_begins_by_asking_again() {
        let turns = Turns::default();
        for _ in 0..EACH {
            assert!(begin(&turns).now_or_never().is_some());
        }
        let mut place = None;
        for _ in 0..3 {
            let asked = poll_fn(|cx| Poll::Ready(turns.poll_begin(&mut place, cx))).await;
            assert!(asked.is_pending());
        }
        poll_fn(|cx| turns.poll_begin(&mut place, cx)).await;
    }

    #[tokio::test]
    async fn where_few_begin_one_in_so_many_waits_for_one_turn() {
        let turns = Turns::default();
        for _ in 0..3 {
            for _ in 0..EACH {
                assert!(begin(&turns).now_or_never().is_some());
            }
            let before = Cell::new(0);
            let counting = async {
                loop {
                    one_turn().await;
                    before.set(before.get() + 1);
                }
            };
            tokio::select! { biased; () = begin(&turns) => {}, () = counting => {} }
            assert!((1..3).contains(&before.get()), "{before:?}");
            one_turn().await;
            one_turn().await;
        }
    }

    #[tokio::test]
    async fn who_leaves_holds_nobody_up() {
        let turns = Turns::default();
        for _ in 0..EACH {
            begin(&turns).await;
        }
        for _ in 0..3 * EACH {
            assert!(begin(&turns).now_or_never().is_none(), "it leaves");
        }
        begin(&turns).await;
    }

    #[tokio::test]
    async fn no_task_is_left_when_nobody_waits() {
        let turns = Turns::default();
        for _ in 0..2 * EACH {
            begin(&turns).await;
        }
        for _ in 0..3 {
            one_turn().await;
        }
        let worker = turns.workers.get().expect("this worker's");
        assert_eq!((worker.lock().is_turning, Arc::strong_count(worker)), (false, 1));
        assert!(begin(&turns).now_or_never().is_some());
    }
}
