//! The demo's data: the flights that left New York on 2013-01-01, as the airlines reported them.

use fastpersist_client::Timestamp;

use crate::cli::failure::{Failure, Outcome};
use crate::cli::load::{Cells, Fielded, Template, document};

/// nycflights13, one day; in the public domain.
const CSV: &str = include_str!("../../../fixtures/flights-2013-01-01.csv");
/// The day that they all belong to.
pub(super) const DATE: &str = "2013-01-01";
/// Where they left, and which process each belongs to.
pub(super) const AIRPORTS: [&str; 3] = ["EWR", "JFK", "LGA"];

const KEY: &str = "{carrier}{flight}-{origin}-{sched_dep_time:04}";

/// One flight, ready to be stored.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) key: String,
    pub(super) airport: String,
    pub(super) scheduled: Option<Timestamp>,
    /// The row as a JSON object.
    pub(super) json: String,
}

/// All flights of the day, in the order of the file.
pub(super) fn all() -> Outcome<Vec<Flight>> {
    read().map_err(|error| Failure::failed(format!("the demo's own data is damaged: {error}")))
}

fn read() -> Result<Vec<Flight>, String> {
    let template = Template::parse(KEY)?;
    let cells = Cells { strings: false, null: Some("NA".to_owned()) };
    let mut reader = csv::Reader::from_reader(CSV.as_bytes());
    let names = reader.headers().map_err(|error| error.to_string())?.clone();
    let mut flights = Vec::new();
    for row in reader.records() {
        let json = document(&names, &row.map_err(|error| error.to_string())?, &cells)?;
        let fields = Fielded::read(&json)?;
        let text = |name| Ok::<_, String>(fields.text(Some(name))?.unwrap_or_default());
        let flight = Flight {
            key: template.render(|name| fields.raw(name))?,
            airport: text("origin")?,
            scheduled: Timestamp::parse(&text("time_hour")?),
            json: json.clone(),
        };
        flights.push(flight);
    }
    Ok(flights)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_flight_has_a_key_of_its_own() {
        let flights = all().unwrap();
        assert_eq!(flights.len(), 842);
        let keys: HashSet<_> = flights.iter().map(|flight| flight.key.as_str()).collect();
        assert_eq!(keys.len(), 842);
        assert_eq!(flights[0].key, "UA1545-EWR-0515");
        assert!(flights[0].json.starts_with(r#"{"year":2013,"month":1,"day":1,"dep_time":517,"#));
        assert_eq!(flights[0].scheduled.unwrap().to_string(), "2013-01-01T10:00:00.000000Z");
        assert!(flights.iter().all(|flight| AIRPORTS.contains(&flight.airport.as_str())));
    }

    #[test]
    fn a_flight_that_never_left_has_no_departure() {
        let flights = all().unwrap();
        let cancelled = flights.iter().filter(|flight| flight.json.contains(r#""dep_time":null"#)).count();
        assert_eq!(cancelled, 4);
    }
}
