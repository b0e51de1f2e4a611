//! From when until when a certificate is good: the one thing that a machine has to read in its own. Nothing else of X.509
//! (RFC 5280) is parsed here; verifying is the TLS library's.

/// A certificate's validity, wall milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: i64,
    /// Not after.
    pub until: i64,
}

impl Validity {
    /// When a machine should ask for the next certificate: at two thirds of this one's life, later by `spread` (0 to 1)
    /// of a twentieth, so that machines that joined together do not ask together.
    pub fn renew_at(self, spread: f64) -> i64 {
        let life = self.until.saturating_sub(self.from).max(0);
        let later = (life as f64 / 20.0 * spread.clamp(0.0, 1.0)) as i64;
        self.from + life / 3 * 2 + later
    }
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// Reads the validity of a certificate (DER); `None` if it is none.
pub fn of(certificate: &[u8]) -> Option<Validity> {
    let (_, certificate, _) = take(certificate, SEQUENCE)?;
    let (_, body, _) = take(certificate, SEQUENCE)?;
    let rest = take(body, VERSION).map_or(body, |(_, _, rest)| rest);
    let (_, _, rest) = take(rest, INTEGER)?;
    let (_, _algorithm, rest) = take(rest, SEQUENCE)?;
    let (_, _issuer, rest) = take(rest, SEQUENCE)?;
    let (_, validity, _) = take(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some(Validity { from, until })
}

/// One element of this tag (0: any): its tag, its content, and what follows it.
fn take(der: &[u8], wanted: u8) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    if wanted != 0 && tag != wanted {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate has less than 16 MiB: three bytes of length are enough.
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as RFC 5280 (4.1.2.5) allows and no other.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (tag, text, rest) = take(der, 0)?;
    let (year, text) = match tag {
        UTC_TIME => {
            let year = digits(text.get(..2)?)?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (digits(text.get(..4)?)?, text.get(4..)?),
        _ => return None,
    };
    let [month @ .., b'Z'] = text else { return None };
    let [m1, m2, d1, d2, h1, h2, n1, n2, s1, s2] = *month else { return None };
    let two = |a: u8, b: u8| digits(&[a, b]);
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = (two(h1, h2)? * 60 + two(n1, n2)?) * 60 + two(s1, s2)?;
    Some(((days(year, month, day) * 86_400 + seconds) * 1000, rest))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
}

/// Days since 1970 of a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_time_are_read_and_no_other() {
        let read = |tag: u8, text: &str| {
            let der: Vec<u8> = [tag, text.len() as u8].into_iter().chain(text.bytes()).collect();
            time(&der).map(|(at, _)| at)
        };
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "000301000000Z", Some(951_868_800_000)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999_000)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000_000)),
            (GENERALIZED_TIME, "20240229120000Z", Some(1_709_208_000_000)),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000000+0100", None),
            (GENERALIZED_TIME, "2050010100000xZ", None),
            (INTEGER, "700101000000Z", None),
            (UTC_TIME, "", None),
        ] {
            assert_eq!(read(tag, text), wanted, "{text}");
        }
    }

    #[test]
    fn garbage_is_no_certificate_and_never_a_panic() {
        let whole = [0x30, 0x82, 0x01, 0x00, 0x30, 0x03, 0x02, 0x01, 0x00];
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end]), None);
        }
        for first in 0..=255u8 {
            assert_eq!(of(&[first, 0xff, 0xff, 0xff, 0xff, 0x30]), None);
        }
    }

    #[test]
    fn the_next_one_is_asked_for_at_two_thirds_of_the_life_or_a_little_later() {
        let year = Validity { from: 0, until: 365 * 86_400_000 };
        let (first, last) = (year.renew_at(0.0), year.renew_at(1.0));
        assert_eq!(first, year.until / 3 * 2);
        assert!(last > first && last < year.until / 4 * 3);
        assert_eq!(Validity { from: 9, until: 3 }.renew_at(1.0), 9);
    }
}
