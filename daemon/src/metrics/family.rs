//! Metric families, and the two text formats in which they are written.
//!
//! Both are written by `prometheus-client`. It knows OpenMetrics only; the older Prometheus text format 0.0.4,
//! which `node_exporter`'s textfile collector reads and which refuses a file that holds anything newer, differs
//! in this:
//!
//! - a counter's family has the name of its samples, `…_total` included;
//! - there is no type `info`; such a family is a gauge that is always 1;
//! - there is no `# UNIT` and no `# EOF`.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::stats::{BUCKET_BOUNDS_US, LatencyHistogram};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Prometheus,
}

/// What a family measures. Its name says it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only ever grows.
    Counter,
    /// A figure of this moment.
    Gauge,
    /// Always 1; the labels say something.
    Info,
    /// Durations in buckets.
    Histogram,
}

/// A sample's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Integer(u64),
    Float(f64),
    Histogram(Box<LatencyHistogram>),
}

/// The names and values that tell one sample from the others of its family.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A family and its samples.
#[derive(Debug)]
pub(super) struct Family {
    /// Without unit and suffix.
    name: Cow<'static, str>,
    help: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    samples: Vec<(Labels, Value)>,
}

/// All families, in the order in which they are written.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<Family>);

impl Families {
    /// Begins a family.
    pub(super) fn begin(
        &mut self,
        kind: Kind,
        name: &'static str,
        unit: Option<Unit>,
        help: &'static str,
    ) -> &mut Family {
        self.0.push(Family { name: name.into(), help, unit, kind, samples: Vec::new() });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Writes all families that have samples.
    pub(super) fn render(mut self, format: Format) -> String {
        self.0.retain(|family| !family.samples.is_empty());
        if format == Format::Prometheus {
            self.0.iter_mut().for_each(Family::leave_process_names_to_the_reader);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Written { families: self, format }));
        let mut out = String::new();
        let written = match format {
            Format::OpenMetrics => text::encode(&mut out, &registry),
            Format::Prometheus => text::encode_registry(&mut out, &registry),
        };
        // Writing to a string does not fail, and every value fits its type.
        if let Err(error) = written {
            tracing::error!(%error, "the metrics could not be written");
        }
        out
    }
}

impl Family {
    /// Adds a sample.
    pub(super) fn add(&mut self, labels: Labels, value: Value) {
        self.samples.push((labels, value));
    }

    /// `node_exporter` has a process of its own, and refuses a second `process_…` with the same labels.
    fn leave_process_names_to_the_reader(&mut self) {
        if self.name.starts_with("process_") {
            self.name = format!("fastpersist_{}", self.name).into();
        }
    }

