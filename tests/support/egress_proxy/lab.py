"""The battery of escapes against the egress proxy, in a network namespace of its own. One process is everything:

- pods, which are source addresses;
- an internet: servers on public, private and special addresses, which answer whatever name they are asked for;
- the egress proxy, as the product runs it, but for the feed and DNS, which are dictionaries here.

`run` starts it, and returns what each attempt saw.
"""

import asyncio
import contextlib
import http.server
import ipaddress
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import certificate
from tests.support.egress_proxy.hellos import encrypted_client_hello, hello, hello_for, server_name
from verifier.networks import NetworkSet
from verifier.proxy import server as proxy_server
from verifier.proxy.decide import Policy, TierHosts
from verifier.proxy.hosts import HostList
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.process import listen
from verifier.proxy.resolve import Resolver
from verifier.proxy.server import Proxy
from verifier.records import AddressChange, AddressVersion, PodAddresses

TOP = Path(__file__).parents[3]

PROXY, PORT = "10.42.255.1", 3128
LIMITED, FULL, CUT, BLOCKED, STRANGER, TWICE, COURSE, LIMITED6 = (
    "10.42.0.5",
    "10.42.0.6",
    "10.42.0.7",
    "10.42.0.8",
    "10.42.0.9",
    "10.42.0.10",
    "10.42.0.11",
    "fd42::5",
)
PROXY6 = "fd42::1"

PUBLIC, PUBLIC6, OWN, DOWN = ("203.0.113.11", "203.0.113.12"), "2001:db8::10", "203.0.113.80", "203.0.113.99"
CANARIES = (
    "10.9.9.9",
    "172.16.9.9",
    "192.168.9.9",
    "169.254.169.254",
    "100.64.9.9",
    "fd00::9",
    "64:ff9b::a09:909",
    "2002:a09:909::1",
)
"""Addresses that no pod may reach. A server answers on each, so only the proxy's own rules protect them."""

NAMES = {
    "six.example": [PUBLIC6],
    "private.example": ["10.9.9.9"],
    "meta.example": ["169.254.169.254"],
    "shared.example": ["100.64.9.9"],
    "loop.example": ["127.0.0.1"],
    "loop6.example": ["::1"],
    "zero.example": ["0.0.0.0"],
    "self.example": [PROXY],
    "mapped.example": ["::ffff:10.9.9.9"],
    "nat64.example": ["64:ff9b::a09:909"],
    "local6.example": ["fd00::9"],
    "sixtofour.example": ["2002:a09:909::1"],
    "mixed.example": [PUBLIC[0], "10.9.9.9"],
    "hub.example": [OWN],
    "alias-of-hub.example": [OWN],
    "down.example": [DOWN],
    "gone.example": [],
}
"""Names with other addresses than the first public one."""

EXCEPT = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/127",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2001::/32",
    "2002::/16",
    "fc00::/8",
    "fd00::/9",
    "fd80::/9",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
"""As `except` in values.yaml."""


