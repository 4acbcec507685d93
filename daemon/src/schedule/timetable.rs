//! When a job is due: pure functions of its rule and of two clocks.
//!
//! Spans of time are measured by the clock that never goes back. A time of day is a promise about the wall
//! clock, which may be set by hand or by NTP while the daemon runs. Invariant: whatever the wall clock does, a
//! daily job is never further away than its next time of day by the present clock, and a time of day that
//! was jumped over is made up for once, not once for each day.

use std::time::Duration;

use chrono::{Datelike as _, Days, LocalResult, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use fastpersist_protocol::time::Timestamp;

/// When a job runs by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// So long after its last end, or after the start.
    Every(Duration),
    /// At these times of day.
    Daily {
        /// The times.
        at: Vec<NaiveTime>,
        /// By the clocks of this place.
        timezone: Tz,
    },
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// The clock that never goes back.
    pub elapsed: Duration,
}

/// The pauses between the tries of a job that fails: each twice as long as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPauses {
    /// Before the second try.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl RetryPauses {
    fn after(self, failures: u32) -> Duration {
        let factor = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// A wall clock that is off by more than this against the other one was set; less is drift.
const JUMP: Duration = Duration::from_secs(60);

/// When one job is due next.
#[derive(Debug)]
pub(super) struct Timetable {
    rule: Rule,
    pauses: RetryPauses,
    next: Next,
    /// When both clocks were last looked at.
    seen: Moment,
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    At(Duration),
    OnDay(Timestamp),
}

impl Timetable {
    /// The timetable of a job that begins now; `soon` makes its first run due after so long, where the
    /// rule does not make it sooner.
    pub(super) fn new(rule: Rule, pauses: RetryPauses, now: Moment, soon: Option<Duration>) -> Self {
        let mut table = Self { next: rule.next(now), rule, pauses, seen: now, failures: 0 };
        if let Some(soon) = soon.filter(|soon| *soon < table.wait(now)) {
            table.next = Next::At(now.elapsed + soon);
        }
        table
    }

    /// How often the job has failed since it last succeeded.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long until the job is due; zero when it is.
    pub(super) fn wait(&mut self, now: Moment) -> Duration {
        if let Next::OnDay(_) = self.next {
            let by_wall = now.wall.as_micros() - self.seen.wall.as_micros();
            let by_elapsed = now.elapsed.saturating_sub(self.seen.elapsed).as_micros() as i64;
            if by_wall < by_elapsed - JUMP.as_micros() as i64 {
                self.next = self.rule.next(now);
            }
        }
        self.seen = now;
        match self.next {
            Next::At(at) => at.saturating_sub(now.elapsed),
            Next::OnDay(at) => {
                Duration::from_micros(u64::try_from(at.as_micros() - now.wall.as_micros()).unwrap_or(0))
            }
        }
    }

    /// A run has ended.
    pub(super) fn ended(&mut self, now: Moment, succeeded: bool) {
        self.next = self.rule.next(now);
        self.seen = now;
        if succeeded {
            self.failures = 0;
            return;
        }
        self.failures += 1;
        let pause = self.pauses.after(self.failures);
        if pause < self.wait(now) || matches!(self.rule, Rule::Every(_)) {
            self.next = Next::At(now.elapsed + pause);
        }
    }
}

impl Rule {
    fn next(&self, now: Moment) -> Next {
        match self {
            Self::Every(interval) => Next::At(now.elapsed + *interval),
            Self::Daily { at, timezone } => match next_occurrence(now.wall, at, *timezone) {
                Some(next) => Next::OnDay(next),
                // Only a clock at the end of the calendar has no next day.
                None => Next::At(now.elapsed + Duration::from_secs(86_400)),
            },
        }
    }

    /// The last time of day that is over; `None` for a rule without times of day.
    pub fn previous(&self, now: Timestamp) -> Option<Timestamp> {
        let Self::Daily { at, timezone } = self else { return None };
        occurrences(now, at, *timezone, -2).into_iter().filter(|time| *time <= now).max()
    }
}

/// The first of some times of day behind a moment.
fn next_occurrence(after: Timestamp, at: &[NaiveTime], timezone: Tz) -> Option<Timestamp> {
    occurrences(after, at, timezone, 0).into_iter().filter(|time| *time > after).min()
}

/// The times of day around a moment: on its day and the two that follow, or that came before.
fn occurrences(around: Timestamp, at: &[NaiveTime], timezone: Tz, first_day: i64) -> Vec<Timestamp> {
    let Some(utc) = chrono::DateTime::<Utc>::from_timestamp_micros(around.as_micros()) else {
        return Vec::new();
    };
    let today = utc.with_timezone(&timezone).date_naive();
    let day = |offset: i64| today.checked_add_signed(TimeDelta::days(offset));
    let days: Vec<NaiveDate> = (first_day..=first_day + 2).filter_map(day).collect();
    days.iter().flat_map(|day| at.iter().filter_map(|time| instant(*day, *time, timezone))).collect()
}

/// When a local time is on a day. One that the clocks skip is the moment they go on; of one that comes
/// twice it is the first.
fn instant(day: NaiveDate, time: NaiveTime, timezone: Tz) -> Option<Timestamp> {
    let mut local = day.and_time(time);
    let end = day.checked_add_days(Days::new(2))?;
    while local.date() < end {
        match timezone.from_local_datetime(&local) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => {
                return Timestamp::from_micros(at.timestamp_micros());
            }
            // Gaps begin and end on whole minutes.
            LocalResult::None => local = local.checked_add_signed(TimeDelta::minutes(1))?,
        }
    }
    None
}

