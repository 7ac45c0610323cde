"""Origins of web pages, as browsers write them."""

import re

_FORM = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")  # scheme, host, port


def origin(text: str) -> str:
    """An origin in the form in which browsers send it: lower case, without the scheme's default port.

    Raises:
        ValueError: the text is not an origin. The message shows one.
    """
    found = _FORM.fullmatch(text.lower())
    if not found:
        raise ValueError(f"{text!r} is not an origin such as https://course.example.org, without a slash at its end")
    scheme, host, port = found.groups()
    usual = port is None or int(port) == {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{host}" + ("" if usual else f":{int(port)}")


def origin_of(address: str) -> str:
    """The origin of an address, `https://hub.example.org/jupyter/`.

    Raises:
        ValueError: the address has none.
    """
    return origin("/".join(address.split("/", 3)[:3]))
