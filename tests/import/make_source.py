"""Makes directories with the Python library, and prints what it says that it holds.

Arguments: how (closed; killed; recovered, which opens what was killed and is killed again), the model, the
directory. What is printed is one JSON line: for each record what
the library would find after a restart, taken from its own memory, and for a collection every value in its order.
"""

import datetime as dt
import json
import logging
import os
import sys

logging.disable(logging.CRITICAL)
how, model, base = sys.argv[1:4]

from ionbus_fast_persist import (  # noqa: E402
    CollectionConfig,
    CollectionFastPersist,
    WALConfig,
    WALDuckDBStorage,
)

NEVER = 3600
DATA = [
    {"n": 1, "f": 1.5, "s": "é \"x\" \u2028", "b": True, "z": None, "big": 12345678901234567890123},
    {"nested": {"list": [1, [True, None], {"a": "b"}], "empty": {}}, "status": "done", "status_int": -7},
    {"status": 5, "status_int": True, "username": "in data"},
    {"when": "2025-03-01T10:00:00+02:00", "day": "2025-03-01", "id": "20250301"},
    {"at": dt.datetime(2025, 3, 1, 10, 0, 0, 123456), "on_day": dt.date(2025, 3, 1)},
    {},
]
# Instants as a program may give them, and what they are in UTC.
TIMES = [
    (None, None),
    ("2025-07-15T10:00:00+05:00", "2025-07-15T05:00:00.000000Z"),
    (dt.datetime(2025, 1, 15, 10, 30, 0, 7), "2025-01-15T10:30:00.000007Z"),
    ("2025-01-15", "2025-01-15T00:00:00.000000Z"),
]


def utc(value):
    return value.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def plain(value):
    """As JSON has it, instants in UTC."""
    if isinstance(value, dt.datetime):
        return utc(value)
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def end(storage, told):
    if how == "closed":
        storage.close()
    print(json.dumps(told), flush=True)
    os._exit(0)


def dated():
    told = []
    storages = []
    if how == "recovered":
        end(WALDuckDBStorage("2025-01-15", config=WALConfig(base_dir=base)), None)
    for date in ("2025-01-15", "2025-01-16"):
        storage = WALDuckDBStorage(
            date,
            config=WALConfig(
                base_dir=base,
                duckdb_flush_interval_seconds=NEVER,
                extra_schema={"price": "float64", "on_day": "date32"},
            ),
        )
        storages.append(storage)
        for turn in range(4):
            for index, data in enumerate(DATA):
                time, _ = TIMES[(index + turn) % len(TIMES)]
                data = dict(data, turn=turn, price=index / 4)
                # A null process name: each flush adds one more row of it.
                storage.store(f"key {index}", data, timestamp=time)
                storage.store(f"key {index}", data, process_name="p1", timestamp=time, username="ann")
                storage.store(f"turn {turn}", data, process_name=f"é {index}")
            if turn < 3:
                storage.flush_data_to_duckdb()
        for key, processes in storage.cache.items():
            for process, data in processes.items():
                told.append(
                    {
                        "date": date,
                        "key": key,
                        "process_name": process,
                        "timestamp": utc(data["timestamp"]),
                        "username": data.get("username"),
                        "data": plain(data),
                    }
                )
    if how == "closed":
        for storage in storages[:-1]:
            storage.close()
    end(storages[-1], told)


def collection():
    told = []
    storage = CollectionFastPersist(
        "2025-01-15",
        config=CollectionConfig(base_dir=base, duckdb_flush_interval_seconds=NEVER, retain_days=36500),
    )
    if how == "recovered":
        end(storage, None)
    store = storage.store
    values = [1, 2**62, 1.5, 2.0, "text", "", None, True, False]
    for turn in range(4):
        for index, value in enumerate(values):
            data = dict(DATA[index % len(DATA)], turn=turn)
            time, _ = TIMES[(index + turn) % len(TIMES)]
            names = {"collection_name": f"c{index % 2}", "item_name": f"item {index}"}
            store("k é", data, value=value, timestamp=time, username="ann" if index % 3 else None, **names)
            held = storage.cache["k é"][names["collection_name"]][names["item_name"]]
            told.append(
                {
                    "key": "k é",
                    **names,
                    "value": value,
                    # The library has no column for a boolean.
                    "flushed": how == "closed" or turn < 3,
                    "timestamp": utc(held["timestamp"]),
                    "username": held.get("username"),
                    "data": plain({name: inner for name, inner in held.items() if name != "value"}),
                }
            )
        if turn < 3:
            storage.flush_data_to_duckdb()
    end(storage, told)


{"dated": dated, "collection": collection}[model]()
