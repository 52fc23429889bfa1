//! The instant a request was signed at, in the two spellings that clients send.
//!
//! Invariant: a [`Stamp`] is a real date; the string to sign and the scope's date are taken from it
//! and never from the server's clock, which may already be in the next day.

/// A signing instant with a resolution of one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    text: [u8; 16],
    unix_seconds: u64,
}

impl Stamp {
    /// `YYYYMMDDTHHMMSSZ`, the form of `X-Amz-Date`.
    pub fn parse_basic(value: &[u8]) -> Option<Self> {
        let text = <[u8; 16]>::try_from(value).ok()?;
        let [y1, y2, y3, y4, m1, m2, d1, d2, b'T', h1, h2, i1, i2, s1, s2, b'Z'] = text else { return None };
        let days =
            unix_days(number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?).filter(|_| y1 != b'0')?;
        let seconds = seconds_of_day(number(&[h1, h2])?, number(&[i1, i2])?, number(&[s1, s2])?)?;
        Some(Self { text, unix_seconds: days * SECONDS_PER_DAY + seconds })
    }

    /// `Sun, 06 Nov 1994 08:49:37 GMT`, the fixed form of RFC 1123 that RFC 9110 section 5.6.7 calls
    /// IMF-fixdate. botocore sends it in `Date` and signs the basic form of the same instant.
    pub fn parse_http(value: &[u8]) -> Option<Self> {
        let (weekday, rest) = value.split_at_checked(5)?;
        let (clock, [b' ', b'G', b'M', b'T']) = rest.split_at_checked(20)? else { return None };
        let &[d1, d2, b' ', a, b, c, b' ', y1, y2, y3, y4, b' ', h1, h2, b':', i1, i2, b':', s1, s2] = clock else {
            return None;
        };
        let month = MONTHS.iter().position(|name| **name == [a, b, c])? as u64 + 1;
        let days = unix_days(number(&[y1, y2, y3, y4])?, month, number(&[d1, d2])?)?;
        let seconds = seconds_of_day(number(&[h1, h2])?, number(&[i1, i2])?, number(&[s1, s2])?)?;
        // 1970-01-01 was a Thursday.
        if WEEKDAYS.get(days as usize % 7).is_none_or(|name| **name != *weekday) {
            return None;
        }
        let (m1, m2) = (b'0' + month as u8 / 10, b'0' + month as u8 % 10);
        let text = [y1, y2, y3, y4, m1, m2, d1, d2, b'T', h1, h2, i1, i2, s1, s2, b'Z'];
        Some(Self { text, unix_seconds: days * SECONDS_PER_DAY + seconds })
    }

    /// The basic form, as it stands in the string to sign.
    pub fn text(&self) -> &[u8; 16] {
        &self.text
    }

    /// `YYYYMMDD`, the date that the scope must carry.
    pub fn date(&self) -> &[u8] {
        self.text.first_chunk::<8>().map_or(&[], |date| date)
    }

    /// Seconds since the Unix epoch.
    pub fn unix_seconds(&self) -> u64 {
        self.unix_seconds
    }

    /// Days since the Unix epoch.
    pub fn unix_days(&self) -> u64 {
        self.unix_seconds / SECONDS_PER_DAY
    }
}

const SECONDS_PER_DAY: u64 = 86_400;
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
const WEEKDAYS: [&[u8; 5]; 7] = [b"Thu, ", b"Fri, ", b"Sat, ", b"Sun, ", b"Mon, ", b"Tue, ", b"Wed, "];

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')))
}

fn seconds_of_day(hour: u64, minute: u64, second: u64) -> Option<u64> {
    (hour < 24 && minute < 60 && second < 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Days since the epoch of a date from 1970 on; `None` if there is no such day.
///
/// Source: `days_from_civil` in <https://howardhinnant.github.io/date_algorithms.html>.
fn unix_days(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if year < 1970 || day == 0 || day > days_in_month {
        return None;
    }
    // Years that begin in March put the leap day last.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    Some(y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_the_same_instant() {
        for (basic, http, unix) in [
            ("19700101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("19941106T084937Z", "Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("20000229T235959Z", "Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("20240301T000000Z", "Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("20381231T120000Z", "Fri, 31 Dec 2038 12:00:00 GMT", 2_177_409_600),
        ] {
            let stamp = Stamp::parse_basic(basic.as_bytes()).expect(basic);
            assert_eq!(stamp.unix_seconds(), unix, "{basic}");
            assert_eq!(Stamp::parse_http(http.as_bytes()), Some(stamp), "{http}");
            assert_eq!(stamp.date(), &basic.as_bytes()[..8]);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = 0;
        for year in 1970..2110 {
            for month in 1..=12 {
                for day in 1..=31 {
                    if let Some(days) = unix_days(year, month, day) {
                        assert_eq!(days, expected, "{year}-{month}-{day}");
                        expected += 1;
                    }
                }
            }
        }
        assert_eq!(expected, 51_134, "days from 1970 to 2109");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for basic in [
            "",
            "20240230T000000Z",
            "20230229T000000Z",
            "21000229T000000Z",
            "20241301T000000Z",
            "20240001T000000Z",
            "20240100T000000Z",
            "20240101T240000Z",
            "20240101T006000Z",
            "20240101T000060Z",
            "20240101t000000Z",
            "20240101T000000z",
            "20240101T000000",
            "20240101T000000Z ",
            "2024010 T000000Z",
            "+0240101T000000Z",
            "19691231T235959Z",
            "00000101T000000Z",
            "2024-01-01T00:00:00Z",
        ] {
            assert_eq!(Stamp::parse_basic(basic.as_bytes()), None, "{basic}");
        }
        for http in [
            "",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(Stamp::parse_http(http.as_bytes()), None, "{http}");
        }
    }
}
