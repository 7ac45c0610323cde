"""An internet for attempts at an escape: web servers that report the requests that they got and, in the cluster, DNS."""

import contextlib
import http.server
import ipaddress
import itertools
import json
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from tests.support.certificates import certificate
from tests.support.egress_proxy.attempts import ALIASES, DNS_PORT, METADATA, NAMES, OWN, PRIVATE, PUBLIC, PUBLIC6, addresses

CANARIES = (
    PRIVATE, "172.16.9.9", "192.168.9.9", METADATA, "100.64.9.9", "fd00::9", "64:ff9b::a09:909", "2002:a09:909::1",
)  # fmt: skip
"""Addresses that no pod may reach. A server answers on each, so only the proxy's own rules, and its policy, protect them."""


class Internet(http.server.BaseHTTPRequestHandler):
    """Answers every request with a report of that request."""

    protocol_version = "HTTP/1.1"
    paths: ClassVar[list[str]] = []
    """The report of a request."""

    def do_GET(self) -> None:
        self.paths.append(self.path)
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


def start_internet(folder: Path, hosts: Iterable[str]) -> None:
    """Listen on every address of the internet, on 443 with TLS."""
    certificate(folder, "internet")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "internet.crt", folder / "internet.key")

    def note(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.asked_name = name  # type: ignore[attr-defined]

    context.sni_callback = note  # type: ignore[assignment]
    for address in hosts:
        for port in (22, 80, 443, 8080):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            server = type("Server", (_Server,), {"address_family": family})((address, port), Internet)
            if port == 443:
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, daemon=True).start()


def answer(question: bytes, turn: "itertools.count[int]") -> bytes:
    """The answer of a DNS server that knows `NAMES`, `ALIASES`, and one name that has another address in every answer."""
    at, labels = 12, []
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode())
        at += 1 + size
    name, kind = ".".join(labels).lower(), question[at + 2]
    records = []
    if name in ALIASES:
        target = b"".join(bytes([len(label)]) + label.encode() for label in ALIASES[name].split(".")) + b"\0"
        # The addresses belong to the name in the previous record.
        records.append((b"\xc0\x0c", 5, target))
    owner = struct.pack(">H", 0xC000 + at + 5 + 12) if records else b"\xc0\x0c"
    found = addresses(name)
    if name == "rebind.example" and kind == 1:
        found = [(PUBLIC[0], PRIVATE)[next(turn) % 2]]
    for address in found:
        ip = ipaddress.ip_address(address)
        if kind == {4: 1, 6: 28}[ip.version]:
            records.append((owner, kind, ip.packed))
    head = question[:2] + struct.pack(">HHHHH", 0x8580, 1, len(records), 0, 0) + question[12 : at + 5]
    return head + b"".join(who + struct.pack(">HHIH", what, 1, 0, len(data)) + data for who, what, data in records)


def serve_dns(address: str) -> None:
    turn = itertools.count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, DNS_PORT))
        while True:
            question, client = server.recvfrom(4096)
            server.sendto(answer(question, turn), client)


def main() -> None:
    """In the network namespace of the cluster's internet: the addresses, their servers and DNS, until standard input ends.

    Its lines are JSON: names with other addresses than in `NAMES`.
    """
    # The cluster's own internet has the metadata address.
    hosts = [*PUBLIC, PUBLIC6, OWN, *(address for address in CANARIES if address != METADATA)]
    made = [[f"{address}/{'128' if ':' in address else '32'}", "dev", "lo"] for address in hosts]
    try:
        for each in made:
            subprocess.run(["ip", "address", "replace", *each, *(["nodad"] if ":" in each[0] else [])], check=True)
        with tempfile.TemporaryDirectory() as folder:
            start_internet(Path(folder), hosts)
        threading.Thread(target=serve_dns, args=(PUBLIC[0],), daemon=True).start()
        print("ready", flush=True)
        for line in sys.stdin:
            NAMES.update(json.loads(line))
    finally:
        for each in made:
            subprocess.run(["ip", "address", "delete", *each], check=False)


if __name__ == "__main__":
    main()
