"""The other columns of rows: categories, key points, margins; what is no value is told."""

import datetime
import json
import math
from collections import Counter
from decimal import Decimal

from .conversations import described

AS_TEXT = (datetime.date, datetime.time, datetime.timedelta, Decimal)


def check_columns(row: dict, kind: str, notes: Counter) -> dict:
    """The row with its other columns as plain values, which JSON can hold.

    Raises ValueError for a value that its column cannot have.
    """
    if "category" in row:
        row["category"] = _category(row["category"])
    points = row.get("key_points") or []
    if not isinstance(points, list) or not all(isinstance(point, str) for point in points):
        raise ValueError(f"'key_points' is {str(points)[:60]!r}, but must be a list of texts")
    if kind == "preferences":
        row |= {name: read(row[name], name) for name, read in NUMBERS.items() if name in row}
    return {name: _plain(value, name) for name, value in row.items() if _fits(value, name, notes)}


def _category(value) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError(f"'category' is {described(value)}, not a text")


def _fits(value, name: str, notes: Counter) -> bool:
    if not isinstance(value, (bytes, bytearray)):
        return True
    notes[f"{name!r} holds bytes and is left out"] += 1
    return False


def _plain(value, name: str):
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, AS_TEXT):
        return str(value)
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half a character (a lone surrogate)") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{name!r} is {described(value)}, which JSON cannot hold") from None
    return value


# --- of pairs


def number(value, name: str) -> float | None:
    """A finite number, also written as a text; None where there is none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        shown = repr(value[:60]) if isinstance(value, str) else described(value)
        raise ValueError(f"{name!r} is {shown}, but must be a finite number")
    return found


def share(value, name: str) -> float | None:
    found = number(value, name)
    if found is not None and not 0 <= found <= 1:
        raise ValueError(f"{name!r} is {found:g}, but must be from 0 to 1")
    return found


TRUTHS = {"": False, "false": False, "0": False, "true": True, "1": True}


def truth(value, name: str) -> bool:
    """A truth value, also written as true, false, 1 or 0; nothing is false."""
    text = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if not isinstance(value, (bool, int, float, str, type(None))) or text not in TRUTHS:
        shown = repr(value[:60]) if isinstance(value, str) else described(value)
        raise ValueError(f"{name!r} is {shown}, but must be true or false")
    return TRUTHS[text]


def split_name(value, name: str) -> str:
    """The part of the data; "ood" is what older versions called "other"."""
    if not isinstance(value, (str, type(None))):
        raise ValueError(f"{name!r} is {described(value)}, not a text")
    return {"ood": "other", "": "train"}.get(value or "", value)


NUMBERS = {"margin": number, "confidence": share, "tie": truth, "split": split_name}
