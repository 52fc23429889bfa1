//! Numbers with units: durations `500ms`, sizes `64KiB`, rates `100/min`.
//!
//! Invariant: what the `…_text` functions write, the parsers read back to the same value.

use std::time::Duration;

/// `count` in any window of length `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    pub per: Duration,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitError {
    NoNumber,
    NoUnit,
    UnknownUnit,
    Fraction,
    Zero,
    TooLarge,
}

/// The units of a duration, for advice.
pub const DURATION_UNITS: &str = "`ms`, `s`, `m` or `h`";
/// The units of a size, for advice.
pub const SIZE_UNITS: &str = "`B`, `KiB`, `MiB` or `GiB`";
/// The windows of a rate, for advice.
pub const RATE_UNITS: &str = "`/s`, `/min` or `/h`";

const DURATIONS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const RATES: [(&str, u64); 3] = [("/h", 3600), ("/min", 60), ("/s", 1)];

/// `500ms`, `5s`, `10m`, `24h`.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    scaled(text, &DURATIONS).map(Duration::from_millis)
}

/// `512B`, `64KiB`, `1MiB`, in bytes.
pub fn size(text: &str) -> Result<u64, UnitError> {
    scaled(text, &SIZES)
}

/// `10/s`, `100/min`, `1000/h`.
pub fn rate(text: &str) -> Result<Rate, UnitError> {
    let (number, unit) = split(text)?;
    let &(_, seconds) = RATES.iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit)?;
    match u32::try_from(number).map_err(|_| UnitError::TooLarge)? {
        0 => Err(UnitError::Zero),
        count => Ok(Rate { count, per: Duration::from_secs(seconds) }),
    }
}

/// `20%`, as a whole number of hundredths.
pub fn percent(text: &str) -> Result<u64, UnitError> {
    scaled(text, &[("%", 1)])
}

/// `100ms..400ms`: the least and the most.
pub fn durations(text: &str) -> Result<(Duration, Duration), UnitError> {
    let (least, most) = text.split_once("..").ok_or(UnitError::NoUnit)?;
    Ok((duration(least)?, duration(most)?))
}

/// The duration in its largest whole unit, but a minute or two in seconds, as timeouts are written.
pub fn duration_text(duration: Duration) -> String {
    match u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) {
        60_000 => "60s".to_owned(),
        120_000 => "120s".to_owned(),
        millis => scaled_text(millis, &DURATIONS, "0s"),
    }
}

/// The size in its largest whole unit.
pub fn size_text(bytes: u64) -> String {
    scaled_text(bytes, &SIZES, "0B")
}

/// The rate as it would be written.
pub fn rate_text(rate: Rate) -> String {
    let unit = RATES.iter().find(|(_, seconds)| rate.per.as_secs() == *seconds).map_or("/s", |(name, _)| name);
    format!("{}{unit}", rate.count)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(UnitError::UnknownUnit)?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

fn scaled_text(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    units
        .iter()
        .find(|(_, factor)| number > 0 && number.is_multiple_of(*factor))
        .map_or(zero.to_owned(), |(unit, factor)| format!("{}{unit}", number / factor))
}

fn split(text: &str) -> Result<(u64, &str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(UnitError::NoNumber)?;
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit);
    }
    if unit.starts_with('.') {
        return Err(UnitError::Fraction);
    }
    number.parse().map(|number| (number, unit)).map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_and_spans() {
        assert_eq!(percent("20%"), Ok(20));
        assert_eq!(percent("20"), Err(UnitError::NoUnit));
        assert_eq!(percent("0.5%"), Err(UnitError::Fraction));
        assert_eq!(super::durations("100ms..2s"), Ok((Duration::from_millis(100), Duration::from_secs(2))));
        assert_eq!(super::durations("100ms"), Err(UnitError::NoUnit));
        assert_eq!(super::durations("1..2s"), Err(UnitError::NoUnit));
    }

    #[test]
    fn durations() {
        for (text, millis) in [("500ms", 500), ("5s", 5000), ("10m", 600_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration_text(Duration::ZERO), "0s");
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::from_secs(60)), "60s");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("100B", 100), ("64KiB", 65_536), ("1MiB", 1_048_576), ("2GiB", 1 << 31)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn rates() {
        for (text, count, seconds) in [("100/min", 100, 60), ("10/s", 10, 1), ("1000/h", 1000, 3600)] {
            let expected = Rate { count, per: Duration::from_secs(seconds) };
            assert_eq!(rate(text), Ok(expected), "{text}");
            assert_eq!(rate_text(expected), text);
        }
    }

    #[test]
    fn what_is_refused() {
        use UnitError::{Fraction, NoNumber, NoUnit, TooLarge, UnknownUnit, Zero};
        for (text, error) in [
            ("500", NoUnit),
            ("", NoNumber),
            ("s", NoNumber),
            ("-5s", NoNumber),
            ("+5s", NoNumber),
            (" 5s", NoNumber),
            ("5 s", UnknownUnit),
            ("5S", UnknownUnit),
            ("5sec", UnknownUnit),
            ("1m30s", UnknownUnit),
            ("1.5s", Fraction),
            ("99999999999999999999s", TooLarge),
            ("18446744073709551615h", TooLarge),
        ] {
            assert_eq!(duration(text), Err(error), "{text}");
        }
        for (text, error) in [("64KB", UnknownUnit), ("64k", UnknownUnit), ("64", NoUnit)] {
            assert_eq!(size(text), Err(error), "{text}");
        }
        for (text, error) in
            [("100", NoUnit), ("0/s", Zero), ("100/m", UnknownUnit), ("5000000000/s", TooLarge), ("/s", NoNumber)]
        {
            assert_eq!(rate(text), Err(error), "{text}");
        }
    }
}
