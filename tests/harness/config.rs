//! Configuration files, written the way a person writes them.

use std::fmt::Write as _;

/// A configuration in the making. `{dir}` in any text becomes the site's directory.
#[derive(Clone, Default)]
pub(crate) struct Config {
    daemon: String,
    limits: String,
    rest: String,
}

impl Config {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The two storages of most tests: `jobs` (dated) and `settings` (collection).
    pub(crate) fn both() -> Self {
        Self::new().dated("jobs", "").collection("settings", "")
    }

    /// Lines for `[daemon]`.
    pub(crate) fn daemon(mut self, lines: &str) -> Self {
        self.daemon.push_str(lines);
        self.daemon.push('\n');
        self
    }

    /// Lines for `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        self.limits.push_str(lines);
        self.limits.push('\n');
        self
    }

    /// A dated storage in `{dir}/NAME`, with further lines of its own.
    pub(crate) fn dated(self, name: &str, lines: &str) -> Self {
        self.storage(name, "dated", lines)
    }

    /// A collection storage in `{dir}/NAME`, with further lines of its own.
    pub(crate) fn collection(self, name: &str, lines: &str) -> Self {
        self.storage(name, "collection", lines)
    }

    fn storage(self, name: &str, model: &str, lines: &str) -> Self {
        self.text(&format!("[storage.{name}]\nmodel = \"{model}\"\nbase_dir = \"{{dir}}/{name}\"\n{lines}\n"))
    }

    /// Whole tables, as they stand.
    pub(crate) fn text(mut self, toml: &str) -> Self {
        writeln!(self.rest, "{toml}").expect("write to a string");
        self
    }

    /// The file. The socket is the site's own unless `[daemon]` names one.
    pub(crate) fn render(&self, dir: &str) -> String {
        let socket = if self.daemon.contains("socket =") { "" } else { "socket = \"{dir}/sock\"\n" };
        let limits =
            if self.limits.is_empty() { String::new() } else { format!("[limits]\n{}", self.limits) };
        format!("[daemon]\n{socket}{}{limits}{}", self.daemon, self.rest).replace("{dir}", dir)
    }
}
