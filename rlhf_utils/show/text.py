"""TODO: purpose."""


def value_text(value) -> str:
    """A number to four digits, an interval as "low to high"."""
    if isinstance(value, (list, tuple)):
        return " to ".join(value_text(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min, 1 h 20 min."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{minutes} min"
        if minutes < 90
        else f"{minutes // 60} h {minutes % 60} min"
    )
