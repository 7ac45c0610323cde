"""The start guard: an init container of user pods that waits until the pod is isolated.

First of all, it puts the JupyterLab extension and the address of the server's page into a folder that the user's container mounts.

Then it waits. Some network plugins let a new pod send packets until its policies are in force, and a connection from that time
stays open. The user's containers start only after this one has ended, so it tries an address that no policy of ours opens until it
is blocked. A launch must never fail because of the guard: whatever goes wrong, it ends within its timeout and without an error. Its
outcome is in the termination message, and the reconciler counts it.

If the egress proxy is on, the guard then asks the proxy which pod this is, again and again until the proxy knows: the pod's address
may have been another pod's before.

It runs in every user pod, after other init containers and before the user's containers. It imports almost nothing, so that it
starts fast.

Decisions: D-008, D-009, D-010, D-012, D-256, D-301, D-382, D-383, D-525, D-527.
"""

from __future__ import annotations

# D-525
import _socket
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ISOLATED_VARIABLE = "BINDER_EGRESS_ISOLATED"
"""Whether there are policies to wait for: `true`; `false` in mode `observe`; empty in mode `off`, or if the chart is gone."""

TIMEOUT_VARIABLE = "BINDER_EGRESS_START_GUARD_TIMEOUT"
TARGETS_VARIABLE = "BINDER_EGRESS_START_GUARD_TARGETS"
UID_VARIABLE = "BINDER_EGRESS_POD_UID"

PROXY_VARIABLE = "BINDER_EGRESS_START_GUARD_PROXY"
"""The egress proxy, `http://address:port`; empty: there is none."""

LAB_VARIABLE = "BINDER_EGRESS_LAB"
"""The folder into which the JupyterLab extension is put; empty: it is off."""

ADDRESS_VARIABLE = "BINDER_EGRESS_URL"
"""The address of the server's page."""

LAB = os.path.join(os.path.dirname(__file__), "lab")
"""The JupyterLab extension, as built by `frontend/lab/build.js`."""

TIMEOUT_SECONDS = 10.0
"""Seconds after which the pod starts in any case."""

PAUSE_SECONDS = 0.05
"""Seconds between tries. kube-router needed 0.2 to 1.3 s for a new pod's policies (docs/start-guard.md)."""

CONNECT_TIMEOUT_SECONDS = 0.15
"""Time limit for a connection inside the cluster, in seconds. The target's kernel answers, so the target's load does not matter. If
a plugin drops packets, every try takes this long, and is *silent*."""

BLOCKED_AFTER_OPEN = 3
"""Blocked tries in a row that end the wait after a try got through: the target works, so blocked means blocked."""

BLOCKED_FROM_THE_START = 6
"""Blocked tries in a row that end the wait if no try got through: a dead target looks the same. A silent one counts twice, so they
take 0.25 s if packets are refused, and 0.55 s if they are dropped (D-526)."""

ANSWERS = 5
"""Answers in a row that must name this pod. Each comes from one pod of the egress proxy, chosen by its Service; if there are two
pods, five answers in a row miss one of them in 6 of 100 starts."""

ASK_PAUSE_SECONDS = 0.2
"""Seconds between two questions while the egress proxy does not know this pod. The proxy answers immediately for a pod that it
knows, and after 2 s for an unknown one (`binder_egress.proxy.identities`)."""

ASK_CONNECT_SECONDS, ASK_ANSWER_SECONDS = 0.5, 3.0
"""Seconds for connecting to the egress proxy, and for its answer. If the proxy's own policy admits a new pod late, the first
packets are lost, and a new connection is faster than the kernel's retransmission."""

MAX_ANSWER_BYTES = 16 * 1024
"""The longest answer of the egress proxy that is read. It has some hundred bytes, and a few thousand if names are long."""

MESSAGE_FILE = "/dev/termination-log"
"""The file of a container's termination message, Kubernetes' default."""

Target = tuple[str, int]


