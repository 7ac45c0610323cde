"""The texts of the unlock page: the languages, the sentences about a tier's reach, the forms, and the QR codes."""

import json
import re
import string
import time
import unicodedata

import pytest
import segno
from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from binder_egress.model.grants import NO_GRANT, Block
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.serialization import read_origin
from binder_egress.settings import Tier
from binder_egress.web import pages, problems
from tests.support import TOP
from tests.support.apps import carried, public_client, run_pod
from tests.support.languages import CHOICES

CURL = {"Accept": "*/*", "User-Agent": "curl/8.5.0"}
HTML = {"Accept": "text/html"}


# -- the catalogues


def placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_languages_have_all_texts(language):
    english, texts = pages.MESSAGES["en"], pages.MESSAGES[language]
    assert list(texts) == list(english)
    for key, text in texts.items():
        assert text.strip() == text != "", key
        assert placeholders(text) == placeholders(english[key]), key
        assert "<" not in text and "  " not in text, key
        if language != "en":
            assert text != english[key], key


@pytest.mark.parametrize("language", pages.LANGUAGES)
def test_direction_is_the_direction_of_the_letters(language):
    letters = [unicodedata.bidirectional(letter) for text in pages.MESSAGES[language].values() for letter in text]
    to_left = sum(kind in ("R", "AL") for kind in letters) > letters.count("L")
    assert pages.direction(language) == ("rtl" if to_left else "ltr")


def test_operators_may_describe_a_tier_in_each_language():
    schema = json.loads((TOP / "chart/values.schema.json").read_text())
    (pattern,) = schema["definitions"]["tier"]["properties"]["description"]["patternProperties"]
    assert [language for language in pages.LANGUAGES if not re.fullmatch(pattern, language)] == []


def test_texts_are_used_and_used_texts_exist():
    sources = [
        TOP / "verifier/binder_egress/web/pages.py",
        TOP / "frontend/src/server.js",
        *(TOP / "verifier/binder_egress/web/templates").iterdir(),
    ]
    text = "\n".join(path.read_text() for path in sources)
    used = set(re.findall(r"""(?:messages?\[|text\()["']([a-z-]+)["']""", text))
    made = {key for key in pages.MESSAGES["en"] if key.startswith("error-")}
    assert used - set(pages.MESSAGES["en"]) == set()
    assert set(pages.MESSAGES["en"]) - used - made == set()


def test_problems_that_visitors_can_meet_have_texts():
    """Other problems come from an attack or a fault in the page, and are shown in English."""
    met = "solution-refused price-risen budget-spent too-many-rejected provider-misconfigured provider-unavailable unavailable"
    assert set(met.split()) <= {kind for kind in problems.TITLES if f"error-{kind}" in pages.MESSAGES["en"]}


# -- the choice of a language. tests/browser runs the same table through the front end.


@pytest.mark.parametrize(("header", "language"), CHOICES)
def test_first_available_language_is_used(header, language):
    assert pages.choose_language(parse_accept_header(header, LanguageAccept)) == language


# -- what a server may reach

OPENS = "Programs in it can open connections to"
PROXY_ALONE = {"direct": False, "internet": False}


@pytest.mark.parametrize("path", ["/egress/servers/alice", "/egress/servers/nobody", "/egress/nowhere"])
def test_accept_headers_count_as_far_as_they_are_read(public, store, path):
    """Each entry takes time to parse, and a stranger's may have 8 kB of them."""
    run_pod(store)
    for more, kind, language in (("", "text/html", "de"), ("x/y, " * 105, "application/", None), ("x/y, " * 90, "text/html", "de")):
        answer = public.get(path, headers={"Accept": f"{more}text/html", "Accept-Language": f"{more}de"})
        assert answer.content_type.startswith(kind)
        assert language is None or f'lang="{language}"' in answer.text
    answer = public.get(path, headers={**HTML, "Accept-Language": "xx, " * 128 + "de"})
    assert 'lang="en"' in answer.text


