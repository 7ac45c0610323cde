"""Downloads that a server asks for and does not read, through the egress proxy, and other servers meanwhile.

`seen` runs the proxy in the lab's network namespace, with real sockets.
"""

import fcntl
import os
import re
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from binder_egress.proxy import accounting, closing, plain
from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.limits import Limits
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.resolve import Resolver
from tests.support.egress_proxy import lab
from tests.support.egress_proxy.attempts import ANY, LISTED, PORT, PUBLIC, Pod, get
from tests.support.waiting import eventually

NOT_READ = 40
"""Downloads that the first server asks for and does not read."""

MOST_WAITING_BYTES = 8 * 1024 * 1024
"""The limit in this test: a fraction of what these downloads would hold."""

SHORT = 100
"""Downloads that it does not read either, of hosts that have sent all they have."""

SHORT_BYTES = 120_000
"""The bytes of such a download: the buffer toward the pod has room for them."""

was_reset = threading.Event()
"""Set when the host of `/reset` has reset the connection."""

HOSTS = {"host.example": [PUBLIC[0]], "silent.example": [PUBLIC[1]]}


def seen() -> dict:
    """What the proxy did with connections that nobody reads, by number of bytes or connections, as `main` says."""
    return lab.in_namespace(__spec__.name)


def serve(listener: socket.socket) -> None:
    """A host whose answers do not end, but for those to `/short`, and to `/reset`, after which it resets the connection."""

    def send(client: socket.socket) -> None:
        with client, suppress(OSError):
            asked = client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            if b"/endless" in asked:
                while True:
                    client.sendall(bytes(1 << 20))
            client.sendall(bytes(SHORT_BYTES))
            if b"/reset" in asked:
                eventually(lambda: not unacknowledged_bytes(client), lab.WAIT_SECONDS, "the proxy does not take the download")
                time.sleep(1)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                was_reset.set()

    while True:
        threading.Thread(target=send, args=[listener.accept()[0]], daemon=True).start()


def unacknowledged_bytes(connection: socket.socket) -> int:
    """The bytes of a connection that the other side's kernel does not have yet."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def ask(pod: Pod, url: str = "http://host.example/endless", buffer: int = 0) -> socket.socket:
    """A download that nobody reads yet, by a client with a receive buffer of that size, or with the usual one."""
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.bind((pod.address, 0))
    client.settimeout(lab.WAIT_SECONDS)
    client.connect((pod.proxy, PORT))
    client.sendall(get(url).encode())
    return client


def post(pod: Pod, header: str, body: bytes) -> socket.socket:
    """Send a plain request with a body, to a host that does not read it."""
    client = socket.create_connection((pod.proxy, PORT), lab.WAIT_SECONDS, (pod.address, 0))
    client.sendall(f"POST http://silent.example/ HTTP/1.1\r\nHost: silent.example\r\n{header}\r\n\r\n".encode() + body)
    return client


def upload(pod: Pod) -> str:
    """Send more than may wait. Returns what ended it."""
    body = bytes(4 * MOST_WAITING_BYTES)
    try:
        return post(pod, f"Content-Length: {len(body)}", body).recv(100).decode()
    except OSError as error:
        return type(error).__name__


def read(client: socket.socket, number: int) -> int:
    """Read that many bytes. Returns how many came before the end."""
    came = 0
    with suppress(ConnectionResetError):
        while came < number and (more := client.recv(1 << 20)):
            came += len(more)
    return came


def is_open(client: socket.socket) -> bool:
    """Whether a connection on which nothing came is open."""
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def pipes() -> int:
    """The pipes of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return sum(link.startswith("pipe:") for link in found)


