//! Key lists from Secrets Manager: fetched before the first request and at every reload, and asked for again in
//! the background. A new version goes the way of a reload.
//!
//! Invariant: what was last found valid stays in force until something newer is.
//! Invariant: nothing older replaces something newer: an answer is dropped if a reload overtook it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::aws::pace::{self, Dice, TICK, elapsed};
use crate::aws::{Aws, CALL_TIMEOUT, Renewal, secrets};
use crate::clock::Moment;
use crate::gateway::{Refused, Reloaded, Running, SharedEnvironment, load};
use crate::snapshot::settings::{Fetched, Loaded, ManagedSecret, Settings, Unfetched, Versions};

/// A reload waits no longer than that for secrets that it can do without.
const RELOAD_PATIENCE: Duration = Duration::from_secs(5);

type Outcome = Result<Arc<Versions>, Unfetched>;

/// Reads a configuration with everything that it names, for the first time.
///
/// # Errors
/// [`Refused::Configuration`], what could not be fetched included.
pub async fn read(config: &Path, environment: &SharedEnvironment, aws: &Aws) -> Result<(Loaded, Fetched), Refused> {
    let secrets = secrets_of(config, environment).await;
    let outcomes = fetch(aws, &secrets, CALL_TIMEOUT * 2).await;
    let fetched =
        secrets.into_iter().zip(outcomes).fold(Fetched::default(), |all, (secret, outcome)| all.with(secret, outcome));
    let loaded = load(config, environment, &fetched).await?;
    Ok((loaded, fetched))
}

impl Running {
    /// See [`crate::gateway::Orbit::reload`].
    pub(crate) async fn reload(&self) -> Result<Reloaded, Refused> {
        let mut held = self.reloading.lock().await;
        let secrets = secrets_of(&self.parts.config, &self.parts.environment).await;
        let outcomes = fetch(&self.world.aws, &secrets, RELOAD_PATIENCE).await;
        let asked: Vec<_> = secrets.into_iter().zip(outcomes).collect();
        let known = asked.iter().fold(Fetched::default(), |known, (secret, _)| match held.versions(secret) {
            Some(versions) => known.with(secret.clone(), Ok(versions.clone())),
            None => known,
        });
        self.renew(&mut held, known, asked).await
    }

    /// Counts what was fetched at boot, which is all that the configuration names.
    pub(crate) fn note_boot(&self) {
        let snapshot = self.gateway.snapshot();
        snapshot.settings.auth.managed_secrets().for_each(|secret| self.note(secret, Renewal::Changed));
    }

