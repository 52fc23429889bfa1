//! How many requests begin in one turn of the event loop.
//!
//! A request is worked on a few times: read and admitted, written to Axon, answered. With a thousand requests ready
//! at once, a loop that takes all of them through each step in turn comes back to one only when the processor's caches
//! have lost it. So of those that wait for their beginning, [`EACH`] begin in a turn; the others stay unread, in order,
//! and cost nothing but their socket. Requests that have begun, and answers of Axon's, never wait here
//! (`docs/performance.md`).

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

/// What waits at one worker. A task that leaves meanwhile is called all the same, and its beginning is lost.
struct Worker {
    /// How many more may begin in this turn.
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
    /// Ready when a request may begin, which is at once unless many do. While it is not, the caller keeps its `place`,
    /// and its task is woken when it is.
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

/// Turns for as long as somebody waits. What yields is resumed when everything that was ready has been worked on and
/// the system was asked what is ready now.
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
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use futures_util::FutureExt;

    use super::*;

    async fn begin(turns: &Turns) {
        let mut place = None;
        poll_fn(|cx| turns.poll_begin(&mut place, cx)).await;
    }

    /// Lets all tasks come as far as they can in one turn.
    async fn one_turn() {
        yield_now().await;
    }

    #[tokio::test]
    async fn some_begin_in_each_turn_and_all_in_their_order() {
        const TASKS: usize = 5 * EACH + 1;
        let (turns, begun) = (Arc::new(Turns::default()), Arc::new(AtomicUsize::new(0)));
        for number in 0..TASKS {
            let (turns, begun) = (turns.clone(), begun.clone());
            tokio::spawn(async move {
                begin(&turns).await;
                assert_eq!(begun.fetch_add(1, Relaxed), number, "in the order in which they came");
            });
        }
        let mut steps = vec![0];
        while *steps.last().expect("one") < TASKS {
            one_turn().await;
            steps.push(begun.load(Relaxed));
        }
        assert!(steps.windows(2).all(|pair| pair[1] - pair[0] <= EACH), "{steps:?}");
    }

    #[tokio::test]
    async fn who_comes_when_few_do_never_waits() {
        let turns = Turns::default();
        for _ in 0..3 {
            for _ in 0..EACH {
                assert!(begin(&turns).now_or_never().is_some());
            }
            // The next one finds the turn full, and begins with the turn after it, as do all that follow.
            begin(&turns).await;
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
        let worker = turns.workers.get().expect("this worker's");
        while worker.lock().is_turning {
            one_turn().await;
        }
        assert_eq!(Arc::strong_count(worker), 1);
        assert!(begin(&turns).now_or_never().is_some());
    }
}