def main() -> None:
    """In the namespace: download, do not read, and print what was seen."""
    metrics, errors = Metrics(), []
    proxy = Proxy(lab.policy(*HOSTS), Limits(new_per_second=1000), Resolver(HOSTS.__getitem__), metrics)
    running = lab.Running(proxy, {lab.PODS[LISTED]: "unverified", lab.PODS[ANY]: "full"})
    running.loop.set_exception_handler(lambda _, context: errors.append(str(context["message"])))
    endless, silent = (socket.create_server((address, 80), backlog=100) for address in PUBLIC)
    threading.Thread(target=serve, args=[endless], daemon=True).start()

    def cut() -> dict[str, float]:
        line = r'^binder_egress_proxy_connections_total{decision="cut".*rule="not-taken",tier="(.*)"} (\S+)$'
        return {tier: float(number) for tier, number in re.findall(line, metrics.text().decode(), re.MULTILINE)}

    idle = ask(lab.PODS[LISTED], "http://silent.example/")
    idle_host, _ = silent.accept()
    before = pipes()
    earlier = ask(lab.PODS[ANY])
    # A small buffer makes small packets, which take more of the proxy's buffer than they have bytes.
    crowd = [ask(lab.PODS[LISTED], buffer=4096 * (number % 2)) for number in range(NOT_READ)]
    for client in crowd:
        client.recv(1, socket.MSG_PEEK)
    eventually(lambda: settled(pipes), lab.WAIT_SECONDS, "downloads that nobody reads go on")
    found: dict = {"pipes": pipes() - before}
    accounting.MOST_WAITING_BYTES = MOST_WAITING_BYTES  # type: ignore[misc]
    eventually(lambda: cut().get("unverified", 0) > 0, lab.WAIT_SECONDS, "no connection was cut")
    # A few more looks, so that it does not go on for ever, either.
    eventually(lambda: settled(cut), lab.WAIT_SECONDS, "connections are cut without end")
    found |= {"cut": cut(), "left": proxy.open, "idle": is_open(idle)}
    idle.close()
    idle_host.close()
    found["earlier"] = read(earlier, 10_000_000)
    found["later"] = read(ask(lab.PODS[ANY]), 10_000_000)
    for client in (earlier, *crowd):
        client.close()
    eventually(lambda: not proxy.open, lab.WAIT_SECONDS, "downloads of clients that left go on")
    cut_before = cut()
    crowd = [ask(lab.PODS[LISTED], "http://host.example/short", buffer=4096) for _ in range(SHORT)]
    eventually(lambda: cut() != cut_before, lab.WAIT_SECONDS, "no connection was cut")
    eventually(lambda: settled(cut), lab.WAIT_SECONDS, "connections are cut without end")
    found["short"] = proxy.open
    for client in crowd:
        client.close()
    eventually(lambda: not proxy.open, lab.WAIT_SECONDS, "downloads of clients that left go on")
    late = ask(lab.PODS[ANY], "http://host.example/reset", buffer=4096)
    assert was_reset.wait(2 * lab.WAIT_SECONDS)
    time.sleep(1)
    found["reset"] = read(late, SHORT_BYTES)
    closing.LEFT_SECONDS = 0.5
    accounting.MOST_WAITING_BYTES = MOST_WAITING_BYTES // 4
    late = ask(lab.PODS[ANY], "http://host.example/short", buffer=4096)
    time.sleep(4 * closing.LEFT_SECONDS)
    found["paused"] = read(late, SHORT_BYTES)
    late.close()
    eventually(lambda: not proxy.open, lab.WAIT_SECONDS, "downloads of clients that left go on")
    # More than its host's socket takes, and in small packets still less than what may wait.
    body = b"%x\r\n" % 500_000 + bytes(500_000) + b"\r\nnot a number\r\n"
    broken = post(lab.PODS[ANY], "Transfer-Encoding: chunked", body)
    eventually(lambda: proxy.open, lab.WAIT_SECONDS, "the request does not arrive")
    settled(lambda: proxy.open)
    found["broken"] = proxy.open
    silent.accept()[0].close()
    broken.close()
    found["upload"] = upload(lab.PODS[LISTED])
    silent.accept()[0].close()
    accounting.MOST_WAITING_BYTES, plain.PIECE_SECONDS = 100 * MOST_WAITING_BYTES, 0.5
    found["stuck"] = upload(lab.PODS[ANY])
    silent.accept()[0].close()
    unanswered = ask(lab.PODS[ANY], "http://silent.example/")
    host, _ = silent.accept()
    host.recv(65536)
    time.sleep(3 * closing.LEFT_SECONDS)
    found["silent"] = proxy.open
    unanswered.close()
    eventually(lambda: not proxy.open, lab.WAIT_SECONDS, "a request whose client has left goes on")
    found["errors"] = errors
    running.end(found)


def settled(look: Callable[[], object]) -> bool:
    """Whether what is seen has not changed for two looks of the proxy."""
    before = look()
    time.sleep(2.5)
    return look() == before


if __name__ == "__main__":
    main()