@pytest.mark.parametrize(
    ("told", "access", "said"),
    [
        ({}, "network", ""),
        ({"internet": True}, "network", f"{OPENS} the internet, but not to this site's private network."),
        (
            {"internet": True, "ports": ["443", "80", "53/UDP", "6000-6010"]},
            "network",
            f"{OPENS} the internet on these ports only: 53/UDP, 80, 443, 6000-6010.",
        ),
        ({"internet": False}, "network", f"{OPENS} some addresses only, which the operators of this site chose."),
        (
            {"internet": False, "hosts": ["python"]},
            "network",
            f"{OPENS} some addresses only, which the operators of this site chose. What works: pip.",
        ),
        ({"internet": True, "description": {"de": "Nur PyPI."}}, "network", "Nur PyPI."),
        (PROXY_ALONE, "none", "Programs in it cannot open connections to the internet."),
        (PROXY_ALONE | {"hosts": ["conda", "python", "r"]}, "packages", "What works: pip, conda, R."),
        (PROXY_ALONE | {"hosts": ["python", "api.example.org"]}, "hosts", "What works: pip; api.example.org."),
        (
            PROXY_ALONE | {"hosts": ["data", "git", "new", *("a.org", "b.org", "c.org", "d.org")]},
            "hosts",
            "What works: Zenodo, OSF, figshare, Dataverse, GitHub, GitLab, new, hosts that the operators of this site chose.",
        ),
        (PROXY_ALONE | {"hosts": ["*", "python"]}, "hosts", "What works: every public host, by HTTP and HTTPS."),
    ],
)
def test_tier_is_described_in_words(told, access, said):
    assert (Tier(**told).access, pages.reach(Tier(**told), "en")) == (access, said)


PACKAGES, LIMITED, NONE = (pages.MESSAGES["en"][key] for key in ("packages-only", "hosts-only", "no-access"))


@pytest.mark.parametrize(
    ("listed", "state", "reached", "access"),
    [
        (["conda", "python"], PACKAGES, "What works: pip, conda. Nothing else works yet.", "packages"),
        (["python", "api.example.org"], LIMITED, "What works: pip; api.example.org. Nothing else works yet.", "hosts"),
        ([], NONE, "Programs in it cannot open connections to the internet.", "none"),
    ],
)
def test_page_says_what_the_egress_proxy_gives_without_a_tier(make_services, store, listed, state, reached, access):
    client = public_client(make_services(unverified_hosts=listed))
    store.publish(Server("alice"), KnownServer("uid-1"))
    assert client.get("/egress/servers/alice", headers=CURL).text.startswith(f"{state} {reached}\n\nTo unlock your server")
    page = client.get("/egress/servers/alice", headers=HTML).text
    assert f">{state}</p>" in page and f">{reached}</p>" in page and f"&#34;access&#34;: &#34;{access}&#34;" in page
    answer = client.get("/egress/servers/alice").json
    assert (answer["access"], answer["reach"], answer["tier"], answer["unlockable"]) == (access, reached, "unverified", True)
    answer = client.get("/egress/servers/alice", headers={"Accept-Language": "de"})
    assert answer.json["reach"].startswith("Das geht: " if listed else "Programme auf") and "Accept-Language" in answer.vary
    asked = client.get("/egress/challenge").json
    assert (asked["access"], asked["reach"]) == (access, reached)
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified")))
    assert client.get("/egress/servers/alice").json["access"] == "network"
    assert client.get("/egress/servers/alice", headers=CURL).text == "Your server has internet access.\n"


@pytest.mark.parametrize("listed", [[], ["python"]])
def test_page_says_that_a_repository_has_more_hosts_and_not_which(make_services, store, listed):
    client = public_client(make_services(unverified_hosts=listed, repositories_with_hosts=["https://github.com/org/*"]))
    store.publish(Server("alice"), KnownServer("uid-1", repository="https://github.com/org/course"))
    text = client.get("/egress/servers/alice", headers=CURL).text
    found = "pip; " if listed else ""
    works = f"What works: {found}hosts that the operators of this site chose. Nothing else works yet."
    assert text.startswith(f"Your server has limited internet access. {works}")
    assert client.get("/egress/servers/alice").json["access"] == "hosts"
    for repository in ("https://github.com/other/course", ""):
        store.publish(Server("alice"), KnownServer("uid-1", repository=repository))
        assert client.get("/egress/servers/alice").json["access"] == ("packages" if listed else "none")


def shown(page):
    """A page without its icon and without what only its script reads."""
    return re.sub(r'data-[a-z]+="[^"]*"|<svg.*?</svg>', "", page, flags=re.DOTALL)


BLOCKED = "Your server has no internet access. The operators of this site blocked it at 2027-01-15 08:00 UTC."


@pytest.mark.parametrize("contact", ["", "help@example.org", "https://hub.example.org/help"])
@pytest.mark.parametrize("where", ["pod", "redis"])
def test_blocked_server_is_told_since_when_and_whom_to_ask(make_services, store, contact, where):
    """And promised no packages. A block counts before it is on the pod."""
    client = public_client(make_services(unverified_hosts=["python"], branding={"contact": contact}))
    at = 1_800_000_000
    store.publish(Server("alice"), KnownServer("uid-1", carried(rule="blocked", at=at) if where == "pod" else NO_GRANT))
    if where == "redis":
        store.add_block(Block("b", "server", Server("alice").key, read_origin("eve"), "mining", at, uid="uid-1"), [])
    for headers in (HTML, CURL):
        text = shown(client.get("/egress/servers/alice", headers=headers).text)
        assert BLOCKED in text and "cannot open connections" in text and "ackages" not in text and "mining" not in text
        assert "Solving a check would not change that." in text
        assert ("Questions?" in text) is bool(contact) and contact in text
    answer = client.get("/egress/servers/alice").json
    assert (answer["access"], f"Your server has no internet access. {answer['why']}") == ("none", BLOCKED)
    assert (answer["contact"], answer["unlockable"]) == (contact, False)


