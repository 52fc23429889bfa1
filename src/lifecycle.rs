//! Signals: SIGHUP reloads, SIGTERM and SIGINT drain, a second one ends at once.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::config::Colour;
use crate::gateway::{Orbit, Refused, Reloaded};

/// The signals of a running gateway; made before anything is announced, so that none is missed.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Registers the handlers. From here on SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Runs until the gateway has drained; says whether every request was finished.
    pub async fn serve(mut self, orbit: &Arc<Orbit>) -> bool {
        // In a task of its own: a file system that hangs must not keep the other signals waiting. However many
        // hang-ups come meanwhile, one more reload follows.
        let wanted = Arc::new(Notify::new());
        let reloads = tokio::spawn({
            let (orbit, wanted) = (orbit.clone(), wanted.clone());
            async move {
                loop {
                    wanted.notified().await;
                    report(orbit.reload().await);
                }
            }
        });
        loop {
            tokio::select! {
                _ = self.hangup.recv() => wanted.notify_one(),
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        log::info!("draining");
        reloads.abort();
        tokio::select! {
            finished = orbit.drain() => {
                log::info!("drained, {}", if finished { "every request finished" } else { "some requests cut off" });
                finished
            }
            () = self.again() => {
                log::warn!("told twice to stop, ending at once");
                false
            }
        }
    }

    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn report(result: Result<Reloaded, Refused>) {
    match result {
        Ok(Reloaded::Unchanged { generation }) => {
            log::info!("reload: nothing changed, generation {generation} goes on")
        }
        Ok(Reloaded::Accepted { generation, restart }) => {
            log::info!("reload: generation {generation} is in force");
            for name in restart {
                log::warn!("reload: `{name}` changed, which needs a restart");
            }
        }
        Err(refused) => {
            log::error!("reload refused, the old configuration goes on");
            for line in refused.to_string().lines() {
                log::error!("reload: {line}");
            }
        }
    }
}

/// A refusal as a person at a terminal reads it.
pub fn explain(refused: &Refused, colour: Colour) -> String {
    match refused {
        Refused::Configuration(problems) => problems.render(colour),
        Refused::Parts(_) | Refused::Bind(..) | Refused::System(_) => format!("error: {refused}\n"),
    }
}
