//! Results as Arrow streams.

use super::*;
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::util::display::array_value_to_string;

use crate::handover::Handovers;

fn hand_over(
    sql: &str,
    max_rows: usize,
    handovers: &Arc<Handovers>,
) -> Result<(Rows, Vec<RecordBatch>), RunError> {
    let bounds = Bounds { max_rows, max_bytes: 1 };
    let query = Query { bounds, form: Form::Arrow(Arc::clone(handovers)), ..query(sql, Vec::new()) };
    let mut rows = query.run(&engine().1, &Running::new("any"))?;
    let file = std::fs::File::from(rows.handover.take().expect("handed over").fd);
    let batches = StreamReader::try_new(std::io::BufReader::new(file), None).expect("a stream");
    Ok((rows, batches.collect::<Result<_, _>>().expect("whole batches")))
}

/// Types that could come as something else, and how they come.
const FORMS: &[(&str, &str, &str)] = &[
    ("true", "Boolean", "true"),
    ("7::BIGINT", "Int64", "7"),
    ("18446744073709551615::UBIGINT", "UInt64", "18446744073709551615"),
    ("sum(x) FROM (VALUES (1), (2)) t(x)", "Decimal128(38, 0)", "3"),
    ("(-9223372036854775809)::HUGEINT", "Decimal128(38, 0)", "-9223372036854775809"),
    ("1.50::DECIMAL(4, 2)", "Decimal128(4, 2)", "1.50"),
    ("'nan'::DOUBLE", "Float64", "NaN"),
    ("'ü'", "LargeUtf8", "ü"),
    ("'{\"a\": 1}'::JSON", "LargeUtf8", "{\"a\": 1}"),
    ("'\\x00\\xFF'::BLOB", "LargeBinary", "00ff"),
    ("'f0000000-1111-2222-3333-444444444444'::UUID", "LargeUtf8", "f0000000-1111-2222-3333-444444444444"),
    ("DATE '2025-01-15'", "Date32", "2025-01-15"),
    ("TIME '10:30:00.5'", "Time64(µs)", "10:30:00.500"),
    ("TIMESTAMP '2025-01-15 10:30:00'", "Timestamp(µs)", "2025-01-15T10:30:00"),
    ("'2025-01-15 10:30:00.123456789'::TIMESTAMP_NS", "Timestamp(ns)", "2025-01-15T10:30:00.123456789"),
    ("INTERVAL 3 DAY", "Interval(MonthDayNano)", "3 days"),
    ("'a'::ENUM ('b', 'a')", "Dictionary(UInt8, Utf8)", "a"),
    ("[1, NULL]", "LargeList(Int32, field: 'l')", "[1, ]"),
    ("{'a': 1, 'b': 'x'}", "Struct(\"a\": Int32, \"b\": LargeUtf8)", "{a: 1, b: x}"),
    (
        "MAP {'k': 1}",
        "Map(\"entries\": non-null Struct(\"key\": non-null LargeUtf8, \"value\": Int32), unsorted)",
        "{k: 1}",
    ),
    ("union_value(n := 1)", "Union(Sparse, 0: (\"n\": Int32))", "{n=1}"),
];

