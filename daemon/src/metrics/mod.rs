//! The daemon's figures as metrics, for Prometheus and whoever reads its formats.
//!
//! There is one renderer and three ways to it: `stats` on the wire, HTTP on a loopback address ([`http`]), and a
//! file for `node_exporter` ([`textfile`]). It reads the counters that [`crate::stats`] keeps anyway, when somebody
//! asks, so metrics cost nothing while nobody does.
//!
//! Invariant: labels are storage, op, code and job, and what `fastpersist_build_info` tells: each with a few
//! values that the configuration or the protocol fixes. No key, no date, nothing that a client chose.

mod collect;
mod family;
mod http;
mod publish;
mod textfile;

pub use family::Format;
pub use http::ListenError;
pub use publish::{Endpoint, Publisher};

use crate::server::Server;

/// All metrics as one text.
pub fn render(server: &Server, format: Format) -> String {
    collect::collect(server).render(format)
}
