"""The start guard: an init container of user pods that waits until the pod is isolated.

Some network plugins let a new pod talk until its policies are in force, and a connection from that time stays open. The user's
containers start only after this one has ended, so it tries an address that no policy of ours opens, until that is blocked. A launch
must never fail because of the guard: whatever goes wrong, it ends after its timeout and without an error. Its outcome is in the
termination message, and the reconciler counts it.

It runs in every user pod, after other init containers and before the user's containers. It imports only the standard library, so
that it starts fast.

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

TIMEOUT_SECONDS = 10.0
"""Seconds after which the pod starts in any case."""

PAUSE_SECONDS = 0.05
"""Seconds between tries. kube-router needed 0.2 to 1.3 s for a new pod's policies (docs/start-guard.md)."""

CONNECT_TIMEOUT_SECONDS = 0.15
"""Seconds for a connection inside the cluster. The kernel answers for the target, so its load does not matter. Where a plugin drops
packets, every try lasts this long."""

BLOCKED_AFTER_OPEN = 3
"""Blocked tries in a row that end the wait after a try got through. The target works, so blocked means blocked."""

BLOCKED_FROM_THE_START = 6
"""Blocked tries in a row that end the wait if no try got through. A dead target looks the same. The tries take 0.3 to 1.2 s, in
which most of the windows that were seen have closed."""

MESSAGE_FILE = "/dev/termination-log"
"""The file of a container's termination message, Kubernetes' default."""

Target = tuple[str, int]


def connects(target: Target, timeout: float = CONNECT_TIMEOUT_SECONDS) -> bool:
    """Whether a target accepts a TCP connection within a timeout in seconds."""
    try:
        socket.create_connection(target, timeout).close()
    except OSError:
        return False
    return True


def able(connects: Callable[[Target], bool] = connects) -> bool:
    """Whether this container can connect to itself. If not, every target would look blocked."""
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
    """Wait until all targets are blocked, or the timeout is over.

    Args:
        targets: addresses and ports that a pod must not reach, with or without a tier.
        timeout: seconds.
        connects: tries one target.
        clock: seconds.
        sleep: waits for a number of seconds.

    Returns:
        `outcome`: `closed` (a target was open, then all were blocked), `blocked` (none was ever open), `open` (one still is) or
        `unclear` (the timeout came before enough blocked tries in a row); `seconds` of the wait; the number of `tries`, and of
        those that got `through`.
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
        done = row >= (BLOCKED_AFTER_OPEN if through else BLOCKED_FROM_THE_START)
        if done or seconds + PAUSE_SECONDS > timeout:
            outcome = ("closed" if through else "blocked") if done else ("unclear" if row else "open")
            return {"outcome": outcome, "seconds": seconds, "tries": tries, "through": through}
        sleep(PAUSE_SECONDS)


def parse(text: str) -> list[Target]:
    """The targets in a text such as `10.43.0.1:443,[fd00::1]:443`.

    Raises:
        ValueError: the text cannot be read.
    """
    targets = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = part.rpartition(":")
        if not colon or not host:
            raise ValueError(f"{part!r} is not an address with a port")
        targets.append((host.strip("[]"), int(port)))
    return targets


def targets_of(environment: Mapping[str, str]) -> list[Target]:
    """The targets in the environment. The default is the Kubernetes API: every container knows its address, no policy of ours opens
    it to user pods, and where it is dead no pod starts.

    Raises:
        ValueError: the setting cannot be read.
        KeyError: the environment has neither a setting nor the address of the Kubernetes API.
    """
    return parse(environment.get(TARGETS_VARIABLE, "")) or [
        (environment["KUBERNETES_SERVICE_HOST"], int(environment["KUBERNETES_SERVICE_PORT"]))
    ]


def guard(environment: Mapping[str, str], timeout: float) -> dict[str, object]:
    """Wait, and return the outcome: that of `watch`; `off` without policies to wait for; or `unable`.

    A guard that cannot try its targets is `unable`. It waits for the whole timeout, which is longer than any window that was seen.

    Args:
        environment: the container's environment variables.
        timeout: seconds.
    """
    if environment.get(ISOLATED_VARIABLE) != "true":
        return {"outcome": "off"}  # modes observe and off, or the chart is gone
    began = time.monotonic()
    try:
        targets = targets_of(environment)
        if not able():
            raise RuntimeError("this container cannot even connect to itself")
        return watch(targets, timeout)
    except Exception as error:
        time.sleep(max(0.0, timeout - (time.monotonic() - began)))
        return {"outcome": "unable", "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Wait, and write the outcome into the termination message."""
    began = time.monotonic()
    try:
        timeout = float(os.environ[TIMEOUT_VARIABLE])
    except (KeyError, ValueError):
        timeout = TIMEOUT_SECONDS
    text = json.dumps(guard(os.environ, timeout) | {"seconds": round(time.monotonic() - began, 3)})
    print(f"start guard: {text}", flush=True)
    with suppress(OSError), open(MESSAGE_FILE, "w") as message:
        message.write(text)


if __name__ == "__main__":
    main()
