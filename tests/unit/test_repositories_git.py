"""Hosts of repositories against git: where git connects to a blocked host, the block applies, however the host is spelt.

git gets a proxy on loopback, which notes the host that git asks it to connect to and refuses the connection.
"""

import os
import socketserver
import subprocess
import threading
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verifier.repositories import covers, name

BLOCKED = "github.com/owner/*"

INVISIBLE = [
    *"\u00ad\u034f\u200b\u200c\u200d\u2060\u2064\ufeff",
    *map(chr, range(0x180B, 0x1810)),
    *map(chr, range(0xFE00, 0xFE10)),
]
"""Characters that UTS 46 drops. Drawn from all of Unicode they would hardly ever be met."""

LETTERS = st.characters(exclude_categories=["Cs"], min_codepoint=0x80) | st.sampled_from(INVISIBLE)


class Refuses(socketserver.StreamRequestHandler):
    """A proxy that notes the host of a CONNECT request, and refuses it."""

    timeout = 10

    def handle(self):
        method, address, _ = self.rfile.readline().decode("latin-1").split(" ", 2)
        assert method == "CONNECT"
        self.server.hosts.append(address.rpartition(":")[0])
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
    """The host that git connects to for a URL; empty if it connects nowhere."""
    proxy.hosts.clear()
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    command = ["git", "-c", f"http.proxy=http://127.0.0.1:{proxy.server_address[1]}", "ls-remote", "--", url]
    subprocess.run(command, env=environment, capture_output=True, timeout=30)
    return proxy.hosts[0].lower().rstrip(".") if proxy.hosts else ""


@pytest.mark.parametrize(
    "host",
    [
        "github.com",
        "git\u00adhub.com",
        "git\u200bhub.com",
        "git\u2060hub.com",
        "github\u3002com",
        "git%C2%ADhub.com",
        "g%69thub.com",
    ],
)
def test_a_spelling_that_git_takes_for_the_host_is_blocked(proxy, host):
    url = f"https://{host}/owner/name"
    assert git_connects_to(proxy, url) == "github.com"
    assert covers(BLOCKED, name(url))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    insertions=st.lists(st.tuples(st.integers(0, 10), LETTERS), max_size=3),
    replaced=st.sampled_from(["", "."]),
    dot=st.sampled_from([".", "\u3002", "\uff0e", "\uff61", "%2e"]),
    encoded=st.booleans(),
)
def test_no_character_of_unicode_gets_around_a_block(proxy, insertions, replaced, dot, encoded):
    host = f"github{dot}com{replaced}"
    for where, character in insertions:
        host = host[:where] + (quote(character) if encoded else character) + host[where:]
    url = f"https://{host}/owner/name"
    if git_connects_to(proxy, url).removeprefix("www.") == "github.com":
        assert covers(BLOCKED, name(url)), ascii(url)
