//! The README's Rust is cut from `client/examples`, and those programs run.

use std::fs;

use super::{
    README,
    page::{Block, root},
    shell::run,
    start, to_run,
};
use crate::harness::binary;

/// The lines of a text without their indentation and without empty ones.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// Whether the parts of a block, between its `// …`, stand in a program one after the other.
fn is_cut_from(block: &Block, program: &str) -> bool {
    let mut rest = &lines(program)[..];
    lines(&block.text).split(|line| *line == "// …").all(|part| {
        let at = rest.windows(part.len()).position(|window| window == part);
        rest = at.map_or(rest, |at| &rest[at + part.len()..]);
        at.is_some()
    })
}

/// The names and texts of the client's examples.
fn programs() -> Vec<(String, String)> {
    let files = fs::read_dir(root().join("client/examples")).expect("the examples");
    let paths = files.map(|file| file.expect("a directory entry").path());
    let rust = paths.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let name = |path: &std::path::Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    rust.map(|path| (name(&path), fs::read_to_string(&path).expect("read an example"))).collect()
}

#[test]
fn the_rust_of_the_readme_is_cut_from_the_examples() {
    let programs = programs();
    for block in to_run(README, "rust") {
        let found = programs.iter().any(|(_, program)| is_cut_from(&block, program));
        assert!(
            found,
            "{block}: no program in client/examples has these lines in this order\n{}",
            block.text
        );
    }
}

#[test]
fn the_examples_run_on_the_embedded_default() {
    let Some(default) = start::Default::start(None) else { return };
    for (name, _) in programs() {
        let program = binary(&format!("examples/{name}"));
        run(&default.site.path(""), &default.socket, &name, &format!("exec '{}'", program.display()));
    }
    default.daemon.stop();
}