/// The calendar day of a moment in a time zone.
pub fn day_of(moment: Timestamp, timezone: Tz) -> fastpersist_protocol::time::Date {
    let local = chrono::DateTime::<Utc>::from_timestamp_micros(moment.as_micros())
        .map(|utc| utc.with_timezone(&timezone).date_naive());
    let date =
        local.and_then(|day| fastpersist_protocol::time::Date::from_ymd(day.year(), day.month(), day.day()));
    // A clock outside the years 1 to 9999 is no clock.
    date.unwrap_or_else(|| moment.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const PAUSES: RetryPauses = RetryPauses { first: Duration::from_secs(10), longest: HOUR };

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).expect("a timestamp")
    }

    fn daily(at: &[&str], timezone: &str) -> Rule {
        let at = at.iter().map(|at| NaiveTime::parse_from_str(at, "%H:%M").expect("a time")).collect();
        Rule::Daily { at, timezone: timezone.parse().expect("a time zone") }
    }

    /// Both clocks, of which the wall clock is set by hand.
    struct Clocks(Moment);

    impl Clocks {
        fn new(wall: &str) -> Self {
            Self(Moment { wall: time(wall), elapsed: Duration::from_secs(1000) })
        }

        fn pass(&mut self, span: Duration) -> Moment {
            self.0.elapsed += span;
            self.set(span.as_micros() as i64)
        }

        fn set(&mut self, by_micros: i64) -> Moment {
            self.0.wall = Timestamp::from_micros(self.0.wall.as_micros() + by_micros).expect("in range");
            self.0
        }
    }

    #[test]
    fn an_interval_counts_from_the_last_end() {
        let mut clocks = Clocks::new("2025-01-15T10:00:00Z");
        let mut table = Timetable::new(Rule::Every(HOUR), PAUSES, clocks.0, None);
        assert_eq!(table.wait(clocks.0), HOUR);
        assert_eq!(table.wait(clocks.pass(HOUR)), Duration::ZERO);
        table.ended(clocks.pass(HOUR / 2), true);
        assert_eq!(table.wait(clocks.0), HOUR);
        // The wall clock has no say in it.
        let set = clocks.set(-(10 * DAY.as_micros() as i64));
        assert_eq!(table.wait(set), HOUR);
    }

    #[test]
    fn a_time_of_day_is_by_the_clocks_of_the_place() {
        for (now, at, zone, expected) in [
            ("2025-01-15T10:00:00Z", "03:30", "UTC", "2025-01-16T03:30:00Z"),
            ("2025-01-15T03:29:59Z", "03:30", "UTC", "2025-01-15T03:30:00Z"),
            ("2025-01-15T03:30:00Z", "03:30", "UTC", "2025-01-16T03:30:00Z"),
            ("2025-01-15T10:00:00Z", "03:30", "Europe/Berlin", "2025-01-16T02:30:00Z"),
            ("2025-07-15T10:00:00Z", "03:30", "Europe/Berlin", "2025-07-16T01:30:00Z"),
            // In the night to 30 March 2025 the clocks of Berlin skip 02:00 to 03:00.
            ("2025-03-29T12:00:00Z", "02:30", "Europe/Berlin", "2025-03-30T01:00:00Z"),
            // In the night to 26 October 2025 they show 02:00 to 03:00 twice.
            ("2025-10-25T12:00:00Z", "02:30", "Europe/Berlin", "2025-10-26T00:30:00Z"),
            ("2025-10-26T00:30:00Z", "02:30", "Europe/Berlin", "2025-10-27T01:30:00Z"),
            // Samoa went from 29 to 31 December 2011: what was due on the 30th is due when the 31st begins.
            ("2011-12-30T09:00:00Z", "23:00", "Pacific/Apia", "2011-12-30T10:00:00Z"),
        ] {
            let Rule::Daily { at, timezone } = daily(&[at], zone) else { unreachable!() };
            assert_eq!(next_occurrence(time(now), &at, timezone), Some(time(expected)), "{now} {zone}");
        }
    }

    #[test]
    fn the_earliest_of_several_times_is_next_and_the_latest_was_before() {
        let rule = daily(&["22:00", "00:00"], "UTC");
        let mut clocks = Clocks::new("2025-01-15T21:00:00Z");
        let mut table = Timetable::new(rule.clone(), PAUSES, clocks.0, None);
        assert_eq!(table.wait(clocks.0), HOUR);
        assert_eq!(rule.previous(clocks.0.wall), Some(time("2025-01-15T00:00:00Z")));
        table.ended(clocks.pass(HOUR), true);
        assert_eq!(table.wait(clocks.0), 2 * HOUR);
        assert_eq!(rule.previous(clocks.0.wall), Some(time("2025-01-15T22:00:00Z")));
        assert_eq!(Rule::Every(HOUR).previous(clocks.0.wall), None);
    }

    #[test]
    fn a_clock_that_is_set_forward_a_day_makes_up_for_one_run() {
        let mut clocks = Clocks::new("2025-01-15T10:00:00Z");
        let mut table = Timetable::new(daily(&["03:00"], "UTC"), PAUSES, clocks.0, None);
        for jump in [DAY, 10 * DAY, 3650 * DAY] {
            let set = clocks.set(jump.as_micros() as i64);
            assert_eq!(table.wait(set), Duration::ZERO, "it was jumped over");
            table.ended(clocks.pass(Duration::from_secs(5)), true);
            let wait = table.wait(clocks.0);
            assert!(wait > 16 * HOUR && wait < 17 * HOUR, "then the next one only: {wait:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_starves_nothing() {
        let mut clocks = Clocks::new("2025-01-15T10:00:00Z");
        let mut table = Timetable::new(daily(&["03:00"], "UTC"), PAUSES, clocks.0, None);
        for jump in [DAY, 10 * DAY, 3650 * DAY] {
            let set = clocks.set(-(jump.as_micros() as i64));
            assert_eq!(table.wait(set), 17 * HOUR);
        }
        // Drift is no jump: what is done is not done again.
        table.ended(clocks.pass(17 * HOUR), true);
        let set = clocks.set(-2_000_000);
        assert_eq!(table.wait(set), DAY + Duration::from_secs(2));
    }

    #[test]
    fn a_job_that_fails_is_tried_again_with_growing_pauses_until_it_succeeds() {
        let mut clocks = Clocks::new("2025-01-15T00:00:00Z");
        let mut table = Timetable::new(daily(&["00:00"], "UTC"), PAUSES, clocks.0, None);
        clocks.pass(DAY);
        let mut pauses = Vec::new();
        for _ in 0..11 {
            table.ended(clocks.0, false);
            pauses.push(table.wait(clocks.0).as_secs());
            clocks.pass(Duration::from_secs(1));
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(table.failures(), 11);
        table.ended(clocks.0, true);
        assert_eq!((table.failures(), table.wait(clocks.0)), (0, Duration::from_secs(86_400 - 11)));
    }

    #[test]
    fn a_retry_does_not_push_the_next_time_of_day_away() {
        let mut clocks = Clocks::new("2025-01-15T23:50:00Z");
        let slow = RetryPauses { first: HOUR, longest: HOUR };
        let mut table = Timetable::new(daily(&["00:00"], "UTC"), slow, clocks.0, None);
        table.ended(clocks.0, false);
        assert_eq!(table.wait(clocks.0), HOUR / 6);
        let mut often = Timetable::new(Rule::Every(Duration::from_secs(1)), slow, clocks.0, None);
        often.ended(clocks.pass(DAY), false);
        assert_eq!(often.wait(clocks.0), HOUR, "an interval is not tried more often because it is short");
    }

    #[test]
    fn what_was_missed_is_soon() {
        let clocks = Clocks::new("2025-01-15T10:00:00Z");
        let soon = Some(Duration::from_secs(60));
        for (at, expected) in [("03:00", 60), ("10:01", 60), ("10:00", 60)] {
            let mut table = Timetable::new(daily(&[at], "UTC"), PAUSES, clocks.0, soon);
            assert_eq!(table.wait(clocks.0), Duration::from_secs(expected), "{at}");
        }
        let mut table = Timetable::new(daily(&["10:01"], "UTC"), PAUSES, clocks.0, Some(HOUR));
        assert_eq!(table.wait(clocks.0), Duration::from_secs(60), "the rule comes first");
    }
}
