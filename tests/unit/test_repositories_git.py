"""Names of repositories compared with git: if git connects to a blocked host, the block applies to that spelling; if it connects
elsewhere, the repository has no name on that host.

git gets a proxy on loopback, which records the host that git asks for and refuses the connection.
"""

import os
import socketserver
import subprocess
import threading
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binder_egress.model.repositories import covers, name

BLOCKED = "github.com/owner/*"

INVISIBLE = [*"\u00ad\u034f\u200b\u200c\u200d\u2060\u2064\ufeff", *map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10)])]
"""Characters that UTS 46 drops. Random choice from all of Unicode would almost never pick them."""

LETTERS = st.characters(exclude_categories=["Cs"], min_codepoint=0x80) | st.sampled_from(INVISIBLE)


class Refuses(socketserver.StreamRequestHandler):
    """A proxy that records the host of a request and refuses the request."""

    timeout = 10

    def handle(self):
        method, address, _ = self.rfile.readline().decode("latin-1").split(" ", 2)
        # Without a scheme, libcurl takes http.
        host = address.rpartition(":")[0] if method == "CONNECT" else address.removeprefix("http://").partition("/")[0]
        self.server.hosts.append(host)
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def proxy():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuses) as server:
        server.daemon_threads = True
        server.hosts = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def git_connects_to(proxy, url):
    """Returns the host that git connects to for a URL; empty if git does not connect."""
    proxy.hosts.clear()
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    command = ["git", "-c", f"http.proxy=http://127.0.0.1:{proxy.server_address[1]}", "ls-remote", "--", url]
    subprocess.run(command, env=environment, capture_output=True, timeout=30)
    return proxy.hosts[0].lower().rstrip(".") if proxy.hosts else ""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    insertions=st.lists(st.tuples(st.integers(0, 10), LETTERS), max_size=3),
    replaced=st.sampled_from(["", "."]),
    dot=st.sampled_from([".", "\u3002", "\uff0e", "\uff61", "%2e"]),
    encoded=st.booleans(),
)
def test_block_holds_for_every_unicode_character(proxy, insertions, replaced, dot, encoded):
    host = f"github{dot}com{replaced}"
    for where, character in insertions:
        host = host[:where] + (quote(character) if encoded else character) + host[where:]
    check(proxy, f"https://{host}/owner/name")


def check(proxy, url):
    """Checks a URL's name against the host that git connects to, and returns that host."""
    host = git_connects_to(proxy, url).removeprefix("www.")
    if host == "github.com":
        assert covers(BLOCKED, name(url)), ascii(url)
    elif host:
        assert not (name(url) or "").startswith("github.com/"), ascii(url)
    return host


@pytest.mark.parametrize("host", ["github", "git\u00adhub", "git\u200bhub", "git\u2060hub", "git%C2%ADhub", "g%69thub"])
@pytest.mark.parametrize("dot", [".", "\u3002"])
def test_spelling_that_git_resolves_to_a_blocked_host_is_blocked(proxy, host, dot):
    assert check(proxy, f"https://{host}{dot}com/owner/name") == "github.com"


@pytest.mark.parametrize(
    "user",
    [
        *("x", "x:y", "x%2F", "x%23", "x%3F", "x%5C", "x\\", "x\uff0f", "x\uff1f", "x%EF%BC%8F", "x%252F"),
        *("evil.example:80", "evil.example%2F", ":%2F"),
    ],
)
def test_user_does_not_hide_a_blocked_host(proxy, user):
    assert check(proxy, f"https://{user}@github.com/owner/name") == "github.com"


@pytest.mark.parametrize("prefix", ["https::https://", "http::https://", "http::http://", "https::https://x%2F@"])
def test_transport_prefix_does_not_hide_a_blocked_host(proxy, prefix):
    assert check(proxy, f"{prefix}github.com/owner/name") == "github.com"


@pytest.mark.parametrize("end", ["", "%2F", "%23", "%3F", "\\", "\uff0f", "%2F..%2F..%2Fowner%2Fname%3F:p"])
def test_user_lends_a_repository_no_other_host(proxy, end):
    assert check(proxy, f"https://github.com%2Fowner%2Fname{end}@evil.example/x/y") == "evil.example"


PIECES = st.sampled_from(
    [
        *("github.com", "evil.example", "owner", ":", "@", "\\", "\uff20", "\uff0f", "\uff1a", "\uff1f", "?", "#", ".", "443", "["),
        *("%2F", "%23", "%3F", "%40", "%3A", "%5C", "%25", "%252F", "%2523", "%EF%BC%8F"),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefix=st.sampled_from(["https://", "https://", "https:///", "https::https://"]),
    pieces=st.lists(PIECES, max_size=5).map("".join),
    end=st.sampled_from(["@github.com", "@evil.example", ".evil.example", ":443"]),
)
def test_name_has_the_host_of_every_authority(proxy, prefix, pieces, end):
    check(proxy, f"{prefix}{pieces}{end}/owner/name")
