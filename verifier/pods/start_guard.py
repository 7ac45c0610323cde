"""The start guard: an init container of user pods that waits until the pod is isolated.

Some network plugins let a new pod talk until its policies are in force, and what was opened then stays open. The user's containers
start only after this one has ended, so it tries an address that no policy of ours opens until that is blocked. Whatever goes wrong,
it ends after its time-out and without an error, for a launch must never fail because of it; what it saw stands in its termination
message, which the reconciler counts.

It runs in every user pod before anything else, so it imports nothing but the standard library.

Decisions: D-008, D-009, D-010, D-012.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

ISOLATED_VARIABLE = "BINDER_EGRESS_ISOLATED"
TIMEOUT_VARIABLE = "BINDER_EGRESS_START_GUARD_TIMEOUT"
TARGETS_VARIABLE = "BINDER_EGRESS_START_GUARD_TARGETS"

TIMEOUT = 10.0
"""Seconds after which the pod starts in any case."""

PAUSE = 0.05
"""Seconds between tries. kube-router needed 0.2 to 1.3 s for a new pod's policies (docs/start-guard.md)."""

CONNECT = 0.15
"""Seconds for a connection inside the cluster. The kernel answers for the target, so its load does not matter; a plugin that drops
packets makes every try last this long."""

AFTER_OPEN = 3
"""Tries in a row that must be blocked if there was one that got through: the target works, so blocked means blocked."""

FROM_THE_START = 6
"""The same if none got through. A target that does not answer at all looks alike; 0.3 to 1.2 s then pass before the pod starts, in
which most of the windows seen have closed."""

MESSAGE = "/dev/termination-log"
"""Where Kubernetes looks for a container's last words, by default."""

Target = tuple[str, int]


def connects(target: Target, timeout: float = CONNECT) -> bool:
    """Whether a TCP connection to a target comes about."""
    try:
        socket.create_connection(target, timeout).close()
    except OSError:
        return False
    return True


def able(connects: Callable[[Target], bool] = connects) -> bool:
    """Whether a try can succeed at all, seen with a listener of our own. Without that every target would look blocked."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return connects(listener.getsockname())


def watch(
    targets: list[Target],
    timeout: float,
    connects: Callable[[Target], bool] = connects,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, object]:
    """Wait until all targets are blocked, or the time is over.

    Args:
        targets: addresses and ports that a pod must not reach, with or without a tier.
        timeout: seconds.
        connects: tries one target.
        clock: seconds.
        sleep: waits for seconds.

    Returns:
        `outcome`: `closed` (a target was open, then all were blocked), `blocked` (none was ever open), `open` (one still is) or
        `unclear` (neither seen often enough in time); `seconds` that it took; `tries`, and how many of them got through
        (`through`).
    """
    began = clock()
    tries = through = row = 0
    while True:
        tries += 1
        if any(connects(target) for target in targets):
            through, row = through + 1, 0
        else:
            row += 1
        seconds = round(clock() - began, 3)
        done = row >= (AFTER_OPEN if through else FROM_THE_START)
        if done or seconds + PAUSE > timeout:
            outcome = ("closed" if through else "blocked") if done else ("unclear" if row else "open")
            return {"outcome": outcome, "seconds": seconds, "tries": tries, "through": through}
        sleep(PAUSE)


def parse(text: str) -> list[Target]:
    """The targets in a text such as `10.43.0.1:443,[fd00::1]:443`.

    Raises:
        ValueError: it is no such text.
    """
    targets = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = part.rpartition(":")
        if not colon or not host:
            raise ValueError(f"{part!r} is not an address with a port")
        targets.append((host.strip("[]"), int(port)))
    return targets


def targets_of(environment: Mapping[str, str]) -> list[Target]:
    """What to try. By default the Kubernetes API: Kubernetes tells every container where it is, no policy of ours lets a user pod
    reach it, and where it does not answer no pod starts.

    Raises:
        ValueError: the setting cannot be read.
        KeyError: there is neither a setting nor a Kubernetes API.
    """
    return parse(environment.get(TARGETS_VARIABLE, "")) or [
        (environment["KUBERNETES_SERVICE_HOST"], int(environment["KUBERNETES_SERVICE_PORT"]))
    ]


def guard(environment: Mapping[str, str], timeout: float) -> dict[str, object]:
    """Wait, and return what was seen: as `watch`, or `off` if there are no policies to wait for.

    A guard that cannot see is `unable`, and waits for its whole time, which is longer than any window that was seen.
    """
    if environment.get(ISOLATED_VARIABLE) != "true":
        return {"outcome": "off"}  # modes observe and off, or the chart is gone
    began = time.monotonic()
    try:
        targets = targets_of(environment)
        if not able():
            raise RuntimeError("not even a connection to this container itself comes about")
        return watch(targets, timeout)
    except Exception as error:
        time.sleep(max(0.0, timeout - (time.monotonic() - began)))
        return {"outcome": "unable", "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Wait, and leave what was seen where Kubernetes looks for it."""
    began = time.monotonic()
    try:
        timeout = float(os.environ[TIMEOUT_VARIABLE])
    except (KeyError, ValueError):
        timeout = TIMEOUT
    text = json.dumps(guard(os.environ, timeout) | {"seconds": round(time.monotonic() - began, 3)})
    print(f"start guard: {text}", flush=True)
    with suppress(OSError), open(MESSAGE, "w") as message:
        message.write(text)


if __name__ == "__main__":
    main()
