//! Points in time as they are shown and stored: milliseconds of wall time since 1970, RFC 3339 in UTC as text.
//!
//! Leases, deadlines and loss never use these: they live on the boot-time clock of the process that judges.
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Wall time in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

impl Wall {
    /// This moment. The only reading of the wall clock outside `coordinator::clock`, for clients.
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_millisecond())
    }

    /// Parses RFC 3339 (a time zone is required), such as `2026-11-24T10:00:00Z`.
    ///
    /// # Errors
    /// The parser's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>().map(|t| Self(t.as_millisecond())).map_err(|e| e.to_string())
    }

    /// Seconds from `earlier` to this, never negative.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0).max(0) as f64 / 1000.0
    }

    /// `HH:MM:SS` in the local time zone.
    pub fn local_clock(self) -> String {
        self.zoned("%H:%M:%S")
    }

    /// `YYYY-MM-DD HH:MM:SS` in the local time zone.
    pub fn local_date(self) -> String {
        self.zoned("%Y-%m-%d %H:%M:%S")
    }

    fn zoned(self, format: &str) -> String {
        jiff::Timestamp::from_millisecond(self.0).map_or_else(
            |_| "-".to_owned(),
            |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime(format).to_string(),
        )
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => f.write_str("out-of-range"),
        }
    }
}

impl Serialize for Wall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .map_err(|e| serde::de::Error::custom(format!("not an RFC 3339 time with a zone: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        let t = Wall::parse("2026-11-24T10:00:00.250Z").unwrap();
        assert_eq!(t.to_string(), "2026-11-24T10:00:00.250Z");
        assert_eq!(serde_json::from_str::<Wall>(&serde_json::to_string(&t).unwrap()).unwrap(), t);
        assert_eq!(Wall::parse("2026-11-24T11:00:00.250+01:00").unwrap(), t);
    }

    #[test]
    fn a_time_without_a_zone_or_out_of_range_is_refused() {
        for bad in ["2026-11-24T10:00:00", "yesterday", "+1000000-01-01T00:00:00Z", ""] {
            assert!(Wall::parse(bad).is_err(), "{bad}");
        }
    }
}
