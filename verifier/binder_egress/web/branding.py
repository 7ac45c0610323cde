"""The site's look on the verifier's pages: its name, logo, colour and links, from `branding` in the chart's values."""

import base64
import hashlib
from dataclasses import dataclass

from ..settings import VerifierSettings

LIGHT, DARK = "#ffffff", "#1e1e1e"
"""The background of the card in each colour scheme (`--back` in frontend/src/tokens.css)."""

GRAPHIC_CONTRAST = 3.0
"""The least contrast for anything that is not text (WCAG 2.1, 1.4.11)."""


@dataclass(frozen=True)
class Brand:
    """The parts of a site's look that the templates show.

    Attributes:
        name: the site's name; may be empty.
        logo: the address of its logo; may be empty.
        help_url: where visitors find help; may be empty.
        contact: whom visitors may ask: a mail address, or the address of a page; may be empty.
        start: the address of the start page.
        style: a style sheet with the site's colour; empty: the page's own colour.
        csp: what logo and style need in the Content-Security-Policy: directive → sources.
    """

    name: str
    logo: str
    help_url: str
    contact: str
    start: str
    style: str
    csp: dict[str, list[str]]

    @classmethod
    def of(cls, settings: VerifierSettings) -> "Brand":
        """The look of the site in a verifier's settings."""
        chosen = settings.branding
        style = _style(chosen.accentColor) if chosen.accentColor else ""
        csp: dict[str, list[str]] = {}
        if style:
            csp["style-src"] = [f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"]
        if chosen.logo:
            csp["img-src"] = [_source(chosen.logo)]
        # BinderHub's pages are right above the verifier's path unless the operator sets another address.
        start = chosen.startUrl or settings.base_path.rstrip("/").rpartition("/")[0] + "/"
        return cls(chosen.name, chosen.logo, chosen.helpUrl, chosen.contact, start, style, csp)

    @property
    def contact_url(self) -> str:
        """The address of a link to `contact`."""
        return f"mailto:{self.contact}" if "@" in self.contact and "://" not in self.contact else self.contact


def _source(logo: str) -> str:
    """The source of a logo in the Content-Security-Policy: this host, any `data:`, or the origin of an address."""
    if logo.startswith("data:"):
        return "data:"
    # Not `urlsplit`, which raises for some hosts: a logo must not keep the verifier from starting.
    return "'self'" if logo.startswith("/") else "/".join(logo.split("/", 3)[:3])


def _style(accent: str) -> str:
    """The style sheet for the button and for lines. The button's text is black or white, whichever is more readable."""
    on = max(("#000000", "#ffffff"), key=lambda text: contrast(text, accent))
    light, dark = (_line(accent, ground) for ground in (LIGHT, DARK))
    scheme = f"@media (prefers-color-scheme:dark){{:root{{--accent-line:{dark}}}}}"
    return f":root{{--accent:{accent};--on-accent:{on};--accent-line:{light}}}{scheme}"


def _line(accent: str, ground: str) -> str:
    """The colour of lines: the accent, mixed with black or white in steps of a tenth until it stands out from its background."""
    towards = 0 if _luminance(ground) > 0.5 else 255
    channels = _channels(accent)
    for step in range(11):
        mixed = "#" + "".join(f"{round(channel + (towards - channel) * step / 10):02x}" for channel in channels)
        if contrast(mixed, ground) >= GRAPHIC_CONTRAST:
            break
    return mixed


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, `#rrggbb`, from 1 to 21 (WCAG 2.1, "contrast ratio")."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _channels(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _luminance(colour: str) -> float:
    """The relative luminance of a colour, as WCAG 2.1 defines it."""
    shares = [channel / 255 for channel in _channels(colour)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
