"""A network namespace for the browser, in which no interface comes or goes, with a SOCKS proxy (RFC 1928) to the tests' servers.

Whenever the interfaces of its network change, Chromium ends requests that are about to connect (`ERR_NETWORK_CHANGED`).
"""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

from tests.support.cluster.timeouts import ANSWER_SECONDS

PORT = 1080
"""The proxy's port."""


@dataclass(frozen=True)
class QuietNetwork:
    """The file that stands for the namespace, and the proxy as Playwright's `launch` takes it."""

    namespace: Path
    proxy: dict[str, str]

    def program(self, folder: Path, program: str) -> str:
        """Write a script into a folder that runs a program in the namespace. Returns its path."""
        script = folder / Path(program).name
        script.write_text(f'#!/bin/sh\nexec nsenter --net={self.namespace} {program} "$@"\n')
        script.chmod(0o755)
        return str(script)


@contextmanager
def quiet_network() -> Iterator[QuietNetwork]:
    """Make the namespace. It ends with the block."""
    inside = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout and holder.stdout.readline() == "up\n"
        namespace = Path(f"/proc/{holder.pid}/ns/net")
        with ThreadPoolExecutor(1) as pool:
            listener = pool.submit(_listen, namespace).result()
        with _Proxy(listener.getsockname(), _Connection, bind_and_activate=False) as server:
            server.socket.close()
            server.socket = listener
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield QuietNetwork(namespace, {"server": f"socks5://127.0.0.1:{PORT}", "bypass": "<-loopback>"})
            finally:
                server.shutdown()


def _listen(namespace: Path) -> socket.socket:
    """A socket that listens in the namespace. The thread that calls this is in the namespace from then on."""
    with namespace.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.create_server(("127.0.0.1", PORT), backlog=64)


class _Proxy(ThreadingTCPServer):
    daemon_threads = True


class _Connection(StreamRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            self.rfile.read(self.rfile.read(2)[1])  # the ways to authenticate
            self.wfile.write(b"\x05\x00")
            *_, kind = self.rfile.read(4)
            family = {1: socket.AF_INET, 4: socket.AF_INET6}.get(kind)
            length = {1: 4, 4: 16}.get(kind) or self.rfile.read(1)[0]
            address = self.rfile.read(length)
            host = socket.inet_ntop(family, address) if family else address.decode()
            try:
                server = socket.create_connection((host, int.from_bytes(self.rfile.read(2))), ANSWER_SECONDS)
            except OSError:
                self.wfile.write(b"\x05\x05\x00\x01" + bytes(6))
                return
            with server:
                server.settimeout(None)
                self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
                both_ways(self.connection, server)


def both_ways(client: socket.socket, server: socket.socket) -> None:
    """Move bytes each way, until both sides have ended."""
    up = threading.Thread(target=_pump, args=(client, server), daemon=True)
    up.start()
    _pump(server, client)
    up.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Move bytes until the source has ended, and then end the target."""
    with suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
