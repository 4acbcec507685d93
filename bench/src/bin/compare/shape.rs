//! What is compared: connections × depth, stores or reads, and the ratio that is asked for.
//!
//! Invariant: the ratios are those that the project promises; a shape outside the list has none.

use std::fmt;
use std::str::FromStr;

/// One line of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    pub(crate) pipeline: usize,
    pub(crate) reads: bool,
}

const fn stores(connections: usize, pipeline: usize) -> Shape {
    Shape { connections, pipeline, reads: false }
}

/// The promised shapes, with the least ratio to Redis of each.
const PROMISED: [(Shape, f64); 7] = [
    (stores(1, 1), 1.3),
    (stores(8, 1), 1.1),
    (stores(64, 1), 1.2),
    (stores(8, 16), 1.5),
    (stores(8, 64), 1.8),
    (stores(64, 64), 1.8),
    (Shape { connections: 8, pipeline: 64, reads: true }, 1.0),
];

impl Shape {
    pub(crate) fn all() -> Vec<Self> {
        PROMISED.iter().map(|(shape, _)| *shape).collect()
    }

    /// The least ratio to Redis.
    pub(crate) fn required(self) -> Option<f64> {
        PROMISED.iter().find(|(shape, _)| *shape == self).map(|(_, ratio)| *ratio)
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no shape; one is 8x64 (8 connections, 64 deep) or reads:8x64");
        let (reads, numbers) = match text.strip_prefix("reads:") {
            Some(numbers) => (true, numbers),
            None => (false, text),
        };
        let (connections, pipeline) = numbers.split_once('x').ok_or_else(wrong)?;
        Ok(Self {
            connections: connections.parse().map_err(|_| wrong())?,
            pipeline: pipeline.parse().map_err(|_| wrong())?,
            reads,
        })
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.reads { "reads" } else { "stores" };
        formatter.pad(&format!("{kind} {} × {}", self.connections, self.pipeline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_and_know_their_ratio() {
        let ratio = |text: &str| text.parse::<Shape>().map(Shape::required);
        assert_eq!(ratio("8x64"), Ok(Some(1.8)));
        assert_eq!(ratio("reads:8x64"), Ok(Some(1.0)));
        assert_eq!(ratio("3x7"), Ok(None));
        for bad in ["8", "x", "8x", "writes:1x1"] {
            let message = ratio(bad).expect_err(bad);
            assert!(message.contains("reads:8x64"), "{message}");
        }
    }
}
