//! The configuration as requests see it: built whole, published by swapping one pointer.

pub mod keys;
pub mod policies;
pub mod settings;

use std::sync::Arc;

use crate::auth::replay::{Guard, Mode, Replays};
use crate::auth::{Key, KeyEntry, KeyProblem, Keyring, Rules};
use crate::axon::{CredentialsByUpstream, Meter, Upstreams};
use crate::clock::{Clock, Moment};
use crate::gate::{Book, Gates};
use crate::governance::{Policies, PolicyIndex};
use crate::limit::{Capacity, Rate, Window, admit_all};
use crate::snapshot::settings::{Hints, KeySetting, Loaded, Presigned, Replay, Settings, Stage, UnsignedPayload};

/// One configuration, complete. A request holds on to the one it began with.
pub struct Snapshot {
    /// Counted from 1 by accepted configurations.
    pub generation: u64,
    /// Over every file that was read.
    pub sha256: [u8; 32],
    pub settings: Settings,
    pub rules: Rules,
    pub keyring: Keyring,
    /// `None` while signatures may come again.
    pub replay: Option<Guard>,
    pub gates: Gates,
    pub policies: Policies,
    policy_windows: Vec<Vec<Arc<Window>>>,
    /// Places for requests in flight.
    pub capacity: Arc<Capacity>,
    /// Places for requests whose body has to be waited for, before anything is known of its sender.
    pub waiting: Arc<Capacity>,
    pub upstreams: Upstreams,
    /// How often the doctor may be asked what to tell a caller; `None` by `auth.hints`.
    pub hints: Option<Arc<Window>>,
    book: Book,
}

/// One key of a configuration, as operators are told about it.
#[derive(Clone)]
pub struct KeyUse {
    pub key: Arc<Key>,
    pub stage: Stage,
}

/// What a snapshot needs besides the settings.
pub struct Ingredients<'a> {
    pub predecessor: Option<&'a Snapshot>,
    /// Of the upstreams that sign with AWS's standard chain.
    pub credentials: &'a CredentialsByUpstream,
    /// What counts backends.
    pub meter: &'a Arc<dyn Meter>,
    /// What certificates are verified by.
    pub clock: &'a Arc<dyn Clock>,
    /// Random, so that nobody outside can predict where tables keep an address.
    pub seed: u64,
}

impl Snapshot {
    /// Builds a configuration, adopting the counters, backends and idle connections of its predecessor
    /// where their settings did not change.
    ///
    /// # Errors
    /// Every complaint, one line each, for the operator.
    pub fn build(loaded: Loaded, ingredients: &Ingredients<'_>) -> Result<Self, Vec<String>> {
        let Loaded { settings, sha256, .. } = loaded;
        let predecessor = ingredients.predecessor;
        let mut complaints = Vec::new();
        let mut book = Book::after(predecessor.map(|p| &p.book), ingredients.seed);

        let keyring = keyring(&settings).map_err(|lines| complaints.extend(lines)).ok();
        let keyring = keyring.map(|mut keyring| {
            predecessor.into_iter().for_each(|predecessor| keyring.continue_from(&predecessor.keyring));
            keyring
        });
        let policies = Policies::compile(settings.policies.iter().map(|(policy, _)| policy.clone()).collect())
            .map_err(|problems| {
                complaints.extend(problems.iter().map(|problem| {
                    let origin = settings.policies.get(problem.index).map(|(_, origin)| origin.to_string());
                    format!("{}: {}", origin.unwrap_or_default(), problem.message)
                }));
            })
            .ok();
        let gates = Gates::build(&settings, &mut book).map_err(|lines| complaints.extend(lines)).ok();
        let (Some(keyring), Some(policies), Some(gates)) = (keyring, policies, gates) else {
            return Err(complaints);
        };
        // Last, as it announces new backends to the metrics, which a refused configuration must not.
        let known = predecessor.map(|p| &p.upstreams);
        let upstreams =
            Upstreams::build(&settings, known, ingredients.credentials, ingredients.clock, ingredients.meter)
                .map_err(|line| vec![line])?;

        let replay = replay(&settings, &mut book);
        let policy_windows = policy_windows(&policies, &mut book);
        let hints =
            (settings.auth.hints == Hints::Safe).then(|| kept_window("auth hints".to_owned(), HINTS, &mut book));
        // Permits of running requests must keep counting, so an unchanged bound keeps its counter.
        let in_flight = settings.listen.in_flight as usize;
        let kept = |capacity: fn(&Snapshot) -> &Arc<Capacity>, max: usize| {
            let same = predecessor.map(capacity).filter(|capacity| capacity.in_flight_max() == max);
            same.cloned().unwrap_or_else(|| Capacity::new(max))
        };
        Ok(Self {
            generation: predecessor.map_or(1, |p| p.generation + 1),
            sha256,
            rules: rules(&settings),
            keyring,
            replay,
            gates,
            policies,
            policy_windows,
            capacity: kept(|p| &p.capacity, in_flight),
            waiting: kept(|p| &p.waiting, in_flight.div_ceil(2)),
            upstreams,
            hints,
            book: book.close(),
            settings,
        })
    }

