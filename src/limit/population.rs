//! Simulated clients for tests and for `benches/limit.rs`, which includes this file: they need no type
//! of the crate, so that any limiter can be put under them.

/// One minute in ticks: the window of every scenario.
pub const MINUTE: u64 = 60_000_000_000;

/// Ticks at which scenarios begin: a day, as the crate's clocks do.
pub const START: u64 = 86_400_000_000_000;

/// What became of a group of clients.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub refused: u64,
}

impl Tally {
    pub fn count(&mut self, admitted: bool) {
        self.sent += 1;
        self.refused += u64::from(!admitted);
    }

    /// Refused requests, 0–1.
    pub fn refused_share(self) -> f64 {
        self.refused as f64 / self.sent.max(1) as f64
    }
}

/// `addresses` clients, each sending `per_minute` requests evenly, for `minutes`. None should be
/// refused by a limit that is above `per_minute`. `admit` gets the client's number and the ticks.
pub fn steady(addresses: u32, per_minute: u32, minutes: f64, mut admit: impl FnMut(u32, u64) -> bool) -> Tally {
    let mut tally = Tally::default();
    let rounds = (f64::from(per_minute) * minutes) as u64;
    let gap = MINUTE / u64::from(per_minute);
    for round in 0..rounds {
        for address in 0..addresses {
            let phase = gap * u64::from(address) / u64::from(addresses);
            tally.count(admit(address, START + round * gap + phase));
        }
    }
    tally
}

/// What a flood did to clients that send 90 requests a minute.
#[derive(Debug, Default, Clone, Copy)]
pub struct Flooded {
    /// Those that had been there for a minute when it began.
    pub established: Tally,
    /// Those that came when it was at its height.
    pub newcomers: Tally,
    pub attackers: Tally,
}

/// `strangers` addresses a minute that send `requests_each` requests one after the other, for three
/// minutes, among 200 established clients and, from the second minute on, 200 newcomers. Clients are
/// numbered from 0, strangers from 1,000, never twice.
pub fn flood(strangers: u32, requests_each: u32, mut admit: impl FnMut(u32, u64) -> bool) -> Flooded {
    const CLIENTS: u32 = 200;
    const PER_MINUTE: u32 = 90;
    let mut flooded = Flooded { established: steady(CLIENTS, PER_MINUTE, 1.0, &mut admit), ..Flooded::default() };
    let turns = CLIENTS * PER_MINUTE;
    let mut stranger = 1000;
    let mut owed = 0;
    for minute in 1..4 {
        for turn in 0..turns {
            let now = START + minute * MINUTE + MINUTE * u64::from(turn) / u64::from(turns);
            let client = turn % CLIENTS;
            flooded.established.count(admit(client, now));
            if minute > 1 {
                flooded.newcomers.count(admit(CLIENTS + client, now));
            }
            owed += strangers;
            while owed >= turns {
                owed -= turns;
                for _ in 0..requests_each {
                    flooded.attackers.count(admit(stranger, now));
                }
                stranger += 1;
            }
        }
    }
    flooded
}
