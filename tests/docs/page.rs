//! A page as its blocks: fenced code with its kind, and code that is indented by four.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// The kind of a block that is indented and not fenced.
pub(super) const INDENTED: &str = "indented";

pub(super) struct Block {
    pub(super) page: &'static str,
    pub(super) kind: String,
    pub(super) text: String,
    /// Where its text begins, from 1.
    line: usize,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.page, self.line)
    }
}

/// The checkout.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

pub(super) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every block of a page, in order.
pub(super) fn blocks(page: &str) -> Vec<Block> {
    let page = super::PAGES.into_iter().find(|known| *known == page).expect("one of our pages");
    let mut blocks: Vec<Block> = Vec::new();
    let mut fenced = false;
    let mut paragraph = false;
    for (index, line) in read(page).lines().enumerate() {
        if let Some(kind) = line.strip_prefix("```") {
            fenced = !fenced;
            paragraph = false;
            if fenced {
                blocks.push(Block { page, kind: kind.to_owned(), text: String::new(), line: index + 2 });
            }
        } else if fenced {
            push(&mut blocks, line);
        } else if let Some(code) = line.strip_prefix("    ").filter(|_| !paragraph) {
            let goes_on = blocks
                .last()
                .is_some_and(|b| b.kind == INDENTED && b.line + b.text.lines().count() == index + 1);
            if !goes_on {
                blocks.push(Block { page, kind: INDENTED.to_owned(), text: String::new(), line: index + 1 });
            }
            push(&mut blocks, code);
        } else {
            paragraph = !line.is_empty();
        }
    }
    assert!(!fenced, "{page}: a block has no end");
    blocks
}

fn push(blocks: &mut [Block], line: &str) {
    let block = blocks.last_mut().expect("a block has begun");
    block.text.push_str(line);
    block.text.push('\n');
}
