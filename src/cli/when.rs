//! `--since` and `--until`: a duration back from now, or a time.

use jiff::{Span, SpanRelativeTo};

use super::args::Range;
use crate::clock::{self, Time};
use crate::error::BadInput;

/// The instant that `text` names, seen from `now`.
pub(super) fn parse(option: &str, text: &str, now: Time) -> Result<Time, BadInput> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    let bad = || {
        BadInput::new(
            format!("{option} {text:?} is neither a duration nor an RFC 3339 time"),
            "write 90s, 15m, 2h, 1d or 2026-01-31T12:00:00Z",
        )
    };
    let span: Span = text.parse().map_err(|_| bad())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    let duration = std::time::Duration::try_from(duration).map_err(|_| bad())?;
    Ok(clock::minus(now, duration))
}

/// The range that was asked for, said on stderr where it is not empty.
pub(super) fn range(range: &Range, now: Time) -> Result<(Option<Time>, Option<Time>), BadInput> {
    let since = range.since.as_deref().map(|text| parse("--since", text, now)).transpose()?;
    let until = range.until.as_deref().map(|text| parse("--until", text, now)).transpose()?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(BadInput::new(format!("--since {since} is after --until {until}"), "exchange them"));
    }
    Ok((since, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_count_back_and_times_are_taken_as_they_are() {
        let now: Time = "2026-01-31T12:00:00Z".parse().unwrap();
        let check = |text: &str, expected: &str| {
            assert_eq!(parse("--since", text, now).unwrap().to_string(), expected, "{text}");
        };
        check("90s", "2026-01-31T11:58:30Z");
        check("2h", "2026-01-31T10:00:00Z");
        check("1d", "2026-01-30T12:00:00Z");
        check("2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z");
        assert!(parse("--since", "yesterday", now).is_err());
        assert!(parse("--since", "-5m", now).is_err());
    }
}