    /// Puts what was asked for in the place of what is `known`, and swaps the configuration.
    async fn renew(
        &self,
        held: &mut Fetched,
        known: Fetched,
        asked: Vec<(ManagedSecret, Outcome)>,
    ) -> Result<Reloaded, Refused> {
        let mut next = known.clone();
        for (secret, outcome) in &asked {
            match outcome {
                Err(unfetched) if known.versions(secret).is_some() => {
                    log::warn!("{} was not fetched, its keys stay as they are: {}", secret.arn, unfetched.why);
                }
                outcome => next = next.with(secret.clone(), outcome.clone()),
            }
        }
        let swapped = self.swap(&next).await;
        for (secret, outcome) in &asked {
            let renewal = match (outcome, known.versions(secret), &swapped) {
                (Err(_), _, _) => Renewal::Failed,
                (Ok(new), Some(old), _) if new.is_same(old) => Renewal::Unchanged,
                (Ok(_), _, Ok(_)) => Renewal::Changed,
                (Ok(_), _, Err(_)) => Renewal::Refused,
            };
            self.note(secret, renewal);
        }
        if swapped.is_ok() {
            let snapshot = self.gateway.snapshot();
            let configured = |arn: &str| snapshot.settings.auth.managed_secrets().any(|secret| secret.arn == arn);
            let gone = held.arns().filter(|arn| !configured(arn));
            gone.for_each(|arn| self.gateway.telemetry.metrics.retire_key_source(arn));
            *held = next;
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        swapped
    }

    fn note(&self, secret: &ManagedSecret, renewal: Renewal) {
        self.gateway.telemetry.metrics.key_source(&secret.arn, renewal, self.gateway.clock.now());
    }
}

/// When a secret is asked for again.
struct Due {
    secret: ManagedSecret,
    at: Moment,
    wait: Duration,
    failures: u32,
}

/// Asks for new versions for as long as it runs.
pub(crate) async fn watch(running: Arc<Running>, began: Moment) {
    let mut dice = Dice::new(running.parts.seed);
    let mut plan: Vec<Due> = Vec::new();
    let mut looked = began;
    loop {
        tokio::time::sleep(TICK).await;
        let now = running.gateway.clock.now();
        let configured: Vec<ManagedSecret> =
            running.gateway.snapshot().settings.auth.managed_secrets().cloned().collect();
        plan.retain(|due| configured.contains(&due.secret));
        for secret in configured {
            if !plan.iter().any(|due| due.secret == secret) {
                let wait = pace::after_success(secret.refresh, &mut dice);
                // It was fetched since the clock was last looked at.
                plan.push(Due { secret, at: looked, wait, failures: 0 });
            }
        }
        let due: Vec<ManagedSecret> =
            plan.iter().filter(|due| elapsed(due.at, now) >= due.wait).map(|due| due.secret.clone()).collect();
        looked = now;
        if due.is_empty() {
            continue;
        }
        let failed = ask(&running, &due).await;
        for due in plan.iter_mut().filter(|planned| due.contains(&planned.secret)) {
            due.at = now;
            due.failures = if failed.contains(&due.secret) { due.failures.saturating_add(1) } else { 0 };
            due.wait = match due.failures {
                0 => pace::after_success(due.secret.refresh, &mut dice),
                failures => pace::after_failure(due.secret.refresh, failures, &mut dice),
            };
        }
    }
}

/// Asks for these secrets and puts what is new in force. Those come back that are to be asked for again soon: they
/// could not be fetched, or a reload overtook the answer, which may have been newer than what the reload got.
async fn ask(running: &Running, secrets: &[ManagedSecret]) -> Vec<ManagedSecret> {
    let replaced = running.replaced.load(Ordering::Relaxed);
    let outcomes = fetch(&running.world.aws, secrets, CALL_TIMEOUT * 2).await;
    let mut held = running.reloading.lock().await;
    if running.replaced.load(Ordering::Relaxed) != replaced {
        return secrets.to_vec();
    }
    let mut failed = Vec::new();
    let mut new = Vec::new();
    for (secret, outcome) in secrets.iter().cloned().zip(outcomes) {
        match (&outcome, held.versions(&secret)) {
            (Ok(now), Some(before)) if now.is_same(before) => running.note(&secret, Renewal::Unchanged),
            (Ok(_), _) => new.push((secret, outcome)),
            (Err(unfetched), _) => {
                log::warn!(
                    "{} was not fetched, its keys stay as they are: {} ({})",
                    secret.arn,
                    unfetched.why,
                    unfetched.help
                );
                running.note(&secret, Renewal::Failed);
                failed.push(secret);
            }
        }
    }
    if new.is_empty() {
        return failed;
    }
    let names = new.iter().map(|(secret, _)| secret.arn.as_str()).collect::<Vec<_>>().join(", ");
    let known = held.clone();
    // The files are read again, and may name another secret by now.
    let mut others = secrets_of(&running.parts.config, &running.parts.environment).await;
    others.retain(|secret| known.get(secret).is_none());
    let outcomes = fetch(&running.world.aws, &others, RELOAD_PATIENCE).await;
    new.extend(others.into_iter().zip(outcomes));
    match running.renew(&mut held, known, new).await {
        Ok(Reloaded::Accepted { generation, .. } | Reloaded::Unchanged { generation }) => {
            log::info!("{names}: a new version, generation {generation} is in force");
        }
        Err(refused) => {
            log::error!("{names}: the new version is refused, the old configuration goes on");
            refused.to_string().lines().for_each(|line| log::error!("{names}: {line}"));
        }
    }
    failed
}

/// The secrets that the main file names. Whatever is wrong with it is said when all of it is read.
async fn secrets_of(config: &Path, environment: &SharedEnvironment) -> Vec<ManagedSecret> {
    let (config, environment) = (config.to_owned(), environment.clone());
    let read = tokio::task::spawn_blocking(move || Settings::outline(&config, &*environment));
    read.await.ok().and_then(Result::ok).map(|outline| outline.secrets).unwrap_or_default()
}

/// Asks for all of them at once, at most `patience` long.
async fn fetch(aws: &Aws, secrets: &[ManagedSecret], patience: Duration) -> Vec<Outcome> {
    let late = || Unfetched {
        why: "no answer in time".to_owned(),
        help: "check that Secrets Manager can be reached from here",
    };
    join_all(secrets.iter().map(|secret| async move {
        timeout(patience, secrets::fetch(aws, secret)).await.unwrap_or_else(|_| Err(late()))
    }))
    .await
}
