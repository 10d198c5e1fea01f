"""Rows of a Parquet manifest as plain Python values, a few thousand at a time."""
import datetime
import decimal
from collections.abc import Callable, Iterator
from pathlib import Path

_BATCH = 4096  # rows in memory at once


def read(path: Path, choose: Callable[[list[str]], dict[str, str]]) -> tuple[list[str], Iterator[dict]]:
    """Return the names of the columns, and the rows with those that `choose` takes ({ours: the file's}).

    Raises:
      ValueError: no Parquet file, or as `choose`; while rows are read, a damaged file or a value of another type than JSON's.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowException as e:
        raise ValueError(f"{path.name} is no readable Parquet file ({_first_line(e)})") from None
    header = file.schema_arrow.names
    return header, _rows(file, path.name, list(choose(header).values()))


def _rows(file, name: str, columns: list[str]) -> Iterator[dict]:
    import pyarrow

    number = 0
    try:
        for batch in file.iter_batches(_BATCH, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield {key: plain(value, f"{name}, row {number}, column {key!r}") for key, value in row.items()}
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{name}, after row {number}: the Parquet file is damaged ({_first_line(e)})") from None


def plain(value, where: str):
    """Return a cell as JSON has it. Whole numbers lose their point, for a column of integers with gaps is often stored as
    floats; NaN is an empty cell; dates become text.

    Raises:
      ValueError: bytes, or another type.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: plain(one, where) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one, where) for one in value]
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    raise ValueError(f"{where}: a value of type {type(value).__name__}; expected text, numbers, lists or maps")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
