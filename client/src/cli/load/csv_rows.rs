//! CSV rows to JSON documents.
//!
//! Invariant: a number goes into the document with the digits that the cell has. What is no number as
//! JSON has it (`007`, `1.`, `NaN`) is a text and stays one.

use fastpersist_client::protocol::json::{Kind, Scanner, write_string};

/// How cells become values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cells {
    /// Every cell that is not null is a text.
    pub(crate) strings: bool,
    /// A cell with this text is null, as an empty one is.
    pub(crate) null: Option<String>,
}

/// A row as a JSON object with the columns' names. The error says why it is none.
pub(crate) fn document(
    names: &csv::StringRecord,
    row: &csv::StringRecord,
    cells: &Cells,
) -> Result<String, String> {
    if names.len() != row.len() {
        return Err(format!("the row has {} cells, but the head has {}", row.len(), names.len()));
    }
    let mut json = Vec::with_capacity(row.as_slice().len() + names.as_slice().len() + 6 * row.len());
    json.push(b'{');
    for (index, (name, cell)) in names.iter().zip(row).enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_string(&mut json, name);
        json.push(b':');
        write_cell(&mut json, cell, cells);
    }
    json.push(b'}');
    String::from_utf8(json).map_err(|error| error.to_string())
}

fn write_cell(json: &mut Vec<u8>, cell: &str, cells: &Cells) {
    if cell.is_empty() || cells.null.as_deref() == Some(cell) {
        json.extend_from_slice(b"null");
    } else if cells.strings {
        write_string(json, cell);
    } else if is_number(cell) {
        json.extend_from_slice(cell.as_bytes());
    } else if cell.eq_ignore_ascii_case("true") {
        json.extend_from_slice(b"true");
    } else if cell.eq_ignore_ascii_case("false") {
        json.extend_from_slice(b"false");
    } else {
        write_string(json, cell);
    }
}

/// Whether the whole cell is one JSON number.
fn is_number(cell: &str) -> bool {
    if !cell.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return false;
    }
    let raw = Scanner::new(cell, 1).value();
    raw.is_ok_and(|raw| matches!(raw.kind, Kind::Number { .. }) && raw.text.len() == cell.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str], options: &Cells) -> Result<String, String> {
        let names: Vec<String> = (0..cells.len()).map(|n| format!("c{n}")).collect();
        document(&names.into(), &cells.to_vec().into(), options)
    }

    #[test]
    fn cells_become_what_they_look_like() {
        let cells = ["1", "-2.50", "1e3", "007", "1.", "N1", "", "TRUE", "false", "a\"b\n", "NaN", "1 ", "-"];
        assert_eq!(
            row(&cells, &Cells::default()).unwrap(),
            r#"{"c0":1,"c1":-2.50,"c2":1e3,"c3":"007","c4":"1.","c5":"N1","c6":null,"c7":true,"c8":false,"c9":"a\"b\n","c10":"NaN","c11":"1 ","c12":"-"}"#
        );
    }

    #[test]
    fn texts_and_nulls_as_asked() {
        let cells = Cells { strings: true, null: None };
        assert_eq!(row(&["1", "", "true"], &cells).unwrap(), r#"{"c0":"1","c1":null,"c2":"true"}"#);
        let cells = Cells { strings: false, null: Some("NA".to_owned()) };
        assert_eq!(row(&["NA", "NAN", ""], &cells).unwrap(), r#"{"c0":null,"c1":"NAN","c2":null}"#);
    }

    #[test]
    fn a_row_of_another_length_is_refused() {
        let error = document(&vec!["a", "b"].into(), &vec!["1"].into(), &Cells::default()).unwrap_err();
        assert_eq!(error, "the row has 1 cells, but the head has 2");
    }
}
