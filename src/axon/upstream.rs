//! Axon as a request sees it: its backends of the moment and how to ask them; and which Axon takes an intent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use http::Uri;
use parking_lot::Mutex;

use crate::auth::{Credentials, CurrentCredentials, Signer};
use crate::axon::choose::{BACKENDS_MAX, Backends, Member, Terms};
use crate::axon::condition::{Cause, Failing, State};
use crate::axon::dial::{Dialer, Dialers};
use crate::axon::pool::Bounds;
use crate::axon::probe::Seen;
use crate::axon::{Backend, Budget, Meter, Reason, Resolution};
use crate::clock::{Clock, Moment};
use crate::snapshot::settings::{
    self, Eject, Endpoint, Health, Host, RouteIntent, Settings, Sign, SignCredentials, SignSource,
};

/// Every upstream of one configuration, and the way of an intent to its own.
pub struct Upstreams {
    all: Vec<Arc<Upstream>>,
    by_intent: HashMap<Box<str>, usize>,
    /// For an intent without a route of its own.
    others: Option<usize>,
}

/// The upstream of one configuration. Backends are shared with its predecessor where they stayed.
pub struct Upstream {
    pub settings: settings::Upstream,
    pub signer: Option<Signer>,
    /// `request.path`, parsed once.
    pub target: Uri,
    endpoints: Vec<Place>,
    backends: ArcSwap<Backends>,
    /// One change of the backends at a time.
    changing: Mutex<()>,
    /// One ejection at a time, so that never too many are ejected.
    ejecting: Mutex<()>,
    budget: Arc<Budget>,
    meter: Arc<dyn Meter>,
}

/// An endpoint and what its backends are called.
pub(super) struct Place {
    pub endpoint: Endpoint,
    /// The authority, behind the upstream's name if it stands in several upstreams.
    label: String,
    dialer: Dialer,
}

