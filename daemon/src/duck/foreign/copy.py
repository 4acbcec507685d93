"""Copies the tables of a DuckDB file into one that older versions of DuckDB can read.

Arguments: the file, which is a private copy, and the new file. The row order is kept.
"""

import sys

import duckdb


def quoted(text, mark):
    return mark + text.replace(mark, mark + mark) + mark


con = duckdb.connect()
con.execute("SET preserve_insertion_order = true")
con.execute(f"ATTACH {quoted(sys.argv[1], chr(39))} AS source")
con.execute(f"ATTACH {quoted(sys.argv[2], chr(39))} AS target (STORAGE_VERSION 'v1.0.0')")
tables = con.execute(
    "SELECT table_name FROM duckdb_tables() WHERE database_name = 'source' AND schema_name = 'main'"
).fetchall()
for (table,) in tables:
    name = quoted(table, '"')
    con.execute(f"CREATE TABLE target.main.{name} AS SELECT * FROM source.main.{name}")
con.execute("CHECKPOINT target")
con.close()
