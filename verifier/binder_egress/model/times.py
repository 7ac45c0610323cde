"""How times are said."""


def age(seconds: float) -> str:
    """A length of time in seconds, as people say it: `45 s`, `3 min`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