def connected(target: Target, timeout: float) -> _socket.socket:
    """A TCP connection to a target.

    Args:
        target: its address and port.
        timeout: seconds.

    Raises:
        OSError: there is none within the timeout.
    """
    one = _socket.socket(_socket.AF_INET6 if ":" in target[0] else _socket.AF_INET, _socket.SOCK_STREAM)
    try:
        one.settimeout(timeout)
        host, _, interface = target[0].partition("%")  # fe80::1%eth0: `connect` takes the interface as a number
        one.connect((host, target[1], 0, _socket.if_nametoindex(interface)) if interface else target)
    except OSError:
        one.close()
        raise
    return one


def connects(target: Target, timeout: float = CONNECT_TIMEOUT_SECONDS) -> bool | None:
    """Whether a target accepts a TCP connection within a timeout, in seconds. None: nothing answered."""
    try:
        connected(target, timeout).close()
    except TimeoutError:
        return None
    except OSError:
        return False
    return True


def able(connects: Callable[[Target], bool | None] = connects) -> bool:
    """Whether this container can connect to itself. If it cannot, every target looks blocked."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return bool(connects(listener.getsockname()))
    finally:
        listener.close()


def watch(
    targets: list[Target],
    timeout: float,
    connects: Callable[[Target], bool | None] = connects,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, object]:
    """Wait until all targets are blocked, or until the timeout.

    Args:
        targets: addresses and ports that a pod must not reach, with or without a tier.
        timeout: seconds.
        connects: tries one target; None: nothing answered.
        clock: the time in seconds.
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
        answers = [connects(target) for target in targets]
        if any(answers):
            through, row = through + 1, 0
        else:
            # D-526
            row += 1 if through or False in answers else 2
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
    """The targets in the environment. The default is the Kubernetes API: every container knows its address, none of our policies
    opens it to user pods, and no pod starts while it is down.

    Raises:
        ValueError: the setting cannot be read.
        KeyError: the environment has neither a setting nor the address of the Kubernetes API.
    """
    return parse(environment.get(TARGETS_VARIABLE, "")) or [
        (environment["KUBERNETES_SERVICE_HOST"], int(environment["KUBERNETES_SERVICE_PORT"]))
    ]


def ask_proxy(proxy: Target, timeout: float) -> dict[str, object]:
    """What the egress proxy says about this container: the `address` that it sees and, if it knows the pod, its `uid`.

    Args:
        proxy: its address and port.
        timeout: seconds.

    Raises:
        OSError: it does not answer.
        ValueError: its answer has another form.
    """
    end, answer = time.monotonic() + min(timeout, ASK_ANSWER_SECONDS), b""
    import json

    asking = connected(proxy, min(timeout, ASK_CONNECT_SECONDS))
    try:
        asking.sendall(b"GET / HTTP/1.0\r\n\r\n")
        # The launch waits: neither an answer that trickles nor one without an end may take longer, or fill the memory.
        while (left := end - time.monotonic()) > 0 and len(answer) < MAX_ANSWER_BYTES:
            asking.settimeout(left)
            if not (part := asking.recv(MAX_ANSWER_BYTES)):
                break
            answer += part
    finally:
        asking.close()
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    if not isinstance(said, dict) or "address" not in said:
        raise ValueError("no answer of the egress proxy")
    return said


