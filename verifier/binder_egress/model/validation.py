"""What pydantic says about wrong input, as sentences for people."""

from pydantic import ValidationError


def details(error: ValidationError) -> list[tuple[str, str]]:
    """Each mistake: the path of the field, `a.b.0`, and what is wrong with it. Never the input, which may be a secret.

    The path is empty for a mistake in the input as a whole.
    """
    return [
        (".".join(map(str, mistake["loc"])), mistake["msg"].removeprefix("Value error, "))
        for mistake in error.errors(include_input=False, include_url=False)
    ]


def sentences(error: ValidationError, prefix: str = "") -> list[str]:
    """Each mistake in one line, such as `captcha.providers.altcha.cost: Input should be less than 10`.

    Args:
        error: what pydantic raised.
        prefix: the path of the input as a whole, such as `captcha.providers.altcha`.
    """
    lines = []
    for path, message in details(error):
        where = ".".join(filter(None, (prefix, path)))
        lines.append(f"{where}: {message}" if where else message)
    return lines