    /// Every key with when it was last used, in the order of the settings.
    pub fn key_uses(&self) -> Vec<KeyUse> {
        let of = |setting: &KeySetting| {
            let held = self.keyring.lookup(&setting.access_key_id);
            // The current one of an id comes first.
            let key = if setting.stage == Stage::Previous { held.last() } else { held.first() };
            key.map(|key| KeyUse { key: key.clone(), stage: setting.stage })
        };
        self.settings.keys.iter().filter_map(of).collect()
    }

    /// Takes one request from the limits of a policy, from all of them or from none.
    pub fn charge_policy(&self, index: PolicyIndex, now: Moment) -> bool {
        let windows = self.policy_windows.get(index.position()).map(Vec::as_slice).unwrap_or_default();
        let windows: arrayvec::ArrayVec<&Window, 2> = windows.iter().take(2).map(|w| &**w).collect();
        admit_all(&windows, now).is_none_or(|verdict| verdict.admitted)
    }
}

/// The per-minute and per-hour windows of every policy, by its index.
fn policy_windows(policies: &Policies, book: &mut Book) -> Vec<Vec<Arc<Window>>> {
    let row = |compiled: &crate::governance::Compiled| {
        let Some(limits) = compiled.rate_limits() else { return Vec::new() };
        let minute = limits.requests_per_minute.map(|count| Rate { count, per: MINUTE });
        let hour = limits.requests_per_hour.map(|count| Rate { count, per: HOUR });
        let policy = compiled.policy();
        let rates = minute.into_iter().chain(hour);
        rates
            .map(|rate| {
                let name = format!("policy {}:{} per {}s", policy.service, policy.intent, rate.per.as_secs());
                kept_window(name, rate, book)
            })
            .collect()
    };
    policies.iter().map(|(_, compiled)| compiled).map(row).collect()
}

/// The predecessor's window of that name and rate, or a new one.
fn kept_window(name: String, rate: Rate, book: &mut Book) -> Arc<Window> {
    let Ok(window) = book.keep(name, &rate, || Ok::<_, std::convert::Infallible>(Window::new(rate)));
    window
}

/// Examinations of refused signatures for callers. An examination takes a fraction of a millisecond, so all of
/// them together take less than a hundredth of a core.
const HINTS: Rate = Rate { count: 10, per: std::time::Duration::from_secs(1) };
const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);
const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// What signatures must be made for.
pub fn rules(settings: &Settings) -> Rules {
    let auth = &settings.auth;
    Rules {
        regions: auth.regions.clone(),
        services: auth.services.clone(),
        clock_skew: auth.clock_skew,
        presigned: match auth.presigned {
            Presigned::Deny => None,
            Presigned::Allow { max_expires } => Some(max_expires),
        },
        unsigned_payload: auth.unsigned_payload == UnsignedPayload::Allow,
    }
}

/// The table of used signatures outlives every change but being switched off.
fn replay(settings: &Settings, book: &mut Book) -> Option<Guard> {
    let mode = match settings.auth.replay {
        Replay::Off => return None,
        Replay::Observe => Mode::Observe,
        Replay::Enforce => Mode::Enforce,
    };
    let seed = book.seed();
    let Ok(table) = book.keep("replay".to_owned(), &(), || Ok::<_, std::convert::Infallible>(Replays::new(seed)));
    Some(Guard { mode, table })
}

/// What signatures are made with.
///
/// # Errors
/// Every complaint, one line each, for the operator.
pub fn keyring(settings: &Settings) -> Result<Keyring, Vec<String>> {
    let complaint = |problem: &KeyProblem| {
        let origin = settings.keys.get(problem.entry).map(|key| key.origin.to_string());
        format!("{}: `{}`: {}", origin.unwrap_or_default(), problem.field, problem.issue)
    };
    Keyring::from_entries(settings.keys.iter().map(key_entry).collect())
        .map_err(|problems| problems.iter().map(complaint).collect())
}

fn key_entry(key: &KeySetting) -> KeyEntry {
    KeyEntry {
        access_key_id: key.access_key_id.clone(),
        secret_access_key: key.secret_access_key.clone(),
        session_token: key.session_token.clone(),
        principal: key.principal.clone(),
        not_before: key.not_before,
        not_after: key.not_after,
        disabled: key.disabled,
    }
}
