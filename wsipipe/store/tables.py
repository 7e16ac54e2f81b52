"""Reports and tables: JSON and CSV that other programs read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.errors import StoreError
from wsipipe.store.atomic import write_text


def write_json(path: Path, data: object) -> None:
    """Write plain data as indented JSON, keys in the order given.

    Parameters
    ----------
    path : Path
        File to write.
    data : object
        Mappings, sequences, strings, numbers, booleans, None; paths become strings, numpy scalars and arrays
        become numbers and lists.

    Raises
    ------
    StoreError
        A number is not finite (JSON has none), a value or key is of another type, or the file cannot be written.
    """
    text = json.dumps(plain(data, path=path), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], *, columns: Sequence[str] = ()) -> None:
    """Write rows as comma-separated UTF-8 with a header and plain line feeds.

    Parameters
    ----------
    path : Path
        File to write.
    rows : sequence of mappings
        Values by column; what a row lacks, or None, stays empty.
    columns : sequence of str
        Columns that come first, there even without rows; the others follow in order of appearance.

    Raises
    ------
    StoreError
        There is neither a row nor a column, or the file cannot be written.
    """
    names = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    if not names:
        raise StoreError("has neither rows nor columns to write", path=path)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_csv(path: Path, *, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read what `write_csv` wrote: one mapping per row, all values as text, "" where there was none.

    Parameters
    ----------
    path : Path
        UTF-8 table with a header.
    columns : sequence of str
        Columns that must be there.

    Raises
    ------
    StoreError
        The file is missing, is no table, lacks a column, or a row has more cells than the header.
    """
    return [row for _, row in read_csv_lines(path, columns=columns)]


def read_csv_lines(path: Path, *, columns: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Read as `read_csv`, each row with the line that it ends on: blank lines are no rows, cells may hold breaks."""
    try:
        # utf-8-sig: spreadsheet programs put a byte order mark in front.
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = [(reader.line_num, row) for row in reader]
            names = list(reader.fieldnames or ())
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", path=path) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"is no CSV: {error}", path=path, remedy="save it as CSV in UTF-8") from error
    if missing := [name for name in columns if name not in names]:
        raise StoreError(f"lacks the column {missing[0]!r}, has {', '.join(names) or 'none'}", path=path)
    if any(None in row for _, row in rows):
        raise StoreError("has a row with more cells than the header", path=path, remedy="quote cells with commas")
    return rows


def plain(value: object, *, path: Path | None = None, where: str = "") -> object:
    """Turn numpy values, paths and tuples into what JSON knows; `where` names the value in errors."""
    if isinstance(value, Mapping):
        return {_key(key, path): plain(item, path=path, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, path=path, where=f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), path=path, where=where)
    if isinstance(value, PathLike):
        return fspath(value)
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise StoreError(f"cannot hold {where.lstrip('.') or 'the value'} = {value!r}: JSON has no such value", path=path)


def _key(key: object, path: Path | None) -> str:
    if not isinstance(key, str):
        raise StoreError(f"cannot hold the key {key!r}: keys of JSON are strings", path=path)
    return key


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    StoreError
        The file is missing, cut off, or no JSON object.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", path=path) from error
    except ValueError as error:
        raise StoreError(f"is not JSON: {error}", path=path, remedy="delete it and make it again") from error
    if not isinstance(data, dict):
        raise StoreError(f"holds {type(data).__name__}, not an object", path=path)
    return data
