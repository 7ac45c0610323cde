"""What people read: a server's page as HTML and as text, in their language, and errors instead of it.

The texts are in `messages/server`, one catalogue for each language. The page passes its catalogue to its script.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any

import segno
from flask import render_template
from markupsafe import Markup
from werkzeug.datastructures import LanguageAccept

from ..model.grants import UNVERIFIED, Egress, EndedLease, Grant, block_in
from ..model.host_groups import HOST_GROUPS
from ..settings import MORE_HOSTS, Access, Tier
from .branding import Brand

STATES: dict[Access, str] = {"none": "no-access", "packages": "packages-only", "hosts": "hosts-only", "network": "granted"}
"""The text that says what a server reaches (`STATES` in the page's script)."""

Asset = Callable[[str], str]

START = "#unlock"
"""The fragment of a page's address that starts the unlock without a click. A fragment is not sent to the server, and only a script
in a visible page acts on it, so neither prefetching nor a preview of the link spends anything."""

QR_LIMIT_CHARACTERS = 160
"""The length of the longest address that gets a QR code. Longer codes are hard to scan, and a stranger's `Host` may make them: with
250 characters, a page and its code cost five pages."""

QR_MASK = 2
"""The mask pattern of all QR codes. Readers know all eight; comparing them takes four times as long as the rest of the drawing."""

ANY_HOST = "*"
"""The entry of a host list for every public host."""

MAX_HOSTS = 3
"""The most single hosts that a page names. If there are more, it only says that there are other hosts (D-270)."""


def _catalogues() -> dict[str, dict[str, str]]:
    folder = resources.files(__package__) / "messages" / "server"
    files = {file.name.removesuffix(".json"): file for file in folder.iterdir()}
    return {language: json.loads(files[language].read_text("utf-8")) for language in ["en", *sorted(files.keys() - {"en"})]}


MESSAGES = _catalogues()
"""The texts: language → key → text with `{names}` to fill in."""

LANGUAGES = tuple(MESSAGES)
"""The languages that have a catalogue. The first is for readers of all other languages."""


def choose_language(accepted: LanguageAccept) -> str:
    """The first language of `Accept-Language` that has a catalogue (`chooseLanguage` in the front end)."""
    # Not best_match, which prefers the second "en" of "fr-CA, en;q=0.5", because it matches the tag exactly.
    for language, quality in accepted:
        primary = language.lower().replace("_", "-").split("-")[0]
        if quality > 0 and primary in LANGUAGES:
            return primary
    return LANGUAGES[0]


def direction(language: str) -> str:
    """The direction of a language's script, for the attribute `dir`."""
    return "rtl" if language == "ar" else "ltr"


def reach(tier: Tier | None, language: str, more: bool = False) -> str:
    """A sentence that says what a server with a tier may reach.

    Args:
        tier: the tier; None: the server has none.
        language: one of `LANGUAGES`.
        more: whether the server can get more than some hosts, so that everything else does not work *yet*.

    Returns:
        The operator's own words if there are any, else a sentence from what the chart says about the tier's policy; `""` if that is
        nothing.
    """
    messages = MESSAGES[language]
    if tier is None or tier.access == "none":
        return messages["reach-nothing"]
    if tier.description:
        return tier.description.get(language) or tier.description.get("en") or next(iter(tier.description.values()))
    if tier.internet is None:
        return ""
    if not tier.internet:
        parts = [messages["reach-some"]] if tier.direct else []
        parts += [messages["reach-hosts"].format(hosts=_hosts(tier, messages))] if tier.hosts else []
        parts += [messages["reach-rest"]] if tier.hosts and more else []
        return " ".join(parts)
    if not tier.ports:
        return messages["reach-internet"]
    return messages["reach-ports"].format(
        ports=", ".join(sorted(tier.ports, key=lambda port: int(port.split("/")[0].split("-")[0])))
    )


def reach_observed(language: str) -> str:
    """A sentence that says what every server may reach in mode `observe`, in one of `LANGUAGES`."""
    messages = MESSAGES[language]
    return messages["reach-observe"]


def why(grant: Grant, now: float, refused: bool, language: str, opens_in: int = 0, ends: bool = False) -> str:
    """A sentence that says why a server has no tier, and since when, or when its tier opens; empty: neither is to say.

    Everybody who knows a server's page may read it, so it says nothing of the reason for a block, or of its end.

    Args:
        grant: a block that applies to the server, else the grant that its pod carries.
        now: Unix time in seconds.
        refused: whether the client that asks would be refused an unlock.
        language: one of `LANGUAGES`.
        opens_in: seconds until its tier opens.
        ends: whether something ends connections on its node that are open when a tier goes.
    """
    messages, since = MESSAGES[language], moment(grant.at)
    if block_in(grant, now):
        return messages["blocked"].format(since=since)
    if refused and not isinstance(grant, Egress):
        return messages["not-offered"]
    if opens_in:
        return messages["opening"].format(seconds=opens_in)
    if not isinstance(grant, EndedLease):
        return ""
    return " ".join([messages["expired"].format(since=since), *([] if ends else [messages["expired-open"]])])


def _hosts(tier: Tier, messages: Mapping[str, str]) -> str:
    """The programs and hosts that work with a tier through the egress proxy: `pip, conda, R; api.example.org`."""
    if ANY_HOST in tier.hosts:
        return messages["any-host"]
    groups = [name for name in tier.hosts if "." not in name and name != MORE_HOSTS]
    hosts = [name for name in tier.hosts if "." in name]
    packages = {name: group.programs for name, group in HOST_GROUPS.items() if group.packages}
    programs = [program for name, program in packages.items() if name in groups]
    named = hosts if len(hosts) <= MAX_HOSTS else []
    others = [HOST_GROUPS[name].programs if name in HOST_GROUPS else name for name in groups if name not in packages] + named
    others += [messages["other-hosts"]] if named != hosts or MORE_HOSTS in tier.hosts else []
    return "; ".join(", ".join(part) for part in (programs, others) if part)


@dataclass(frozen=True)
class Look:
    """How all pages look to one reader.

    Attributes:
        language: one of `LANGUAGES`.
        asset: gives the path of a file of the front end.
        brand: the site's look.
    """

    language: str
    asset: Asset
    brand: Brand

    def render(self, template: str, **values: object) -> str:
        """A page from its template."""
        texts = {"language": self.language, "direction": direction(self.language), "message": MESSAGES[self.language]}
        # The style contains only the operator's colour. The Content-Security-Policy has the checksum of this text (D-310).
        brand = {"asset": self.asset, "brand": self.brand, "brand_style": Markup(self.brand.style)}
        return render_template(template, **texts, **brand, **values)


def server_page(
    media_type: str,
    look: Look,
    server: Mapping[str, Any],
    tiers: Mapping[str, Tier],
    address: str,
    *,
    observed: bool,
    qr: bool,
    **page: object,
) -> str:
    """A server's page: what it may reach, and how to unlock it.

    Args:
        media_type: `text/html` or `text/plain`.
        look: how it looks.
        server: the server, as the JSON answer has it (`bodies.ServerAnswer`).
        tiers: all tiers of this site, and what a server without a tier has.
        address: the page's own address, absolute.
        observed: whether the mode is `observe`, in which nothing is opened or closed: the page says so, whatever the server's tier.
        qr: whether to show a QR code in the text form.
        page: what `server.html` needs besides, and says what for.
    """
    state = _state(look.language, server, tiers, observed) | {"address": address, "start": address + START}
    if media_type == "text/plain":
        # The text form has a QR code only on request: for a screen reader or a script it is noise.
        shown = qr and not (state["verified"] or state["closed"] or observed)
        return look.render("server.txt", qr=terminal_qr(address + START) if shown else "", **state)
    sentences = {name: reach(tier, look.language) for name, tier in tiers.items()}
    texts = {"report": server, "catalogue": MESSAGES[look.language], "sentences": sentences}
    as_json = {name: json.dumps(content, ensure_ascii=False) for name, content in texts.items()}
    return look.render("server.html", qr=inline_qr(address + START), **as_json, **page, **state)


def _state(language: str, server: Mapping[str, Any], tiers: Mapping[str, Tier], observed: bool) -> dict[str, Any]:
    """What both forms of a server's page say of it."""
    messages, verified = MESSAGES[language], server["tier"] != UNVERIFIED
    has = messages[STATES[server["access"] or "network"]]
    left, larger = (None, []) if observed else (server["until"], server["larger"])
    return {
        "server": server,
        "verified": verified,
        "state": messages["observe"] if observed else " ".join(filter(None, (has, server["why"]))),
        # A server that had access gets it back.
        "again": server["unlockable"] and server["why"],
        "observed": observed,
        "closed": not verified and not server["unlockable"],
        "left": left,
        "renewable": left and server["renewable_in"] == 0,
        "larger": larger,
        "larger_reach": reach(tiers[larger[0]], language) if larger else "",
        "time": clock(server["expires_in"]) if left else "",
        "until": datetime.fromtimestamp(left, UTC).strftime("%H:%M:%S") if left else "",
    }


def moment(at: float) -> str:
    """A Unix time in seconds as people read it in any language: `2026-11-30 14:03 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def clock(seconds: int) -> str:
    """A time span in seconds as a clock shows it, in any language: `4:05`, `1:04:05` (`clock` in the front end)."""
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def problem_page(media_type: str, look: Look, problem: Mapping[str, str]) -> str:
    """An error instead of a server's page.

    Args:
        media_type: `text/html` or `text/plain`.
        look: how it looks.
        problem: the problem details; their `type` decides which text is shown.
    """
    messages = MESSAGES[look.language]
    name = problem["type"].rpartition("#")[2]
    if name == "internal":
        # A fault of the verifier has no text of its own. Its detail is English, and of no use to visitors.
        name = "unavailable"
    if name == "no-such-server":
        title, text = messages["ended"], messages["ended-help"]
    else:
        title, text = messages["problem-title"], messages.get(f"error-{name}") or problem["detail"]
    template = "problem.html" if media_type == "text/html" else "problem.txt"
    return look.render(template, problem_title=title, problem_text=text)


@lru_cache(64)  # Making a code takes longer than the rest of the page.
def inline_qr(text: str) -> Markup | str:
    """A QR code as SVG, for a page; `""` for a text of more than `QR_LIMIT_CHARACTERS`."""
    if len(text) > QR_LIMIT_CHARACTERS:
        return ""
    # Without a style, which the Content-Security-Policy forbids. One size, whatever the number of modules.
    code = segno.make_qr(text, mask=QR_MASK).svg_inline(omitsize=True, dark="#000", light="#fff", border=3)
    return Markup(code.replace("<svg ", '<svg width="144" height="144" ', 1))


@lru_cache(64)
def terminal_qr(text: str) -> str:
    """A QR code with two modules per character; `""` for a text of more than `QR_LIMIT_CHARACTERS`.

    It fits 80 columns, and sets its own colours, so it is black on white in every terminal.
    """
    if len(text) > QR_LIMIT_CHARACTERS:
        return ""
    rows = [list(row) for row in segno.make_qr(text, error="l", boost_error=False, mask=QR_MASK).matrix_iter(border=2)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    lines = (
        "".join(" ▀▄█"[upper + 2 * lower] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    )
    return "\n".join(f"\x1b[38;5;16;48;5;231m{line}\x1b[0m" for line in lines)