    fn encode(&self, format: Format, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metric_type = match (self.kind, format) {
            (Kind::Counter, _) => MetricType::Counter,
            (Kind::Info, Format::OpenMetrics) => MetricType::Info,
            (Kind::Gauge, _) | (Kind::Info, Format::Prometheus) => MetricType::Gauge,
            (Kind::Histogram, _) => MetricType::Histogram,
        };
        let name = match format {
            Format::OpenMetrics => self.name.clone(),
            Format::Prometheus => self.full_name().into(),
        };
        let unit = self.unit.as_ref().filter(|_| format == Format::OpenMetrics);
        let mut encoder = encoder.encode_descriptor(&name, self.help, unit, metric_type)?;
        for (labels, value) in &self.samples {
            // An empty set of labels would be written as `{}`.
            if labels.is_empty() || (self.kind, format) == (Kind::Info, Format::OpenMetrics) {
                self.encode_value(format, labels, value, &mut encoder)?;
            } else {
                self.encode_value(format, labels, value, &mut encoder.encode_family(labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_value(
        &self,
        format: Format,
        labels: &Labels,
        value: &Value,
        encoder: &mut MetricEncoder<'_>,
    ) -> fmt::Result {
        match (self.kind, value) {
            (Kind::Info, _) if format == Format::OpenMetrics => encoder.encode_info(labels),
            // A gauge is written without a suffix; here the family's name has it.
            (Kind::Counter, Value::Integer(count)) if format == Format::Prometheus => {
                encoder.encode_gauge(count)
            }
            (Kind::Counter, Value::Float(count)) if format == Format::Prometheus => {
                encoder.encode_gauge(count)
            }
            (Kind::Counter, Value::Integer(count)) => {
                encoder.encode_counter::<NoLabelSet, _, f64>(count, None)
            }
            (Kind::Counter, Value::Float(count)) => encoder.encode_counter::<NoLabelSet, _, f64>(count, None),
            (_, Value::Integer(value)) => encoder.encode_gauge(value),
            (_, Value::Float(value)) => encoder.encode_gauge(value),
            (_, Value::Histogram(histogram)) => {
                let sum = histogram.sum_us as f64 / 1e6;
                let buckets = seconds(histogram);
                encoder.encode_histogram::<NoLabelSet>(sum, histogram.count, &buckets, None)
            }
        }
    }

    /// The name with unit and suffix.
    fn full_name(&self) -> String {
        let unit = self.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        format!("{}{unit}{suffix}", self.name)
    }
}

/// Buckets by their upper bound in seconds, the last without one.
fn seconds(histogram: &LatencyHistogram) -> Vec<(f64, u64)> {
    let bounds = BUCKET_BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6);
    let above = histogram.count - histogram.buckets.iter().sum::<u64>();
    bounds.zip(histogram.buckets).chain([(f64::INFINITY, above)]).collect()
}

/// The families as the library takes them.
#[derive(Debug)]
struct Written {
    families: Families,
    format: Format,
}

impl Collector for Written {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.families.0.iter().try_for_each(|family| family.encode(self.format, &mut encoder))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::Latency;

    fn families() -> Families {
        let mut families = Families::default();
        let label = |value: &str| vec![("storage", value.to_owned())];
        let requests = families.begin(Kind::Counter, "x_requests", None, "Requests.");
        requests.add(label("a\"b"), Value::Integer(7));
        families.begin(Kind::Counter, "x_nothing", None, "Has no samples.");
        let build = families.begin(Kind::Info, "x_build", None, "What runs.");
        build.add(vec![("version", "1".to_owned())], Value::Integer(1));
        let memory = families.begin(Kind::Gauge, "process_memory", Some(Unit::Bytes), "Memory.");
        memory.add(Vec::new(), Value::Integer(5));
        let latency = Latency::default();
        latency.note(Duration::from_micros(150), 3);
        latency.note(Duration::from_secs(20), 1);
        let sync = families.begin(Kind::Histogram, "x_sync", Some(Unit::Seconds), "Syncs.");
        sync.add(label("s"), Value::Histogram(Box::new(latency.histogram())));
        families
    }

    #[test]
    fn open_metrics_has_types_units_and_an_end() {
        let text = families().render(Format::OpenMetrics);
        let (head, histogram) = text.split_once("x_sync_seconds_sum").expect("a histogram");
        assert_eq!(
            head,
            "# HELP x_requests Requests.\n# TYPE x_requests counter\nx_requests_total{storage=\"a\\\"b\"} 7\n\
             # HELP x_build What runs.\n# TYPE x_build info\nx_build_info{version=\"1\"} 1\n\
             # HELP process_memory_bytes Memory.\n# TYPE process_memory_bytes gauge\n# UNIT process_memory_bytes bytes\n\
             process_memory_bytes 5\n\
             # HELP x_sync_seconds Syncs.\n# TYPE x_sync_seconds histogram\n# UNIT x_sync_seconds seconds\n"
        );
        for line in [
            "x_sync_seconds_bucket{le=\"0.0001\",storage=\"s\"} 0",
            "x_sync_seconds_bucket{le=\"0.0002\",storage=\"s\"} 3",
            "x_sync_seconds_bucket{le=\"10.0\",storage=\"s\"} 3",
            "x_sync_seconds_bucket{le=\"+Inf\",storage=\"s\"} 4",
            "x_sync_seconds_count{storage=\"s\"} 4",
        ] {
            assert!(histogram.lines().any(|found| found == line), "{line} in\n{histogram}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn the_older_format_has_nothing_that_only_the_newer_one_knows() {
        let text = families().render(Format::Prometheus);
        let (head, _) = text.split_once("x_sync_seconds_sum").expect("a histogram");
        assert_eq!(
            head,
            "# HELP x_requests_total Requests.\n# TYPE x_requests_total counter\nx_requests_total{storage=\"a\\\"b\"} 7\n\
             # HELP x_build_info What runs.\n# TYPE x_build_info gauge\nx_build_info{version=\"1\"} 1\n\
             # HELP fastpersist_process_memory_bytes Memory.\n# TYPE fastpersist_process_memory_bytes gauge\n\
             fastpersist_process_memory_bytes 5\n\
             # HELP x_sync_seconds Syncs.\n# TYPE x_sync_seconds histogram\n"
        );
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }
}
