//! Names as Hive writes them into directories.
//!
//! Invariant: two names never share a directory, and decoding `%XX` gives the name back. Null has a name
//! that no encoded text can have.

/// What Hive writes for null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The longest name that file systems take.
pub(super) const MAX_BYTES: usize = 255;

/// The directory of a partition: `column=value`.
pub(super) fn directory(column: &str, name: Option<&str>) -> String {
    let mut directory = format!("{column}=");
    match name {
        None => directory.push_str(NULL),
        // A process of this very name is not null: its first byte is encoded.
        Some(NULL) => {
            push_encoded(&mut directory, NULL.as_bytes()[0]);
            directory.push_str(&NULL[1..]);
        }
        Some(name) => {
            for character in name.chars() {
                match u8::try_from(character) {
                    Ok(byte) if is_unsafe(byte) => push_encoded(&mut directory, byte),
                    _ => directory.push(character),
                }
            }
        }
    }
    directory
}

/// The characters that Hive's `escapePathName` encodes, and NUL, which no path can have.
const fn is_unsafe(byte: u8) -> bool {
    byte <= 0x1f
        || byte == 0x7f
        || matches!(
            byte,
            b'"' | b'#' | b'%' | b'\'' | b'*' | b'/' | b':' | b'=' | b'?' | b'\\' | b'{' | b'[' | b']' | b'^'
        )
}

fn push_encoded(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}
