//! The credentials that requests to Axon are signed with, where they come from AWS's standard chain: resolved before
//! the first request, and replaced before they expire.
//!
//! Invariant: credentials stay in use until newer ones are there or they expire; then requests are refused, never
//! sent unsigned.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use crate::auth::{Credentials, CurrentCredentials};
use crate::aws::pace::{Dice, TICK, elapsed};
use crate::aws::{Aws, Renewal, credentials};
use crate::axon::{CredentialsByUpstream, Upstream};
use crate::clock::{Clock, Moment};
use crate::gateway::Refused;
use crate::snapshot::Snapshot;
use crate::snapshot::settings::{self, Settings, SignSource};
use crate::telemetry::Metrics;

/// What the keepers of credentials share.
#[derive(Clone)]
pub struct World {
    pub aws: Aws,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    /// Random, so that instances do not all ask at once.
    pub seed: u64,
}

/// The credentials of every upstream that takes the standard chain. Those of the predecessor go on where the
/// block did not change; all others are resolved, within a bound.
///
/// # Errors
/// [`Refused::Parts`]: one line for each upstream that has none, with the sources that were tried.
pub async fn acquire(
    aws: &Aws,
    settings: &Settings,
    predecessor: Option<&Snapshot>,
) -> Result<CredentialsByUpstream, Refused> {
    let chained = settings.upstreams.iter().filter_map(|upstream| match &upstream.sign {
        Some(sign) if matches!(sign.source, SignSource::Default) => Some((&upstream.name, sign)),
        Some(_) | None => None,
    });
    let resolved = join_all(chained.map(|(name, sign)| async move {
        if let Some(known) = predecessor.and_then(|old| known(old, name, sign)) {
            return Ok((name.clone(), known));
        }
        match credentials::resolve(aws, &sign.region).await {
            Ok(first) => Ok((name.clone(), CurrentCredentials::new(first))),
            Err(why) => {
                Err(format!("{}: {why}; set one of these up, or write `credentials: {{ keys: file }}`", sign.origin))
            }
        }
    }))
    .await;
    let (found, missing): (Vec<_>, Vec<_>) = resolved.into_iter().partition(Result::is_ok);
    let missing: Vec<String> = missing.into_iter().filter_map(Result::err).collect();
    if missing.is_empty() { Ok(found.into_iter().flatten().collect()) } else { Err(Refused::Parts(missing)) }
}

/// The credentials of the upstream of that name, if its block is the same.
fn known(old: &Snapshot, name: &str, sign: &settings::Sign) -> Option<Arc<CurrentCredentials>> {
    let upstream = chained(old).find(|upstream| upstream.settings.name == *name)?;
    let before = upstream.settings.sign.as_ref()?;
    let same = before.region == sign.region && before.service == sign.service;
    same.then(|| upstream.signer.as_ref().map(|signer| signer.credentials().clone()))?
}

/// The upstreams that take the standard chain.
fn chained(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Upstream>> {
    snapshot.upstreams.iter().filter(|upstream| {
        upstream.settings.sign.as_ref().is_some_and(|sign| matches!(sign.source, SignSource::Default))
    })
}

/// Keeps the credentials of a snapshot current that its predecessor did not have, and forgets those that are gone.
pub fn keep(new: &Snapshot, old: Option<&Snapshot>, world: &World, keepers: &mut JoinSet<()>) {
    while keepers.try_join_next().is_some() {}
    let held = |snapshot: &Snapshot| -> Vec<(String, Arc<CurrentCredentials>)> {
        let of = |upstream: &Arc<Upstream>| {
            let signer = upstream.signer.as_ref()?;
            Some((upstream.settings.name.clone(), signer.credentials().clone()))
        };
        chained(snapshot).filter_map(of).collect()
    };
    let before = old.map(held).unwrap_or_default();
    let now = held(new);
    for (name, _) in before.iter().filter(|(name, _)| !now.iter().any(|(kept, _)| kept == name)) {
        world.metrics.retire_credentials(name);
    }
    for upstream in chained(new) {
        let (Some(sign), Some(signer)) = (&upstream.settings.sign, &upstream.signer) else { continue };
        let credentials = signer.credentials();
        if before.iter().any(|(_, known)| Arc::ptr_eq(known, credentials)) {
            continue;
        }
        let name = upstream.settings.name.clone();
        world.metrics.credentials(&name, Renewal::Changed, credentials.expires());
        let keeper = Keeper {
            dice: Dice::new(world.seed),
            world: world.clone(),
            upstream: name,
            region: sign.region.clone(),
            current: Arc::downgrade(credentials),
            began: world.clock.now(),
        };
        keepers.spawn(keeper.run());
    }
}

/// Replaces one upstream's credentials for as long as anybody signs with them.
struct Keeper {
    world: World,
    upstream: String,
    region: String,
    current: Weak<CurrentCredentials>,
    began: Moment,
    dice: Dice,
}

impl Keeper {
    async fn run(mut self) {
        let mut asked = self.began;
        let mut failures = 0;
        let mut wait = None;
        loop {
            let Some(held) = self.current.upgrade().map(|current| current.latest()) else { return };
            let due = *wait.get_or_insert_with(|| credentials::good_for(&held, asked, &mut self.dice));
            tokio::time::sleep(TICK).await;
            let now = self.world.clock.now();
            if elapsed(asked, now) < due {
                continue;
            }
            asked = now;
            let resolved = credentials::resolve(&self.world.aws, &self.region).await;
            let Some(current) = self.current.upgrade() else { return };
            let expired = |new: &Credentials| new.expires().is_some_and(|at| at <= now.unix_seconds());
            match resolved {
                Ok(new) if !expired(&new) => {
                    failures = 0;
                    wait = None;
                    self.replace(&current, &held, new);
                }
                Ok(_) => {
                    failures += 1;
                    wait = Some(credentials::again_in(failures, &mut self.dice));
                    self.failed(&current, "what was given has expired already", now);
                }
                Err(why) => {
                    failures += 1;
                    wait = Some(credentials::again_in(failures, &mut self.dice));
                    self.failed(&current, &why, now);
                }
            }
        }
    }

    fn replace(&self, current: &CurrentCredentials, before: &Credentials, new: Credentials) {
        let changed = new.access_key_id() != before.access_key_id() || new.expires() != before.expires();
        let renewal = if changed { Renewal::Changed } else { Renewal::Unchanged };
        if changed {
            log::info!("{}: new signing credentials, {}", self.upstream, new.access_key_id());
        }
        self.world.metrics.credentials(&self.upstream, renewal, new.expires());
        current.replace(new);
    }

    fn failed(&self, current: &CurrentCredentials, why: &str, now: Moment) {
        match current.at(now) {
            Ok(_) => log::warn!("{}: signing credentials were not replaced: {why}", self.upstream),
            Err(_) => log::error!("{}: signing credentials have expired, requests are refused: {why}", self.upstream),
        }
        self.world.metrics.credentials(&self.upstream, Renewal::Failed, current.expires());
    }
}
