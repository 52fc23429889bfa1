//! One file is one check. The tables below are the order of execution.
//!
//! To add a check: copy a file of this folder and put its `build` into the table of its stage. A gate
//! is synchronous and does no I/O; what it refuses has consumed nothing from the gates behind it.

mod body_length;
mod book;
mod global_limit;
mod governance_limit;
mod media_type;
mod per_ip_limit;
mod standing;

use std::net::IpAddr;

use crate::auth::Caller;
use crate::clock::Moment;
use crate::error::Rejection;
use crate::request::Head;
use crate::snapshot::settings::Settings;

pub use book::Book;
pub use standing::{Standing, Stood, seconds_up};

/// What is known of a request whose sender is still a stranger.
pub struct DoorScene<'a> {
    pub head: &'a Head,
    /// The address that the request is counted under.
    pub client: IpAddr,
    pub now: Moment,
}

/// What is known of a request whose signature holds.
pub struct DeskScene<'a> {
    pub caller: &'a Caller,
    pub now: Moment,
}

/// How a gate says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// An answer of the error table.
    Rejected(Rejection),
    /// The denied shape of governance, with its reason.
    Denied(&'static str),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Refusal::Rejected(rejection)
    }
}

/// A check at the door: before the signature, so only of what costs nothing to know.
pub trait DoorGate: Send + Sync {
    /// Refuses, or lets pass; notes in `standing` what the answer should tell.
    fn check(&self, scene: &DoorScene<'_>, standing: &mut Standing) -> Result<(), Refusal>;
}

/// A check at the desk: the caller is known and the body is here.
pub trait DeskGate: Send + Sync {
    /// Refuses, or lets pass; notes in `standing` what the answer should tell.
    fn check(&self, scene: &DeskScene<'_>, standing: &mut Standing) -> Result<(), Refusal>;
}

/// Makes a gate from the settings, `None` where it is disabled; counters that must survive a reload
/// come from the book.
///
/// # Errors
/// One line for the operator when the settings cannot be met.
type Build<G> = fn(&Settings, &mut Book) -> Result<Option<Box<G>>, String>;

const DOOR: &[Build<dyn DoorGate>] = &[per_ip_limit::build, media_type::build, body_length::build];
/// Before the body is read as JSON.
const DESK: &[Build<dyn DeskGate>] = &[global_limit::build];
/// Between the JSON and governance's decision.
const CALLS: &[Build<dyn DeskGate>] = &[governance_limit::build];

/// All gates of one configuration.
pub struct Gates {
    door: Vec<Box<dyn DoorGate>>,
    desk: Vec<Box<dyn DeskGate>>,
    calls: Vec<Box<dyn DeskGate>>,
}

impl Gates {
    /// Builds every gate.
    ///
    /// # Errors
    /// Every complaint, not just the first.
    pub fn build(settings: &Settings, book: &mut Book) -> Result<Self, Vec<String>> {
        let mut complaints = Vec::new();
        let gates = Self {
            door: row(DOOR, settings, book, &mut complaints),
            desk: row(DESK, settings, book, &mut complaints),
            calls: row(CALLS, settings, book, &mut complaints),
        };
        if complaints.is_empty() { Ok(gates) } else { Err(complaints) }
    }

    /// The checks of a stranger.
    pub fn door(&self, scene: &DoorScene<'_>, standing: &mut Standing) -> Result<(), Refusal> {
        self.door.iter().try_for_each(|gate| gate.check(scene, standing))
    }

    /// The checks of a caller, before the body is read as JSON.
    pub fn desk(&self, scene: &DeskScene<'_>, standing: &mut Standing) -> Result<(), Refusal> {
        self.desk.iter().try_for_each(|gate| gate.check(scene, standing))
    }

    /// The checks of a well-formed dispatch, before governance decides.
    pub fn calls(&self, scene: &DeskScene<'_>, standing: &mut Standing) -> Result<(), Refusal> {
        self.calls.iter().try_for_each(|gate| gate.check(scene, standing))
    }
}

fn row<G: ?Sized>(
    table: &[Build<G>],
    settings: &Settings,
    book: &mut Book,
    complaints: &mut Vec<String>,
) -> Vec<Box<G>> {
    let mut gates = Vec::new();
    for build in table {
        match build(settings, book) {
            Ok(gate) => gates.extend(gate),
            Err(complaint) => complaints.push(complaint),
        }
    }
    gates
}