#[test]
fn what_arrow_has_a_type_for_comes_as_it_is() {
    let handovers = Handovers::new(1 << 20);
    let mut wrong = Vec::new();
    for (sql, kind, expected) in FORMS {
        let (rows, batches) = hand_over(&format!("SELECT {sql}"), 10, &handovers)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!((rows.count, rows.truncated, rows.json.len()), (1, false, 0));
        let column = batches[0].column(0);
        let found = (column.data_type().to_string(), array_value_to_string(column, 0).expect("readable"));
        if (found.0.as_str(), found.1.as_str()) != (*kind, *expected) {
            wrong.push(format!("{sql}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(handovers.bytes(), 0, "closed by the reader");
}

#[test]
fn every_type_comes_or_is_refused_by_name() {
    let handovers = Handovers::new(1 << 20);
    for (sql, _, kind) in TYPES {
        match hand_over(&format!("SELECT {sql} AS v, [{sql}] AS w"), 10, &handovers) {
            Ok((rows, batches)) => {
                assert_eq!((rows.columns[0].kind.as_str(), batches[0].num_rows()), (*kind, 1), "{sql}");
            }
            Err(RunError::Failed(message)) => {
                assert!(message.contains("column \"v\"; cast it"), "{sql}: {message}");
            }
            Err(error) => panic!("{sql}: {error}"),
        }
    }
}

#[test]
fn a_result_is_cut_at_a_whole_row_and_stays_a_stream() {
    let handovers = Handovers::new(100_000);
    let numbers = "SELECT i, 'number ' || i FROM range(1_000_000) t(i)";
    for max_rows in [1, 2_048, 2_049] {
        let (rows, batches) = hand_over(numbers, max_rows, &handovers).expect("cut by its rows");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), max_rows);
        assert!(rows.truncated && rows.count == max_rows);
    }
    let (rows, batches) = hand_over("SELECT i FROM range(5) t(i)", 5, &handovers).expect("all");
    assert!(!rows.truncated && batches[0].num_rows() == 5);
    let (rows, batches) = hand_over("SELECT i FROM range(0) t(i)", 5, &handovers).expect("none");
    assert!(!rows.truncated && batches.is_empty());
    let (rows, batches) = hand_over(numbers, usize::MAX, &handovers).expect("cut by its bytes");
    assert!(rows.truncated && rows.count >= 2_048, "{}", rows.count);
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows.count);
    let last = batches.last().expect("a batch");
    let text = array_value_to_string(last.column(1), last.num_rows() - 1).expect("readable");
    assert_eq!(text, format!("number {}", rows.count - 1));
}

#[test]
fn what_others_hold_is_told_and_not_taken_for_the_end() {
    let handovers = Handovers::new(100_000);
    let numbers = |count: usize| format!("SELECT i, 'number ' || i FROM range({count}) t(i)");
    let bounds = Bounds { max_rows: usize::MAX, max_bytes: 1 };
    let form = || Form::Arrow(Arc::clone(&handovers));
    let (_dir, engine) = engine();
    let run = |count| {
        let query = Query { bounds, form: form(), ..query(&numbers(count), Vec::new()) };
        query.run(&engine, &Running::new("any"))
    };
    let held = run(2_000).expect("a result");
    let error = run(4_000).expect_err("not beside the other one");
    assert!(matches!(error, RunError::Exhausted(crate::handover::Exhausted::ByOthers)), "{error}");
    drop(held);
    assert!(!run(2_000).expect("the other one was closed").truncated);
}

/// Where the beginning did not fit, or the end, the client was told that Arrow had failed.
#[test]
fn whatever_part_does_not_fit_it_is_the_bound_that_is_told() {
    let numbers = "SELECT i, 'number ' || i FROM range(5_000) t(i)";
    let bytes_of = |handovers: &Arc<Handovers>| {
        let (_dir, engine) = engine();
        let bounds = Bounds { max_rows: usize::MAX, max_bytes: 1 };
        let query = Query { bounds, form: Form::Arrow(Arc::clone(handovers)), ..query(numbers, Vec::new()) };
        let rows = query.run(&engine, &Running::new("any")).expect("a result");
        rows.handover.expect("handed over").bytes
    };
    let whole = bytes_of(&Handovers::new(1 << 20));
    let (rows, _) = hand_over(numbers, usize::MAX, &Handovers::new(whole)).expect("it just fits");
    assert!(!rows.truncated && rows.count == 5_000);
    for missing in [1, 4, 8, 9] {
        let (rows, batches) =
            hand_over(numbers, usize::MAX, &Handovers::new(whole - missing)).expect("it is cut");
        assert!(rows.truncated, "{missing} bytes are missing");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows.count);
    }
    let handovers = Handovers::new(whole);
    let query = |sql| Query {
        bounds: Bounds { max_rows: usize::MAX, max_bytes: 1 },
        form: Form::Arrow(Arc::clone(&handovers)),
        ..query(sql, Vec::new())
    };
    let (_dir, engine) = engine();
    let _held = query(numbers).run(&engine, &Running::new("any")).expect("a result");
    let error =
        query("SELECT 1").run(&engine, &Running::new("any")).expect_err("not even its beginning fits");
    assert!(matches!(error, RunError::Exhausted(crate::handover::Exhausted::ByOthers)), "{error}");
}
