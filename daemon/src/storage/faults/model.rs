//! What a disk has, and what it only seems to have: the state of a power cut.
//!
//! Every operation is done on real files, so that whoever reads them past the seam sees what a process sees. Beside
//! them stands what is on stable storage: of each file its bytes at the last sync and the changes since, of each
//! directory its names at the last sync and the changes since. A power cut keeps of the changes what chance keeps, of
//! a file sector by sector.
//!
//! DuckDB's files do not go through the seam. What is assumed of them: their bytes are as DuckDB left them, for it
//! syncs what it relies on; that they are there, or gone, is durable when the directory was synced after that.
//!
//! Invariant: what was synced is in every image that is made.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::chance::Chance;

/// What a disk writes or does not write in one piece.
const SECTOR_BYTES: usize = 512;

/// What was done to a file since it was synced.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Extend(u64),
    Truncate(u64),
}

#[derive(Debug)]
enum File {
    Ours {
        durable: Vec<u8>,
        changes: Vec<Change>,
    },
    /// Not written through the seam: a second name that keeps the file, and its inode.
    Foreign {
        kept: PathBuf,
        inode: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory,
}

/// What was done to a directory since it was synced.
#[derive(Debug, Clone)]
enum Naming {
    Add(String, Node),
    Rename(String, String, Node),
    Remove(String),
}

#[derive(Debug, Default)]
struct Directory {
    durable: BTreeMap<String, Node>,
    current: BTreeMap<String, Node>,
    changes: Vec<Naming>,
}

impl Directory {
    fn change(&mut self, change: Naming) {
        apply(&mut self.current, &change);
        self.changes.push(change);
    }

    fn replace(&mut self, old: Node, new: Node) {
        let in_changes = self.changes.iter_mut().filter_map(|change| match change {
            Naming::Add(_, node) | Naming::Rename(_, _, node) => Some(node),
            Naming::Remove(_) => None,
        });
        let nodes = self.durable.values_mut().chain(self.current.values_mut()).chain(in_changes);
        nodes.filter(|node| **node == old).for_each(|node| *node = new);
    }

