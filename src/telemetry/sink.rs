//! Log bytes on their way out, never waiting on the request threads.
//!
//! Lines are appended to a bounded buffer under a lock that is held for a copy; one thread takes the
//! whole buffer and writes it, so that a thousand lines cost one system call. `tracing-appender` was
//! measured in this place: a message per line wakes its thread per line, which costs more CPU than the
//! rest of the logging. What does not fit is dropped and counted, never waited for.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Bytes that may wait for the writer; a line beyond is dropped.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a line may wait for company.
const LINGER: Duration = Duration::from_millis(20);

/// How long the last lines may take to leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// A handle to the log; clones write to the same one.
#[derive(Clone)]
pub struct Sink {
    shared: Arc<Shared>,
}

struct Shared {
    waiting: Mutex<Vec<u8>>,
    awake: Condvar,
    closed: AtomicBool,
    dropped: AtomicU64,
}

/// Writes out what is left when it is dropped.
pub struct SinkGuard {
    shared: Arc<Shared>,
    finished: Mutex<Receiver<()>>,
}

impl Sink {
    /// Starts the writing thread over `out`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(out: impl Write + Send + 'static) -> std::io::Result<(Self, SinkGuard)> {
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Vec::with_capacity(64 * 1024)),
            awake: Condvar::new(),
            closed: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        });
        let (ended, finished) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("orbit-log".to_owned()).spawn({
            let shared = shared.clone();
            move || {
                drain(&shared, out);
                let _ = ended.send(());
            }
        })?;
        Ok((Self { shared: shared.clone() }, SinkGuard { shared, finished: Mutex::new(finished) }))
    }

    /// Appends whole lines.
    pub fn append(&self, lines: &[u8]) {
        let mut waiting = self.shared.waiting.lock();
        let before = waiting.len();
        if before >= WAITING_BYTES_MAX {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.extend_from_slice(lines);
        if before == 0 && !waiting.is_empty() {
            self.shared.awake.notify_one();
        }
    }

    /// Writes that were dropped because the writer could not keep up.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// For `env_logger`, whose records are whole lines.
impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        {
            let _waiting = self.shared.waiting.lock();
            self.shared.closed.store(true, Ordering::SeqCst);
            self.shared.awake.notify_one();
        }
        // A reader that never reads must not keep the process from ending.
        let _ = self.finished.get_mut().recv_timeout(FAREWELL);
    }
}

fn drain(shared: &Shared, mut out: impl Write) {
    let mut taken = Vec::with_capacity(64 * 1024);
    loop {
        let closed = {
            let mut waiting = shared.waiting.lock();
            while waiting.is_empty() && !shared.closed.load(Ordering::SeqCst) {
                shared.awake.wait(&mut waiting);
            }
            if !shared.closed.load(Ordering::SeqCst) {
                // Lines that come within this time share the write.
                shared.awake.wait_for(&mut waiting, LINGER);
            }
            std::mem::swap(&mut *waiting, &mut taken);
            shared.closed.load(Ordering::SeqCst)
        };
        // A log that cannot be written must not stop the gateway; the lines count as dropped.
        if out.write_all(&taken).and_then(|()| out.flush()).is_err() {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken.clear();
        taken.shrink_to(256 * 1024);
        if closed && shared.waiting.lock().is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Channel(mpsc::Sender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_written_before_the_guard_is_dropped_comes_out_in_order() {
        let (sender, receiver) = mpsc::channel();
        let (mut sink, guard) = Sink::start(Channel(sender)).expect("start");
        for n in 0..1000 {
            writeln!(sink, "{n}").expect("write");
        }
        drop(guard);
        let text: Vec<u8> = receiver.iter().flatten().collect();
        let want: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(text).expect("text"), want);
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_no_waiting() {
        let (sender, receiver) = mpsc::sync_channel::<()>(0);
        struct Stuck(mpsc::SyncSender<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.send(());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (sink, guard) = Sink::start(Stuck(sender)).expect("start");
        let line = [b'x'; 64 * 1024];
        for _ in 0..200 {
            sink.append(&line);
        }
        assert!(sink.dropped() > 0);
        // The writer is still stuck; the guard gives up on it, or this test would hang.
        drop(guard);
        drop(receiver);
    }
}