impl Upstreams {
    /// Builds the upstreams, adopting the predecessor's backends with their connections.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn build(
        settings: &Settings,
        predecessor: Option<&Upstreams>,
        credentials: &CredentialsByUpstream,
        clock: &Arc<dyn Clock>,
        meter: &Arc<dyn Meter>,
    ) -> Result<Self, String> {
        let authorities = settings.upstreams.iter().flat_map(|upstream| &upstream.endpoints);
        let mut uses: HashMap<&str, usize> = HashMap::new();
        authorities.for_each(|endpoint| *uses.entry(&endpoint.authority).or_default() += 1);
        let build = |upstream: &settings::Upstream| {
            let label = |endpoint: &Endpoint| match uses.get(endpoint.authority.as_str()) {
                Some(2..) => format!("{}/{}", upstream.name, endpoint.authority),
                _ => endpoint.authority.clone(),
            };
            let known = predecessor.into_iter().flat_map(Upstreams::iter).map(|upstream| upstream.backends());
            let known: Vec<Arc<Backends>> = known.collect();
            let signer = upstream.sign.as_ref().map(|sign| signer(&upstream.name, sign, credentials)).transpose()?;
            let same = predecessor.and_then(|p| p.iter().find(|old| old.settings.name == upstream.name));
            let budget = same.map(|old| old.budget.clone()).unwrap_or_default();
            Upstream::build(upstream, signer, label, &known, budget, clock, meter).map(Arc::new)
        };
        let all = settings.upstreams.iter().map(build).collect::<Result<Vec<_>, String>>()?;
        let position = |name: &str| all.iter().position(|upstream| upstream.settings.name == name);
        let mut by_intent = HashMap::new();
        let mut others = (all.len() == 1).then_some(0);
        for route in &settings.routes {
            let Some(upstream) = position(&route.upstream) else { continue };
            match &route.intent {
                RouteIntent::Only(intent) => drop(by_intent.insert(intent.as_str().into(), upstream)),
                RouteIntent::Others => others = Some(upstream),
            }
        }
        Ok(Self { all, by_intent, others })
    }

    /// Who takes an intent; nobody only when several upstreams have no route for it, which the settings
    /// refuse for every intent that governance may allow.
    pub fn of(&self, intent: &str) -> Option<&Arc<Upstream>> {
        let index = self.by_intent.get(intent).copied().or(self.others)?;
        self.all.get(index)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Upstream>> {
        self.all.iter()
    }

    /// Of every backend of this moment.
    pub fn labels(&self) -> Vec<String> {
        let labels = |upstream: &Arc<Upstream>| {
            upstream.backends().members().iter().map(|m| m.backend.label().to_owned()).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(labels).collect()
    }
}

impl Upstream {
    fn build(
        settings: &settings::Upstream,
        signer: Option<Signer>,
        label: impl Fn(&Endpoint) -> String,
        known: &[Arc<Backends>],
        budget: Arc<Budget>,
        clock: &Arc<dyn Clock>,
        meter: &Arc<dyn Meter>,
    ) -> Result<Self, String> {
        let target = settings.request.path.parse().map_err(|e| format!("`upstreams.request.path`: {e}"))?;
        let dialers = Dialers::new(settings, clock)?;
        let place = |endpoint: &Endpoint| {
            let dialer = dialers.of(endpoint.secure.as_ref())?;
            Ok(Place { label: label(endpoint), endpoint: endpoint.clone(), dialer })
        };
        let endpoints = settings.endpoints.iter().map(place).collect::<Result<Vec<Place>, String>>()?;

        let known = || known.iter().flat_map(|backends| backends.members()).map(|member| &member.backend);
        let mut members = Vec::new();
        for place in &endpoints {
            // What a name stood for goes on until it is asked for again.
            let addresses: Vec<SocketAddr> = match &place.endpoint.host {
                Host::Address(ip) => vec![SocketAddr::new(*ip, place.endpoint.port)],
                Host::Name(_) => known().filter(|b| place.is_of(b)).map(|b| b.address()).collect(),
            };
            for address in addresses {
                let adopted = known().find(|backend| backend.label() == place.label_of(address));
                // Connections that were made under other certificates or names are not taken over.
                let same =
                    |backend: &&Arc<Backend>| backend.address() == address && *backend.pool().dialer() == place.dialer;
                let adopted = adopted.filter(same).cloned();
                members.push(place.member(address, adopted, 0, &**meter)?);
            }
        }
        Ok(Self {
            settings: settings.clone(),
            signer,
            target,
            endpoints,
            backends: ArcSwap::from_pointee(Backends::new(members)),
            changing: Mutex::new(()),
            ejecting: Mutex::new(()),
            budget,
            meter: Arc::clone(meter),
        })
    }

    /// The backends of this moment.
    pub fn backends(&self) -> Arc<Backends> {
        self.backends.load_full()
    }

    /// Its requests and retries of late.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Takes one retry from the budget; says whether there was one.
    pub(super) fn take_retry(&self, now: u64) -> bool {
        let taken = self.budget.retry(now, self.settings.retry.budget);
        if !taken {
            self.meter.budget_spent();
        }
        taken
    }

    /// Notes that a request is sent again.
    pub(super) fn retried(&self, reason: Reason) {
        self.meter.retried(reason);
    }

    /// Tells what is left of the budget.
    pub(super) fn show_budget(&self, now: u64) {
        self.meter.budget_left(&self.settings.name, self.budget.left(now, self.settings.retry.budget));
    }

    /// How a backend is chosen.
    pub fn terms(&self) -> Terms {
        Terms {
            balance: self.settings.balance,
            slow_start: self.settings.slow_start,
            ejected_if_all_are_out: self.settings.eject.is_none_or(|eject| eject.max_percent < 100),
        }
    }

    /// Whether a request would find a backend.
    pub fn is_usable(&self) -> bool {
        let ejected_too = self.terms().ejected_if_all_are_out;
        self.backends.load().members().iter().any(|member| match member.backend.condition().state() {
            State::Unknown | State::Up => true,
            State::Ejected | State::Trial => ejected_too,
            State::Unreachable | State::Unhealthy => false,
        })
    }

    /// Notes an answer that was no failure.
    pub(super) fn answered(&self, backend: &Backend, trial: bool, now: u64) {
        if let Some(change) = backend.condition().answered(now, trial) {
            backend.tell(&change, if trial { "the trial request was answered" } else { "it answered" });
        }
    }

    /// Notes a failure of an exchange that began at `began`; `why` is for the log.
    pub(super) fn failed(&self, backend: &Backend, began: u64, trial: bool, how: Failing, why: &str, now: u64) {
        let Some(eject) = &self.settings.eject else { return };
        let condition = backend.condition();
        let Some(cause) = condition.failed(began, trial, how, eject) else { return };
        let _one_at_a_time = self.ejecting.lock();
        if cause != Cause::Trial && !self.may_eject(backend, eject) {
            condition.forgive();
            return backend.metrics().spared.inc();
        }
        if let Some(change) = condition.eject(now, cause, eject) {
            let led_to_it = match cause {
                Cause::Trial => "the trial request failed",
                Cause::Half => "half of its last answers were failures",
                _ => "too many failures in a row",
            };
            backend.tell(&change, &format!("{led_to_it}, the last: {why}"));
        }
    }

    fn may_eject(&self, backend: &Backend, eject: &Eject) -> bool {
        let backends = self.backends.load();
        let others = backends.members().iter().map(|member| &*member.backend);
        let states: ArrayVec<State, BACKENDS_MAX> =
            others.filter(|other| !std::ptr::eq(*other, backend)).map(|other| other.condition().state()).collect();
        let ejected = states.iter().filter(|state| matches!(state, State::Ejected | State::Trial)).count();
        // The last one that is left stays, unless the operator would rather have nothing.
        let another = eject.max_percent == 100 || states.iter().any(|state| state.is_in());
        another && ejected < eject.most_of(backends.members().len())
    }

    /// Notes a connect that worked.
    pub(super) fn connected(&self, backend: &Backend, now: u64) {
        if self.settings.health.is_none()
            && let Some(change) = backend.condition().connected(now)
        {
            backend.tell(&change, "it accepted a connection");
        }
    }

    /// Notes a connect that failed, by the backend's fault; `why` is for the log.
    pub(super) fn unconnected(&self, backend: &Backend, why: &str, now: u64) {
        if let Some(change) = backend.condition().unconnected(now, self.settings.eject.as_ref()) {
            backend.tell(&change, why);
        }
    }

    /// Whether requests can be signed as they must be.
    pub fn can_sign(&self, now: Moment) -> bool {
        self.signer.as_ref().is_none_or(|signer| signer.credentials().at(now).is_ok())
    }

    /// What the pools of its backends may hold.
    pub fn bounds(&self) -> Bounds {
        let timeouts = self.settings.timeouts;
        Bounds { keepalive: self.settings.keepalive as usize, connect: timeouts.connect, idle: timeouts.idle }
    }

    /// Notes what a connect on trial saw, where no health is checked.
    pub(super) fn looked_at(&self, backend: &Backend, seen: &Seen, now: u64) {
        match seen {
            Seen::Well => self.connected(backend, now),
            Seen::Unwell(why) | Seen::Absent(why) => self.unconnected(backend, why, now),
            Seen::Nothing(why) => log::error!("cannot look at backend {}: {why}", backend.label()),
        }
    }

    /// Notes what a health check saw; `suspected` as for [`Condition::check_failed`](super::condition::Condition).
    pub(super) fn checked(&self, backend: &Backend, health: &Health, seen: &Seen, suspected: bool, now: u64) {
        let (condition, metrics) = (backend.condition(), backend.metrics());
        match seen {
            Seen::Well => {
                metrics.checks_passed.inc();
                if let Some(change) = condition.check_passed(now, health) {
                    backend.tell(&change, "its health checks pass");
                }
            }
            Seen::Unwell(why) => {
                metrics.checks_failed.inc();
                let change = condition.check_failed(now, suspected, health, self.settings.eject.as_ref());
                if let Some(change) = change {
                    backend.tell(&change, why);
                }
            }
            Seen::Absent(why) => {
                metrics.checks_failed.inc();
                self.unconnected(backend, why, now);
            }
            Seen::Nothing(why) => log::error!("cannot check backend {}: {why}", backend.label()),
        }
    }

    pub(super) fn endpoints(&self) -> &[Place] {
        &self.endpoints
    }

    /// Takes `addresses` as all that the name of `place` stands for. Backends that stay keep what is known of
    /// them, and their connections.
    pub(super) fn resolved(&self, place: &Place, addresses: &[SocketAddr], now: u64) {
        self.meter.resolution(self.follow(place, addresses, now));
    }

    /// Notes that the addresses of a name could not be had.
    pub(super) fn unresolved(&self) {
        self.meter.resolution(Resolution::Failed);
    }

    fn follow(&self, place: &Place, addresses: &[SocketAddr], now: u64) -> Resolution {
        let _one_at_a_time = self.changing.lock();
        let backends = self.backends();
        let (old, others): (Vec<&Member>, Vec<&Member>) =
            backends.members().iter().partition(|member| place.is_of(&member.backend));
        let (room, count) = (BACKENDS_MAX.saturating_sub(others.len()), addresses.len());
        let addresses = addresses.get(..room.min(count)).unwrap_or_default();
        let result = if count > room { Resolution::Crowded } else { Resolution::Found };
        if old.iter().map(|member| member.backend.address()).eq(addresses.iter().copied()) {
            return result;
        }
        if count > room {
            let name = &place.label;
            log::warn!(
                "{name} has {count} addresses, {room} are used: an upstream has at most {BACKENDS_MAX} backends"
            );
        }
        // One that joins others starts slowly; the first have nobody to leave their share to.
        let since = if backends.members().is_empty() { 0 } else { now };
        let mut members: Vec<Member> = others.into_iter().cloned().collect();
        for address in addresses {
            let kept = old.iter().find(|member| member.backend.address() == *address);
            match place.member(*address, kept.map(|member| member.backend.clone()), since, &*self.meter) {
                Ok(member) => members.push(member),
                Err(why) => log::error!("{why}"),
            }
        }
        let new: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        log::info!("{} is now {}", place.label, new.join(", "));
        self.backends.store(Arc::new(Backends::new(members)));
        for gone in old.iter().filter(|member| !addresses.contains(&member.backend.address())) {
            self.meter.retire_backend(gone.backend.label());
        }
        result
    }
}

/// Credentials that were resolved, and are kept current, for those upstreams that take AWS's standard chain.
pub type CredentialsByUpstream = HashMap<String, Arc<CurrentCredentials>>;

fn signer(upstream: &str, sign: &Sign, resolved: &CredentialsByUpstream) -> Result<Signer, String> {
    let credentials = match &sign.source {
        SignSource::File(_, SignCredentials { access_key_id, secret_access_key, session_token }) => {
            let fixed = Credentials::new(access_key_id, secret_access_key, session_token.as_ref(), None);
            CurrentCredentials::new(fixed)
        }
        SignSource::Default => {
            let resolved = resolved.get(upstream).cloned();
            resolved.ok_or_else(|| format!("{}: no credentials were resolved for `{upstream}`", sign.origin))?
        }
    };
    Ok(Signer::with(credentials, &sign.region, &sign.service))
}

impl Place {
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// What the backend at `address` is called.
    fn label_of(&self, address: SocketAddr) -> String {
        match self.endpoint.host {
            Host::Address(_) => self.label.clone(),
            Host::Name(_) => format!("{}/{}", self.label, address.ip()),
        }
    }

    fn is_of(&self, backend: &Backend) -> bool {
        backend.label() == self.label_of(backend.address())
    }

    fn member(
        &self,
        address: SocketAddr,
        backend: Option<Arc<Backend>>,
        since: u64,
        meter: &dyn Meter,
    ) -> Result<Member, String> {
        let label = self.label_of(address);
        let backend = match backend {
            Some(backend) => backend,
            None => Backend::new(
                address,
                &self.endpoint.authority,
                &label,
                self.dialer.clone(),
                since,
                meter.backend(&label),
            )?,
        };
        Ok(Member { backend, weight: self.endpoint.weight })
    }
}
