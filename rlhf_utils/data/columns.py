"""The other columns of rows: categories, key points, margins."""

import datetime
import json
import math
from collections import Counter
from decimal import Decimal

from .conversations import described

AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, Decimal)


def check_columns(row: dict, kind: str, notes: Counter) -> dict:
    """The row with its other columns as plain values; one that JSON cannot hold is left out.

    Raises ValueError for a value that its column cannot have.
    """
    readers = {"category": _text} | (OF_PAIRS if kind == "preferences" else {})
    row |= {name: read(row[name], name) for name, read in readers.items() if name in row}
    points = row.get("key_points") or []
    if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
        raise ValueError(f"'key_points' is {str(points)[:60]!r}, but must be a list of texts")
    plain = {}
    for name, value in row.items():
        try:
            plain[name] = _plain(value, name)
        except (TypeError, RecursionError):
            notes[f"{name!r} holds what is no text or number and is left out"] += 1
    return plain


def _plain(value, name: str):
    """The value as JSON gives it back. Raises TypeError for bytes and the like."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_date)
    try:
        (name + text).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half a character (a lone surrogate)") from None
    return value if isinstance(value, str) else json.loads(text)


def _date(value) -> str:
    if isinstance(value, AS_TEXT):
        return str(value)
    raise TypeError


# --- of pairs


def number(value, name: str) -> float | None:
    """A finite number, also written as a text; None where there is none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found) or (name == "confidence" and not 0 <= found <= 1):
        wanted = "a number from 0 to 1" if name == "confidence" else "a finite number"
        raise ValueError(f"{name!r} is {str(value)[:60]!r}, but must be {wanted}")
    return found


def _truth(value, name: str) -> bool:
    """A truth value, also written as true, false, 1 or 0; nothing is false."""
    text = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if text not in ("", "false", "0", "true", "1"):
        raise ValueError(f"{name!r} is {str(value)[:60]!r}, but must be true or false")
    return text in ("true", "1")


def _text(value, name: str) -> str:
    """A text, also written as a whole number; nothing is empty."""
    if not isinstance(value, (str, int, type(None))):
        raise ValueError(f"{name!r} is {described(value)}, not a text")
    return "" if value is None else str(value)


OF_PAIRS = {"margin": number, "confidence": number, "tie": _truth, "split": _text}