    /// The names that a power cut leaves.
    fn surviving(&self, chance: &mut Chance) -> BTreeMap<String, Node> {
        let mut names = self.durable.clone();
        let kept = match chance.below(4) {
            0 => return names,
            1 => self.changes.len(),
            2 => chance.below(self.changes.len() as u64 + 1) as usize,
            // A file system that keeps no order among its names.
            _ => {
                for change in &self.changes {
                    if chance.percent(50) {
                        apply(&mut names, change);
                    }
                }
                return names;
            }
        };
        self.changes[..kept].iter().for_each(|change| apply(&mut names, change));
        names
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &Naming) {
    match change {
        Naming::Add(name, node) => drop(names.insert(name.clone(), *node)),
        Naming::Rename(from, to, node) => {
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
        Naming::Remove(name) => drop(names.remove(name)),
    }
}

/// The whole disk below one directory.
#[derive(Debug)]
pub(super) struct Model {
    root: PathBuf,
    /// Where second names of foreign files are.
    kept: PathBuf,
    files: Vec<File>,
    directories: BTreeMap<PathBuf, Directory>,
}

fn split(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    (path.parent().expect("a directory").to_owned(), name)
}

fn is_duckdbs(name: &str) -> bool {
    name.contains(".duckdb") && !name.ends_with(".opening") && !name.ends_with(".suspect")
}

/// Whether a database stands under that name, and not something beside one.
fn is_database(name: &str) -> bool {
    name.ends_with(".duckdb")
}

impl Model {
    /// A disk on which everything that is there is durable.
    pub(super) fn new(root: &Path, kept: PathBuf) -> Self {
        fs::create_dir_all(&kept).expect("made");
        let mut model = Self { root: root.to_owned(), kept, files: Vec::new(), directories: BTreeMap::new() };
        model.adopt(root);
        model
    }

    /// The same disk below another directory, to which everything was copied when its process was killed: what was not
    /// durable is not durable yet.
    pub(super) fn moved(self, root: PathBuf, kept: PathBuf) -> Self {
        fs::create_dir_all(&kept).expect("made");
        let old_root = self.root.clone();
        let mut moved = Self { root, kept, files: self.files, directories: BTreeMap::new() };
        for (path, mut directory) in self.directories {
            let path = moved.root.join(path.strip_prefix(&old_root).expect("below the root"));
            for (name, node) in directory.current.clone() {
                let Node::File(id) = node else { continue };
                if matches!(moved.files[id], File::Foreign { .. }) {
                    match moved.foreign(&path.join(&name)) {
                        Some(copy) => directory.replace(node, copy),
                        // DuckDB removed its log while the copy was made.
                        None => directory.change(Naming::Remove(name)),
                    }
                }
            }
            moved.directories.insert(path, directory);
        }
        moved
    }

    fn adopt(&mut self, path: &Path) {
        let mut directory = Directory::default();
        for entry in fs::read_dir(path).expect("listed") {
            let (_, name) = split(&entry.expect("an entry").path());
            let at = path.join(&name);
            let node = if at.is_dir() {
                self.adopt(&at);
                Node::Directory
            } else if is_duckdbs(&name) {
                self.foreign(&at).expect("there")
            } else {
                self.ours(fs::read(&at).expect("read"))
            };
            directory.current.insert(name, node);
        }
        directory.durable = directory.current.clone();
        self.directories.insert(path.to_owned(), directory);
    }

    fn ours(&mut self, durable: Vec<u8>) -> Node {
        self.files.push(File::Ours { durable, changes: Vec::new() });
        Node::File(self.files.len() - 1)
    }

    /// `None` when DuckDB has removed the file meanwhile.
    fn foreign(&mut self, path: &Path) -> Option<Node> {
        let kept = self.kept.join(self.files.len().to_string());
        match fs::hard_link(path, &kept) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            linked => linked.expect("linked"),
        }
        let inode = fs::metadata(&kept).expect("there").ino();
        self.files.push(File::Foreign { kept, inode });
        Some(Node::File(self.files.len() - 1))
    }

    fn directory(&mut self, path: &Path) -> &mut Directory {
        self.directories.entry(path.to_owned()).or_default()
    }

    /// Notes what happened in a directory past the seam.
    fn look_at(&mut self, path: &Path) {
        let Ok(entries) = fs::read_dir(path) else { return };
        let mut there = BTreeMap::new();
        for entry in entries {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_file() {
                let name = entry.file_name().into_string().expect("UTF-8");
                if let Ok(metadata) = entry.metadata() {
                    there.insert(name, metadata.ino());
                }
            }
        }
        let known = self.directory(path).current.clone();
        for (name, node) in &known {
            let Node::File(id) = node else { continue };
            let File::Foreign { inode, .. } = self.files[*id] else { continue };
            if there.get(name) != Some(&inode) {
                self.directory(path).change(Naming::Remove(name.clone()));
            }
        }
        for name in there.keys() {
            if !self.directory(path).current.contains_key(name)
                && let Some(node) = self.foreign(&path.join(name))
            {
                self.directory(path).change(Naming::Add(name.clone(), node));
            }
        }
    }

    /// The file of that name; one that appeared past the seam is noted first.
    pub(super) fn id_of(&mut self, path: &Path) -> usize {
        let (directory, name) = split(path);
        self.look_at(&directory);
        match self.directory(&directory).current.get(&name) {
            Some(Node::File(id)) => *id,
            other => panic!("{}: {other:?} is no file", path.display()),
        }
    }

    pub(super) fn created(&mut self, path: &Path) -> usize {
        let (directory, name) = split(path);
        let node = self.ours(Vec::new());
        self.directory(&directory).change(Naming::Add(name, node));
        self.files.len() - 1
    }

    pub(super) fn created_dir(&mut self, path: &Path) {
        let (directory, name) = split(path);
        let known = self.directory(&directory).current.contains_key(&name);
        if !known {
            self.directory(&directory).change(Naming::Add(name, Node::Directory));
            self.directories.insert(path.to_owned(), Directory::default());
        }
    }

    pub(super) fn renamed(&mut self, from: &Path, to: &Path, id: usize) {
        let ((directory, old), (_, new)) = (split(from), split(to));
        self.directory(&directory).change(Naming::Rename(old, new.clone(), Node::File(id)));
        let is_whole = matches!(&self.files[id], File::Ours { changes, .. } if changes.is_empty());
        if is_whole && is_database(&new) {
            // From here on DuckDB writes it, past the seam. One that was not synced before stays as it is, and loses that.
            if let Some(node) = self.foreign(to) {
                self.directory(&directory).replace(Node::File(id), node);
            }
        }
    }

    pub(super) fn removed(&mut self, path: &Path) {
        let (directory, name) = split(path);
        self.directory(&directory).change(Naming::Remove(name));
    }

    pub(super) fn synced_dir(&mut self, path: &Path) {
        if !path.starts_with(&self.root) {
            return;
        }
        self.look_at(path);
        let directory = self.directory(path);
        directory.durable = directory.current.clone();
        directory.changes.clear();
    }

    pub(super) fn changed(&mut self, id: usize, change: Change) {
        if let File::Ours { changes, .. } = &mut self.files[id] {
            changes.push(change);
        }
    }

    pub(super) fn synced(&mut self, id: usize) {
        if let File::Ours { durable, changes } = &mut self.files[id] {
            for change in changes.drain(..) {
                change_bytes(durable, &change);
            }
        }
    }

    /// A sync failed: what it should have written is partly there, and the kernel forgets the rest.
    pub(super) fn sync_failed(&mut self, id: usize, chance: &mut Chance) {
        if let File::Ours { durable, changes } = &mut self.files[id] {
            *durable = surviving(durable, changes, chance);
            changes.clear();
        }
    }

    /// Notes what happened past the seam.
    pub(super) fn look_everywhere(&mut self) {
        for path in self.directories.keys().cloned().collect::<Vec<_>>() {
            self.look_at(&path);
        }
    }

    /// Makes in `image` what the machine finds when it comes up again.
    pub(super) fn power_cut(&mut self, image: &Path, chance: &mut Chance) {
        self.look_everywhere();
        self.restore(&self.root, image, chance);
    }

    fn restore(&self, path: &Path, image: &Path, chance: &mut Chance) {
        fs::create_dir_all(image).expect("made");
        let Some(directory) = self.directories.get(path) else { return };
        for (name, node) in directory.surviving(chance) {
            let to = image.join(&name);
            match node {
                Node::Directory => self.restore(&path.join(&name), &to, chance),
                Node::File(id) => match &self.files[id] {
                    File::Ours { durable, changes } => {
                        fs::write(to, surviving(durable, changes, chance)).expect("written");
                    }
                    File::Foreign { kept, .. } => drop(fs::copy(kept, to).expect("copied")),
                },
            }
        }
    }
}

/// The bytes that a power cut leaves of a file.
fn surviving(durable: &[u8], changes: &[Change], chance: &mut Chance) -> Vec<u8> {
    let (mut bytes, mut seeming) = (durable.to_vec(), durable.to_vec());
    let mut left = chance.below(40);
    let percent = chance.one_of(&[10, 50, 90]);
    let mode = chance.below(4);
    for change in changes {
        change_bytes(&mut seeming, change);
        keep_some(&mut bytes, &seeming, change, &mut || match mode {
            0 => false,
            1 => true,
            // In order, up to somewhere.
            2 => {
                let keep = left > 0;
                left = left.saturating_sub(1);
                keep
            }
            _ => chance.percent(percent),
        });
    }
    bytes
}

fn change_bytes(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, written) => {
            let (from, to) = (*offset as usize, *offset as usize + written.len());
            bytes.resize(bytes.len().max(to), 0);
            bytes[from..to].copy_from_slice(written);
        }
        Change::Extend(length) => bytes.resize(bytes.len().max(*length as usize), 0),
        Change::Truncate(length) => bytes.resize(*length as usize, 0),
    }
}

/// Brings a change to the disk as `keep` says, which is asked for each sector. A sector is as the process sees it,
/// earlier changes included.
fn keep_some(bytes: &mut Vec<u8>, seeming: &[u8], change: &Change, keep: &mut dyn FnMut() -> bool) {
    match change {
        Change::Write(offset, written) => {
            let end = *offset as usize + written.len();
            let mut at = *offset as usize / SECTOR_BYTES * SECTOR_BYTES;
            while at < end {
                let next = at + SECTOR_BYTES;
                if keep() {
                    // The file is no longer than what was written.
                    let to = next.min(end.max(bytes.len())).min(seeming.len());
                    bytes.resize(bytes.len().max(to), 0);
                    bytes[at..to].copy_from_slice(&seeming[at..to]);
                }
                at = next;
            }
        }
        change => {
            if keep() {
                change_bytes(bytes, change);
            }
        }
    }
}