def introduce(
    proxy: Target,
    uid: str,
    timeout: float,
    ask: Callable[[Target, float], dict[str, object]] = ask_proxy,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Ask the egress proxy which pod this is until it knows, or until the timeout.

    Args:
        proxy: its address and port.
        uid: the uid of this pod.
        timeout: seconds.
        ask: asks once, within a number of seconds.
        clock: the time in seconds.
        sleep: waits for a number of seconds.

    Returns:
        An empty text if it knows this pod; `mistaken_by_proxy` if its last answer took it for another pod; else `unknown_to_proxy`.
    """
    end, row, outcome = clock() + timeout, 0, "unknown_to_proxy"
    while row < ANSWERS and (left := end - clock()) > 0:
        try:
            said = ask(proxy, left).get("uid")
        except (OSError, ValueError):
            pass  # A missing answer, or one from a limit, does not say which pod the proxy takes this one for.
        else:
            if said == uid:
                row += 1
                continue
            row, outcome = 0, "mistaken_by_proxy" if said else "unknown_to_proxy"
        sleep(min(ASK_PAUSE_SECONDS, max(0.0, end - clock())))
    return "" if row == ANSWERS else outcome


def guard(environment: Mapping[str, str], timeout: float) -> dict[str, object]:
    """Wait, and return the outcome of `watch` or `introduce`; `off` if there are no policies to wait for; or `unable`.

    A guard that cannot try its targets is `unable`. It waits for the whole timeout, which is longer than any observed window. The
    egress proxy is asked in the time that is left of the timeout after isolation.

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
        seen = watch(targets, timeout)
        if seen["outcome"] in ("closed", "blocked") and (
            proxy := parse(environment.get(PROXY_VARIABLE, "").removeprefix("http://"))
        ):
            left = timeout - (time.monotonic() - began)
            seen["outcome"] = introduce(proxy[0], environment[UID_VARIABLE], left) or seen["outcome"]
        return seen
    except Exception as error:
        time.sleep(max(0.0, timeout - (time.monotonic() - began)))
        return {"outcome": "unable", "error": f"{type(error).__name__}: {error}"}


def lay_lab(environment: Mapping[str, str], source: str = LAB) -> str:
    """Copy the JupyterLab extension, with the address of the server's page, to the folder that the user's container mounts.

    JupyterLab recognises an extension's folder by its `package.json`, so that file is copied last: half a copy is nothing. A guard
    that runs again in the same pod completes the copy.

    Args:
        environment: the container's environment variables.
        source: the folder of the extension.

    Returns:
        `laid`; `off` if it is off, or in mode `off`, in which there is nothing to show; else what went wrong. In mode `observe` it
        is laid too: it says nothing until the mode changes.
    """
    target = environment.get(LAB_VARIABLE, "")
    if not target or not environment.get(ISOLATED_VARIABLE):
        return "off"
    try:
        address = environment.get(ADDRESS_VARIABLE, "")
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"{ADDRESS_VARIABLE} is {address!r}, which is no address")
        _write(target, "address.json", as_json({"url": address}).encode())
        static = os.path.join("static", "")
        os.makedirs(os.path.join(target, static), exist_ok=True)
        for name in [static + file for file in os.listdir(os.path.join(source, static))] + ["package.json"]:
            with open(os.path.join(source, name), "rb") as file:
                _write(target, name, file.read())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "laid"


def _write(folder: str, name: str, content: bytes) -> None:
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)


def as_json(values: Mapping[str, object]) -> str:
    """Values as JSON, without its library unless a text needs more than quotes around it (D-525)."""
    texts = [value for value in values.values() if isinstance(value, str)]
    if not all(text.isascii() and text.isprintable() and not {'"', "\\"} & {*text} for text in texts):
        import json

        return json.dumps(values)
    pairs = (f'"{name}": "{value}"' if isinstance(value, str) else f'"{name}": {value}' for name, value in values.items())
    return "{" + ", ".join(pairs) + "}"


def main() -> None:
    """Copy the extension, wait, and write the outcome into the termination message."""
    began = time.monotonic()
    lab = lay_lab(os.environ)
    try:
        timeout = float(os.environ[TIMEOUT_VARIABLE])
    except (KeyError, ValueError):
        timeout = TIMEOUT_SECONDS
    text = as_json(guard(os.environ, timeout) | {"seconds": round(time.monotonic() - began, 3), "lab": lab})
    print(f"start guard: {text}", flush=True)
    try:
        with open(MESSAGE_FILE, "w") as message:
            message.write(text)
    except OSError:
        pass
