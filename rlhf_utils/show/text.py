"""Numbers and times as people read them."""


def value_text(value) -> str:
    """A number to four digits, an interval as "low to high"."""
    if isinstance(value, (list, tuple)):
        return " to ".join(value_text(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min, 1 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