def test_server_whose_lease_is_over_is_told_since_when(public, store):
    store.publish(Server("alice"), KnownServer("uid-1", carried(rule="expired", at=1_800_000_000)))
    why = "The time ran out at 2027-01-15 08:00 UTC. Connections that were open may go on."
    page, text = (shown(public.get("/egress/servers/alice", headers=headers).text) for headers in (HTML, CURL))
    assert f"Your server has no internet access. {why}" in page and f"Your server has no internet access. {why}" in text
    assert ">Restore internet access</button>" in page
    assert public.get("/egress/servers/alice").json["why"] == why
    store.publish(Server("alice"), KnownServer("uid-1", carried(rule="expired", at=1_800_000_000), node="n1"))
    store.publish_gatecheck('{"connections": ["n1"]}')
    assert public.get("/egress/servers/alice").json["why"] == "The time ran out at 2027-01-15 08:00 UTC."


def test_the_operators_words_come_as_text_in_the_visitors_language_or_in_english(make_services, store):
    tier = Tier(description={"en": "Mirrors only.", "de": "Nur Spiegel."})
    assert [pages.reach(tier, language) for language in ("en", "de", "fr")] == ["Mirrors only.", "Nur Spiegel.", "Mirrors only."]
    client = public_client(make_services(tiers={"verified": {"description": {"en": "<b>PyPI</b> & CRAN."}}}))
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified")))
    assert "&lt;b&gt;PyPI&lt;/b&gt; &amp; CRAN." in client.get("/egress/servers/alice", headers=HTML).text
    assert "<b>" not in client.get("/egress/servers/alice", headers=HTML).text
    assert "<b>PyPI</b> & CRAN." in client.get("/egress/servers/alice", headers=CURL).text


def test_a_tier_that_the_site_no_longer_has_gets_no_words(public, store):
    store.publish(Server("alice"), KnownServer("uid-1", carried("gone")))
    for headers in (HTML, CURL):
        answer = public.get("/egress/servers/alice", headers=headers)
        assert answer.status_code == 200 and "cannot open connections" not in shown(answer.text)


@pytest.mark.parametrize(("mode", "told"), [("observe", True), ("captcha", False)])
def test_page_says_if_nothing_is_enforced(make_services, store, mode, told):
    client = public_client(make_services(mode=mode, unverified_hosts=["python"]))
    assert client.get("/egress/challenge").json["access"] == (None if told else "packages")
    for known in (KnownServer("uid-1"), KnownServer("uid-1", carried("verified", until=int(time.time()) + 100))):
        store.publish(Server("alice"), known)
        for headers in (HTML, CURL):
            text = shown(client.get("/egress/servers/alice", headers=headers).text)
            assert text.count("This site only watches for now") == told
            assert text.count("Nothing changes here yet. " if headers == CURL else ">Nothing changes here yet.</p>") == told
            # Nothing about its access, an end, or a way to more: all servers have the network that they have without us.
            claims = ("has no internet access", "has internet access", "open connections", "#unlock", "Time left", "<button")
            assert any(claim in text for claim in claims) is not told, text
        answer = client.get("/egress/servers/alice").json
        assert (answer["access"] is None, answer["reach"].startswith("This site only watches for now")) == (told, told)


# -- the forms


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        pytest.param({"Accept": BROWSER}, "text/html", id="browser"),
        pytest.param(CURL, "text/plain", id="curl"),
        pytest.param({}, "application/problem+json", id="absent"),
        pytest.param({"Accept": "application/json, text/plain;q=0.9"}, "application/problem+json", id="JSON before text"),
        pytest.param({"Accept": "image/png"}, "application/problem+json", id="something else"),
        pytest.param({"Accept": ";;;q=x,,/"}, "application/problem+json", id="malformed"),
    ],
)
def test_server_is_told_in_the_requested_form(public, store, headers, kind):
    run_pod(store)
    there = public.get("/egress/servers/alice", headers=headers)
    assert (there.status_code, there.mimetype) == (200, kind.replace("problem+", ""))
    assert "Accept" in there.headers["Vary"] and there.headers["Cache-Control"] == "no-store"
    answer = public.get("/egress/servers/nobody", headers={**headers, "Accept-Language": "fr"})
    assert (answer.status_code, answer.mimetype) == (404, kind)
    # An unlock is answered in JSON whatever the client accepts.
    assert public.post("/egress/servers/nobody", json={"token": "x"}, headers=headers).mimetype == "application/problem+json"
    assert {"Accept", "Accept-Language"} <= set(answer.vary)
    if kind == "application/problem+json":
        assert answer.json["type"].endswith("#no-such-server")
    else:
        assert "Ce serveur n’est pas en cours d’exécution." in answer.text and "Lancez-le de nouveau" in answer.text
        assert ('<html lang="fr" dir="ltr">' in answer.text) == (kind == "text/html")