class Internet(http.server.BaseHTTPRequestHandler):
    """Answers every request with what it saw."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/endless"):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(65536))
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else b""
        name = getattr(self.connection, "asked_name", "-")
        seen = f"REACHED host={self.headers['Host']} name={name} to={self.connection.getsockname()[0]} body={body.decode()}\n"
        with contextlib.suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", str(len(seen)))
            self.end_headers()
            self.wfile.write(seen.encode())

    do_POST = do_PUT = do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        pass


def start_internet(folder: Path) -> None:
    """Listen on every address of the internet, on 443 with TLS."""
    certificate(folder, "internet")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "internet.crt", folder / "internet.key")

    def note(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.asked_name = name  # type: ignore[attr-defined]

    context.sni_callback = note  # type: ignore[assignment]
    for address in (*PUBLIC, OWN, PUBLIC6, *CANARIES, "127.0.0.1", "::1"):
        for port in (22, 80, 443, 8080):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            server = type("Server", (_Server,), {"address_family": family})((address, port), Internet)
            if port == 443:
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, daemon=True).start()


class Lab:
    """The proxy on a loop of its own thread, and what the reconciler would publish."""

    def __init__(self) -> None:
        closed = NetworkSet(ipaddress.ip_network(cidr) for cidr in EXCEPT)
        listed = ["ok.example", "other.example", *(set(NAMES) - {"hub.example"})]
        policy = Policy(
            {"unverified": TierHosts(HostList(listed), closed=closed), "full": TierHosts(HostList(["*"]), closed=closed)},
            frozenset({"hub.example"}),
            "https://hub.example/egress/servers/",
            {"github.com/org/course": HostList(["api.course.example", "private.example"])},
        )
        self.rebound = 0
        self.later = 0.0  # seconds that answers of DNS are older than they are
        self._asked: set[str] = set()
        self.loop = asyncio.new_event_loop()
        self.proxy = Proxy(
            policy, Limits(60, 1000, 0, 400), Resolver(self.resolve, self._now), Metrics(), True, identity_wait_seconds=0.3
        )
        self._version = 0
        self.loop.run_until_complete(self._begin())
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        for address, user in ((LIMITED, "limited"), (FULL, "full"), (CUT, "cut"), (BLOCKED, "blocked"), (LIMITED6, "six")):
            self.publish(user, address, "full" if user in ("full", "cut") else "unverified", user == "blocked")
        self.publish("course", COURSE, "unverified", repository="https://github.com/org/course")
        self.publish("one", TWICE, "full")
        self.publish("another", TWICE, "full")
        while "hub.example" not in self._asked:
            time.sleep(0.01)

    async def _begin(self) -> None:
        self.proxy.identities.load(AddressVersion(), {})
        self._kept = [asyncio.create_task(self.proxy.serve(listen(PORT))), asyncio.create_task(self.proxy.watch())]

    def _now(self) -> float:
        return time.monotonic() + self.later

    def resolve(self, name: str) -> list[str]:
        """As DNS would. One name has another address with every question."""
        self._asked.add(name)
        if name == "rebind.example":
            self.rebound += 1
            return [PUBLIC[0]] if self.rebound % 2 else ["10.9.9.9"]
        return NAMES.get(name, [PUBLIC[1] if "evil" in name else PUBLIC[0]])

    def publish(self, user: str, address: str, tier: str, blocked: bool = False, repository: str = "") -> None:
        """Publish a pod, as the reconciler does; returns when the proxy knows."""
        self._version += 1
        pods = (PodAddresses(f"uid-{user}", user, "", (address,), tier, blocked, repository),) if tier else ()
        change = AddressChange(AddressVersion(self._version), f"{user}/", pods)

        async def apply() -> None:
            assert self.proxy.identities.apply(change)

        asyncio.run_coroutine_threadsafe(apply(), self.loop).result()


# -- what pods do


def connect(pod: str, to: tuple[str, int] | None = None) -> socket.socket:
    family = socket.AF_INET6 if ":" in pod else socket.AF_INET
    found = socket.socket(family)
    found.settimeout(6)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.bind((pod, 0))
    found.connect(to or (PROXY6 if ":" in pod else PROXY, PORT))
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


def open_tunnel(pod: str, target: str, early: bytes = b"", host: str = "", version: str = "1.1", more: str = "") -> tuple:
    connection = connect(pod)
    named = f"Host: {host or target}\r\n" if version == "1.1" else ""
    connection.sendall(f"CONNECT {target} HTTP/{version}\r\n{named}{more}\r\n".encode("latin-1") + early)
    return connection, first_line(connection)


def tunnel(
    pod: str,
    target: str,
    name: str = "",
    sent: bytes | None = None,
    pieces: int = 0,
    pause: float = 0.02,
    early: bool = False,
    **how,
) -> str:
    """CONNECT and a ClientHello. What came back: `ServerHello` if the host answered."""
    sent = hello_for(name) if sent is None else sent
    connection, line = open_tunnel(pod, target, sent if early else b"", **how)
    if " 200" not in line:
        return line
    try:
        if not early:
            for at in range(0, len(sent), pieces or len(sent)):
                connection.sendall(sent[at : at + (pieces or len(sent))])
                time.sleep(pause if pieces else 0)
        connection.settimeout(4)
        answer = connection.recv(4096)
    except OSError as error:
        return type(error).__name__
    finally:
        connection.close()
    return "ServerHello" if answer[:1] == b"\x16" else "closed" if not answer else f"REACHED? {answer[:60]!r}"


def https(pod: str, name: str, port: int = 443) -> str:
    """A whole handshake and a request: what the host saw."""
    connection, line = open_tunnel(pod, f"{name}:{port}")
    if " 200" not in line:
        return line
    context = ssl._create_unverified_context()
    with context.wrap_socket(connection, server_hostname=name) as secure:
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        return receive(secure)


def receive(connection: socket.socket) -> str:
    found = b""
    connection.settimeout(3)
    with contextlib.suppress(OSError):
        while more := connection.recv(65536):
            found += more
            if b"REACHED" in found and found.endswith(b"\n"):
                connection.settimeout(0.3)
    text = found.decode("latin-1")
    return " | ".join([text.split("\r\n")[0] or "closed", *re.findall(r"REACHED[^\n]*", text)])


def plain(pod: str, raw: str | bytes) -> str:
    """Bytes to the proxy: the first line of the answer, and what hosts saw."""
    with connect(pod) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(raw.encode("latin-1") if isinstance(raw, str) else raw)
        return receive(connection)


def get(url: str, host: str = "", more: str = "", version: str = "1.1", method: str = "GET") -> str:
    named = host or url.split("/")[2]
    return f"{method} {url} HTTP/{version}\r\nHost: {named}\r\nConnection: close\r\n{more}\r\n"


@dataclass
class Attempt:
    """One attempt.

    Attributes:
        name: what is tried.
        reaches: what must be in what was seen; `""`: nothing may be reached.
        act: does it, and says what it saw.
    """

    name: str
    reaches: str
    act: Callable[[Lab], str]


def attempts() -> list[Attempt]:
    """Those that change nothing, so that they can be made side by side."""
    found: list[Attempt] = []

    def add(name: str, reaches: str, act: Callable[[], str]) -> None:
        found.append(Attempt(name, reaches, lambda _: act()))

    pod, full = LIMITED, FULL
    smuggled = get("http://evil.example/")
    # What must work, so that a refusal below says something.
    add("use: https to a listed host", "host=ok.example name=ok.example", lambda: https(pod, "ok.example"))
    add("use: http to a listed host", "REACHED host=ok.example", lambda: plain(pod, get("http://ok.example/a")))
    add("use: https from an IPv6 address", "REACHED host=ok.example", lambda: https(LIMITED6, "ok.example"))
    add("use: https to a host with IPv6 alone", "REACHED host=six.example", lambda: https(pod, "six.example"))
    add("use: any host with *", "REACHED host=evil.example", lambda: https(full, "evil.example"))
    add("use: any host with *, http", "REACHED host=evil.example", lambda: plain(full, get("http://evil.example/")))
    add("use: ClientHello in pieces of 40 bytes", "ServerHello", lambda: tunnel(pod, "ok.example:443", "ok.example", pieces=40))
    add(
        "use: ClientHello of 9 kB",
        "ServerHello",
        lambda: tunnel(pod, "ok.example:443", sent=hello(server_name("ok.example"), padding=9000), pieces=1400),
    )
    add(
        "use: ClientHello in records of 60 bytes",
        "ServerHello",
        lambda: tunnel(pod, "ok.example:443", sent=hello(server_name("ok.example"), record=60)),
    )
    add("use: ClientHello with the CONNECT", "ServerHello", lambda: tunnel(pod, "ok.example:443", "ok.example", early=True))
    add("use: host in capitals", "ServerHello", lambda: tunnel(pod, "OK.Example:443", "ok.example"))
    add("use: host with a dot at the end", "ServerHello", lambda: tunnel(pod, "ok.example.:443", "ok.example"))
    add("use: CONNECT in HTTP/1.0", "ServerHello", lambda: tunnel(pod, "ok.example:443", "ok.example", version="1.0"))
    add(
        "use: body with its length",
        "body=hello",
        lambda: plain(pod, get("http://ok.example/", more="Content-Length: 5\r\n", method="POST") + "hello"),
    )
    add(
        "use: body of 300 kB",
        "body=" + "x" * 1000,
        lambda: plain(pod, get("http://ok.example/", more="Content-Length: 300000\r\n", method="POST") + "x" * 300_000),
    )
    add("use: hidden name with *", "ServerHello", lambda: tunnel(full, "ok.example:443", sent=hello()))
    for kind, act in (("https", lambda: https(full, "down.example")), ("http", lambda: plain(full, get("http://down.example/")))):
        add(f"use: {kind} to a host that does not answer", "HTTP/1.1 502 The host does not answer", act)
    add("use: who am I", "HTTP/1.1 200 OK", lambda: plain(pod, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    add("use: https to a host of the repository", "host=api.course.example", lambda: https(COURSE, "api.course.example"))
    add("use: https to a host of the tier, with a repository", "host=ok.example", lambda: https(COURSE, "ok.example"))
    add("name: host of a repository, from another", "", lambda: tunnel(pod, "api.course.example:443", "api.course.example"))
    add("name: host that is not listed, with a repository", "", lambda: tunnel(COURSE, "evil.example:443", "evil.example"))
    add("address: private one of a host of the repository", "", lambda: https(COURSE, "private.example"))
    # Other names.
    add("name: host that is not listed", "", lambda: tunnel(pod, "evil.example:443", "evil.example"))
    add("name: host that is not listed, http", "", lambda: plain(pod, get("http://evil.example/")))
    add("name: ClientHello for another host", "", lambda: tunnel(pod, "ok.example:443", "evil.example"))
    add("name: ClientHello for another listed host", "", lambda: tunnel(pod, "ok.example:443", "other.example"))
    add("name: ClientHello for another host, with *", "", lambda: tunnel(full, "ok.example:443", "other.example"))
    add("name: ClientHello without a name", "", lambda: tunnel(pod, "ok.example:443", sent=hello()))
    for names in (("ok.example", "evil.example"), ("evil.example", "ok.example")):
        add(
            f"name: two names, {names[0]} first",
            "",
            lambda names=names: tunnel(pod, "ok.example:443", sent=hello(server_name(*names))),
        )
    add(
        "name: extension twice",
        "",
        lambda: tunnel(pod, "ok.example:443", sent=hello(server_name("ok.example"), server_name("evil.example"))),
    )
    add(
        "name: Encrypted Client Hello",
        "",
        lambda: tunnel(pod, "ok.example:443", sent=hello(server_name("ok.example"), encrypted_client_hello())),
    )
    add(
        "name: another host over two records",
        "",
        lambda: tunnel(pod, "ok.example:443", sent=hello(server_name("evil.example"), record=60)),
    )
    add("name: another host in pieces of 5 bytes", "", lambda: tunnel(pod, "ok.example:443", "evil.example", pieces=5, pause=0.002))
    add("name: another host with the CONNECT", "", lambda: tunnel(pod, "ok.example:443", "evil.example", early=True))
    add(
        "name: two ClientHellos, the second for another host",
        "",
        lambda: tunnel(pod, "ok.example:443", sent=hello(server_name("ok.example"), after=hello_for("evil.example")[5:])),
    )
    add("name: CONNECT in HTTP/1.0, another host", "", lambda: tunnel(pod, "evil.example:443", "evil.example", version="1.0"))
    add("name: CONNECT evil, Host ok", "", lambda: tunnel(pod, "evil.example:443", "evil.example", host="ok.example:443"))
    add("name: CONNECT ok, Host evil", "", lambda: tunnel(pod, "ok.example:443", "evil.example", host="evil.example:443"))
    for target in (
        "ok.example.evil.example:443",
        "ok.example:443@evil.example:443",
        "evil.example:443#ok.example:443",
        "evil.example:443/ok.example",
        "ok.example\0.evil.example:443",
        "ok.example%00.evil.example:443",
        "ok.example,evil.example:443",
        "evil.example\t:443",
        "*.example:443",
        "evil.example:443:443",
        "evil.example:0443",
        "evil.example:65979",
        "xn--80ak6aa92e.example:443",
        "evilok.example:443",
    ):
        add(f"name: CONNECT {target!r}", "", lambda target=target: tunnel(pod, target, "evil.example"))
    # Other protocols in a tunnel.
    for what, sent in (
        ("http", b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        ("ssh", b"SSH-2.0-x\r\n"),
        ("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        ("http/2 prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
        ("half a ClientHello", hello_for("ok.example")[:50]),
        ("records of one byte", hello(server_name("ok.example"), record=1)),
    ):
        add(f"bytes: {what} in a tunnel", "", lambda sent=sent: tunnel(pod, "ok.example:443", sent=sent))
        add(f"bytes: {what} in a tunnel, with *", "", lambda sent=sent: tunnel(full, "ok.example:443", sent=sent))
    # Ports and addresses.
    for port in (22, 80, 8080, 0):
        add(f"port: CONNECT to {port}", "", lambda port=port: tunnel(full, f"ok.example:{port}", "ok.example"))
    for url in (
        "http://ok.example:8080/",
        "http://ok.example:443/",
        "http://ok.example:22/",
        "https://ok.example/",
        "ftp://ok.example/",
    ):
        add(f"port: GET {url}", "", lambda url=url: plain(full, get(url)))
    for address in (
        PUBLIC[1],
        "10.9.9.9",
        "169.254.169.254",
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:10.9.9.9]",
        "[fd00::9]",
        "[64:ff9b::a09:909]",
        "168364297",
        "0x0a.9.9.9",
        "10.9.2313",
        "012.9.9.9",
        "0x0a090909",
        "10.9.9.9.",
        f"[{PUBLIC6}]",
        "[fe80::1%25eth0]",
    ):
        add(f"address: CONNECT {address}", "", lambda address=address: tunnel(full, f"{address}:443", "evil.example"))
        add(f"address: http://{address}/", "", lambda address=address: plain(full, get(f"http://{address}/")))
    for name in sorted(set(NAMES) - {"six.example"}):
        for who, asks in (("listed", pod), ("*", full)):
            add(f"dns: {name}, {who}", "", lambda name=name, asks=asks: tunnel(asks, f"{name}:443", name))
            add(f"dns: http {name}, {who}", "", lambda name=name, asks=asks: plain(asks, get(f"http://{name}/")))
    # Plain HTTP.
    for what, raw in (
        ("Host of another host", get("http://ok.example/", host="evil.example")),
        ("address of another host", get("http://evil.example/", host="ok.example")),
        ("origin form", "GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
        ("user in the address", get("http://ok.example@evil.example/", host="ok.example")),
        ("backslash", get("http://evil.example\\@ok.example/", host="ok.example")),
        ("tab in the target", "GET http://ok.example/\thttp://evil.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n"),
        ("header in the target", "GET http://ok.example/ HTTP/1.1\rX: y\r\nHost: ok.example\r\n\r\n"),
        ("http/2 prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("http/0.9", "GET http://evil.example/\r\n\r\n"),
        ("forged addresses", get("http://evil.example/", more=f"X-Forwarded-For: {full}\r\nForwarded: for={full}\r\n")),
        ("TRACE", get("http://evil.example/", method="TRACE")),
    ):
        add(f"http: {what}", "", lambda raw=raw: plain(pod, raw))
    for what, raw in (
        ("two Host headers", get("http://ok.example/", more="Host: evil.example\r\n")),
        ("pipelining", get("http://ok.example/").replace("Connection: close\r\n", "") + smuggled),
        (
            "length and chunks",
            get("http://ok.example/", more=f"Content-Length: {len(smuggled) + 5}\r\nTransfer-Encoding: chunked\r\n", method="POST")
            + f"0\r\n\r\n{smuggled}",
        ),
        (
            "space before the colon",
            get("http://ok.example/", more=f"Content-Length: {len(smuggled)}\r\nTransfer-Encoding : chunked\r\n", method="POST")
            + smuggled,
        ),
        (
            "two lengths",
            get("http://ok.example/", more=f"Content-Length: 0\r\nContent-Length: {len(smuggled)}\r\n", method="POST") + smuggled,
        ),
        (
            "chunks, then more",
            get("http://ok.example/", more="Transfer-Encoding: chunked\r\n", method="POST") + f"0\r\n\r\n{smuggled}",
        ),
        ("folded header", get("http://ok.example/", more="X: a\r\n Host: evil.example\r\n")),
        ("bare line feeds", "GET http://ok.example/ HTTP/1.1\nHost: ok.example\nX: y\n\n" + smuggled),
        ("upgrade, then more", get("http://ok.example/", more="Upgrade: websocket\r\n").replace("close", "upgrade") + smuggled),
        (
            "length that is hidden by Connection",
            get("http://ok.example/", more=f"Content-Length: {len(smuggled)}\r\n", method="POST").replace("close", "content-length")
            + smuggled,
        ),
    ):
        # The host may be reached, the other one must not.
        found.append(Attempt(f"http: {what}", "!host=evil.example", lambda _, raw=raw: plain(pod, raw)))
    # Who asks.
    add("who: pod that is blocked", "", lambda: tunnel(BLOCKED, "ok.example:443", "ok.example"))
    add("who: address that nobody has", "", lambda: tunnel(STRANGER, "ok.example:443", "ok.example"))
    add("who: address that two pods have", "", lambda: tunnel(TWICE, "ok.example:443", "ok.example"))
    add("who: forged address", "", lambda: tunnel(pod, "evil.example:443", "evil.example", more=f"X-Forwarded-For: {full}\r\n"))
    # The proxy itself, and the hub.
    for port in (3128, 8082):
        for host in ("localhost", "127.0.0.1", "self.example", "loop.example"):
            add(f"self: http://{host}:{port}/", "", lambda host=host, port=port: plain(full, get(f"http://{host}:{port}/metrics")))
    add("hub: by its name", "", lambda: https(full, "hub.example"))
    add("hub: by another name of its address", "", lambda: https(full, "alias-of-hub.example"))
    add("slow: ClientHello of a byte in 0.2 s", "", lambda: tunnel(pod, "ok.example:443", "ok.example", pieces=1, pause=0.2))
    return found


def one_after_the_other() -> list[Attempt]:
    """Those that change something, or use something up."""

    def rebinding(lab: Lab) -> str:
        seen = []
        for _ in range(4):
            seen.append(plain(FULL, get("http://rebind.example/")))
            lab.later += 60
        return " | ".join(seen)

    def grant(lab: Lab) -> str:
        lab.publish("cut", CUT, "unverified")
        before = tunnel(CUT, "evil.example:443", "evil.example")
        lab.publish("cut", CUT, "full")
        first = "REACHED before" if "ServerHello" in before else "first refused"
        return f"{first}, then {tunnel(CUT, 'evil.example:443', 'evil.example')}"

    def endless(pod: str) -> tuple[socket.socket, socket.socket]:
        """A download by TLS, and one by plain HTTP."""
        context = ssl._create_unverified_context()
        connection, _ = open_tunnel(pod, "evil.example:443")
        secure = context.wrap_socket(connection, server_hostname="evil.example")
        secure.sendall(b"GET /endless HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        clear = connect(pod)
        clear.sendall(get("http://evil.example/endless").encode())
        assert secure.recv(1) and clear.recv(1)
        return secure, clear

    def seconds_to_end(connection: socket.socket) -> float:
        began = time.monotonic()
        connection.settimeout(3)
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 3 and connection.recv(1 << 20):
                pass
        return time.monotonic() - began

    def cut(change: Callable[[Lab], None]) -> Callable[[Lab], str]:
        def act(lab: Lab) -> str:
            lab.publish("cut", CUT, "full")
            ending, living = endless(CUT), endless(FULL)
            idle, _ = open_tunnel(CUT, "evil.example:443")
            silent, _ = open_tunnel(CUT, "evil.example:443", hello_for("evil.example"))
            time.sleep(0.1)
            change(lab)
            took = [seconds_to_end(one) for one in (*ending, idle, silent)]
            alive = all(one.recv(1) for one in living)
            for one in (*ending, *living, idle, silent):
                one.close()
            lab.publish("cut", CUT, "full")
            return f"{'others live' if alive else 'REACHED: others ended'}, {'cut' if max(took) < 1 else 'REACHED'} after {took}"

        return act

    def kept(lab: Lab) -> str:
        """A tunnel to a host that both tiers have stays."""
        lab.publish("cut", CUT, "full")
        context = ssl._create_unverified_context()
        connection, _ = open_tunnel(CUT, "ok.example:443")
        secure = context.wrap_socket(connection, server_hostname="ok.example")
        lab.publish("cut", CUT, "unverified")
        time.sleep(0.1)
        secure.sendall(b"GET / HTTP/1.1\r\nHost: ok.example\r\nConnection: close\r\n\r\n")
        with secure:
            return receive(secure)

    def crowd(lab: Lab) -> str:
        """One pod holds all connections that it may; another one works."""
        while lab.proxy.open:
            time.sleep(0.05)
        held = [connect(CUT) for _ in range(70)]
        time.sleep(0.3)
        line = plain(CUT, get("http://ok.example/"))
        other = plain(LIMITED, get("http://ok.example/"))
        for one in held:
            one.close()
        return f"{line} and {other}"

    return [
        Attempt("dns: rebinding", "!to=10.", rebinding),
        Attempt("change: a grant opens", "first refused, then ServerHello", grant),
        Attempt("change: a revocation cuts", "others live, cut", cut(lambda lab: lab.publish("cut", CUT, "unverified"))),
        Attempt("change: a block cuts", "others live, cut", cut(lambda lab: lab.publish("cut", CUT, "unverified", True))),
        Attempt("change: the end of the pod cuts", "others live, cut", cut(lambda lab: lab.publish("cut", CUT, ""))),
        Attempt("change: the next pod with the address cuts", "others live, cut", cut(lambda lab: lab.publish("x", CUT, "full"))),
        Attempt("change: the next pod is gone again", "REACHED host=ok", lambda lab: (lab.publish("x", CUT, ""), kept(lab))[1]),
        Attempt("limit: one pod's connections", "HTTP/1.1 429 ", crowd),
        Attempt("limit: another pod meanwhile", "and HTTP/1.1 200 OK | REACHED host=ok.example", crowd),
    ]


def judge(attempt: Attempt, seen: str) -> bool:
    """Whether what was seen is what must be."""
    if attempt.reaches.startswith("!"):
        return attempt.reaches[1:] not in seen
    if attempt.reaches:
        return attempt.reaches in seen
    return "REACHED" not in seen and "ServerHello" not in seen


def names() -> list[str]:
    """The names of all attempts."""
    return [attempt.name for attempt in (*attempts(), *one_after_the_other())]


def run() -> dict[str, list]:
    """Run the battery in a new network namespace: name → [whether it is as it must be, what was seen]."""
    inside = ["ip link set lo up"]
    pods = (LIMITED, FULL, CUT, BLOCKED, STRANGER, TWICE, COURSE, LIMITED6)
    for address in (PROXY, PROXY6, *pods, *PUBLIC, PUBLIC6, OWN, *CANARIES):
        inside.append(f"ip address add {address}/{'128 nodad' if ':' in address else '32'} dev lo")
    inside.append(f"exec {sys.executable} -m {__spec__.name}")
    command = ["unshare", "--map-root-user", "--net", "sh", "-ec", "\n".join(inside)]
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=TOP, env=environment, check=False)
    assert not done.returncode, done.stderr[-5000:]
    return json.loads(done.stdout)


def main() -> None:
    """In the namespace: run all attempts, and print what each saw."""
    proxy_server.HELLO_SECONDS = 3.0
    proxy_server.LINGER_SECONDS = 0.2
    with tempfile.TemporaryDirectory() as folder:
        start_internet(Path(folder))
    lab = Lab()

    def act(attempt: Attempt) -> tuple[bool, str]:
        try:
            seen = attempt.act(lab)
        except Exception as error:
            seen = f"{type(error).__name__}: {error}"
        return judge(attempt, seen), seen[:400]

    side_by_side = attempts()
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip((attempt.name for attempt in side_by_side), pool.map(act, side_by_side), strict=True))
    for attempt in one_after_the_other():
        found[attempt.name] = act(attempt)
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