def test_page_without_redis_says_so(public, redis_server):
    redis_server.stop()
    answer = public.get("/egress/servers/alice", headers=HTML)
    assert (answer.status_code, answer.mimetype, answer.headers["Retry-After"]) == (503, "text/html", "5")
    assert "The service cannot decide just now. Try again in a few seconds." in answer.text


def test_page_with_a_fault_says_so_in_the_language_of_the_visitor(public, monkeypatch):
    monkeypatch.delattr("binder_egress.web.servers._known")
    answer = public.get("/egress/servers/alice", headers={**HTML, "Accept-Language": "ja"})
    assert (answer.status_code, answer.mimetype) == (500, "text/html")
    assert pages.MESSAGES["ja"]["error-unavailable"] in answer.text and "logged" not in answer.text


def test_page_knows_who_comes_from_no_other_page(public, store):
    run_pod(store)
    for site, nowhere in (("cross-site", False), ("same-origin", False), ("none", True), ("", False)):
        answer = public.get("/egress/servers/alice", headers={**HTML, "Sec-Fetch-Site": site})
        assert ("data-from-nowhere" in answer.text) is nowhere, site


# -- QR codes


def test_terminal_gets_a_code_on_request(public, store):
    run_pod(store)
    for path in ("?qr", "?qr=1"):
        text = public.get(f"/egress/servers/alice{path}", headers=CURL).text
        assert pages.terminal_qr("http://localhost/egress/servers/alice/#unlock") in text
    for path in ("", "?qr=0"):
        text = public.get(f"/egress/servers/alice{path}", headers=CURL).text
        assert "  http://localhost/egress/servers/alice/#unlock\n" in text and "\x1b" not in text and "█" not in text
    store.publish(Server("alice"), KnownServer("uid-1", carried("verified")))
    assert "\x1b" not in public.get("/egress/servers/alice?qr=1", headers=CURL).text


def test_the_longest_code_fits_a_terminal():
    """Scanners of the browser tests read it."""
    lines = pages.terminal_qr("x" * pages.QR_LIMIT_CHARACTERS).split("\n")
    assert max(len(re.sub("\x1b.*?m", "", line)) for line in lines) <= 80


@pytest.mark.parametrize("form", [{"headers": HTML}, {"headers": CURL, "query_string": "qr=1"}], ids=["page", "terminal"])
def test_code_costs_no_more_than_a_few_pages_whatever_the_host(public, store, monkeypatch, form):
    """It is drawn once. Comparing the masks took most of the time, and a `Host` of 1,000 characters would have cost 50 pages."""
    drawn = []
    draw = segno.make_qr
    monkeypatch.setattr(segno, "make_qr", lambda text, **options: drawn.append((text, options["mask"])) or draw(text, **options))
    run_pod(store)
    for host in ("short.example", "short.example", f"{'x.' * 500}example"):
        assert public.get("/egress/servers/alice", base_url=f"http://{host}", **form).status_code == 200
    assert drawn == [("http://short.example/egress/servers/alice/#unlock", pages.QR_MASK)]


def test_the_code_in_the_page_keeps_to_the_content_security_policy(public, store):
    run_pod(store)
    page = public.get("/egress/servers/alice", headers=HTML).text
    icon, svg = re.findall("<svg.*?</svg>", page, re.DOTALL)
    for one in (icon, svg):
        assert not re.search("style|href|<script", one)
    assert str(pages.inline_qr("http://localhost/egress/servers/alice/#unlock")) == svg


def test_the_longest_names_have_a_page(public, store):
    """JupyterHub's names have up to 255 characters, and each may take nine or more in an address."""
    server = Server("ü" * 255, "本" * 255)
    store.publish(server, KnownServer("uid-1"))
    for headers in (HTML, CURL):
        answer = public.get(f"/egress/servers/{server.user}/{server.name}?qr=1", headers=headers)
        assert answer.status_code == 200
        assert "segno" not in answer.text and "\x1b" not in answer.text
    run_pod(store, "ü" * 20)
    assert "segno" in public.get(f"/egress/servers/{'ü' * 20}", headers=HTML).text
