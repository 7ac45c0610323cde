"""One launch: BinderHub's event stream as it comes, and whether the server got egress."""

import json
import re
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import requests

from .check import Check, PersonNeeded
from .solving import Unsolvable
from .unlocking import APPEARS, UNVERIFIED, WATCHED, Outcome, only_watches, unlock
from .verifier import UNREACHABLE, NoAnswer, NoGate, Refused, Server, Verifier, new_session, reason

SILENCE = 120.0
"""Seconds of silence after which the stream of a build counts as broken. BinderHub sends a comment every 25 s."""

CONNECT = 30.0
"""Seconds to connect to BinderHub."""

LABELLED = 10.0
"""Seconds after a server is ready within which its pass takes effect."""

FINAL = ("budget-spent", "blocked")
"""Refusals of a solution that an unlock would get again. All refusals of a key are like that."""

MAX_LINE = 1024 * 1024
"""The most bytes in one line of the stream, which carries one line of a build's log."""


class LaunchFailed(Exception):
    """The launch gave no server. The text is BinderHub's, or says what went wrong with the stream."""


class Event(NamedTuple):
    """An event from BinderHub: its JSON text in printable ASCII, and the parsed object."""

    text: str
    data: dict[str, Any]


class Launch:
    """A launch. Iterate over it for BinderHub's events, then call `outcome`.

    Args:
        spec: the repository to launch, `gh/owner/repo/ref`.
        hub: BinderHub's address.
        verifier: the verifier's address; by default "egress/" below BinderHub's.
        key: an API key, used instead of a calculation.
        egress: whether to ask for egress.
        calculate: whether proof of work may be done.

    Attributes:
        ready: BinderHub's event that the server is ready; None until it comes.
        passed: whether a pass went with the launch.
    """

    def __init__(
        self,
        spec: str,
        hub: str,
        *,
        verifier: str | None = None,
        key: str | None = None,
        egress: bool = True,
        calculate: bool = True,
    ):
        self._hub = hub.rstrip("/") + "/"
        # Percent-encoded parts stay encoded: refs with a slash, addresses of repositories.
        self._build = f"{self._hub}build/" + quote(spec.strip("/"), safe="/:@%~!$&'()*+,;=")
        self._verifier = (verifier or f"{self._hub}egress/").rstrip("/") + "/"
        self._key = key
        self._wanted = egress
        self._calculate = calculate
        self._session = new_session()
        self._check = Check(Verifier(self._verifier), key) if egress and (calculate or key) else None
        self.ready: dict[str, Any] | None = None
        self.passed = False
        self._token: str | None = None
        self._answered_by = self._build

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream, and stop the calculation."""
        if self._check:
            self._check.stop()
        self._session.close()

    def __iter__(self) -> Iterator[Event]:
        """BinderHub's events. The first `next` waits a moment for a pass, then sends the request.

        Raises:
            LaunchFailed: BinderHub reports a failure, or its stream ends too early.
        """
        if self._check:
            self._check.wait()
        token = self._token = self._check.token if self._check else None
        self.passed = token is not None
        address = f"{self._build}?egress_token={quote(token, safe='')}" if token else self._build
        try:
            with self._session.get(
                address,
                headers={"Accept": "text/event-stream", "Accept-Encoding": "identity"},
                stream=True,
                timeout=(CONNECT, SILENCE),
            ) as answer:
                self._answered_by = answer.url
                if not answer.ok:
                    raise LaunchFailed(f"{self._hub} answers {answer.status_code} {answer.reason}")
                if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                    raise LaunchFailed(f"{self._hub} does not answer as a BinderHub does")
                yield from self._events(answer)
        except UNREACHABLE as error:
            # It is not tried again (D-163).
            raise LaunchFailed(f"the connection to {self._hub} failed: {reason(error)}") from None

    def _events(self, answer: requests.Response) -> Iterator[Event]:
        for line in _lines(answer):
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip().decode("utf-8", "replace")
            try:
                data = json.loads(text)
                phase = str(data.get("phase", "")).lower()
            except (ValueError, AttributeError, RecursionError):
                raise LaunchFailed(f"{self._hub} sends events that no BinderHub sends") from None
            yield Event(_printable(text), data)
            if phase in ("failed", "failure"):
                raise LaunchFailed(str(data.get("message") or "the build failed").strip())
            if phase == "ready":
                # With `build_only` there is no address.
                if not isinstance(data.get("url") or "", str):
                    raise LaunchFailed(f"{self._hub} gives an address that is not a text")
                self.ready = data
                return
        raise LaunchFailed("the stream ended before the server was ready")

    @property
    def address(self) -> str | None:
        """The address of the server with its token, once it is ready."""
        if not self.ready or not self.ready.get("url"):
            return None
        token = self.ready.get("token")
        # Terminals show the address, and scripts split it at white space.
        url = "".join(one if one.isprintable() and not one.isspace() else quote(one, errors="replace") for one in self.ready["url"])
        return url + (f"?token={quote(str(token), safe='', errors='replace')}" if token else "")

    def outcome(self, *, wait: float = 0, on_link: Callable[[str, float], object] = lambda link, seconds: None) -> Outcome:
        """Whether the server got egress. If it did not, it is unlocked now. Faults become outcomes.

        Args:
            wait: seconds to wait for a person if one is needed.
            on_link: called with the link for that person and these seconds.
        """
        if not self._wanted:
            return Outcome(None, kind="not-wanted")
        if not self.ready or not self.ready.get("url"):
            return Outcome(False, why="there is no server", kind="no-such-server")
        try:
            server = Server.of_server_address(self._verifier_that_answered(), self.ready["url"])
        except ValueError as error:
            return Outcome(False, why=str(error), kind="no-such-server")
        try:
            if found := self._already(server):
                return found
            late = None
            if self._check and not self.passed:
                self._check.finish()
                late = self._check.token
                refused = self._check.error
                if not late and isinstance(refused, Refused) and (self._key or refused.kind in FINAL):
                    raise refused
                if isinstance(refused, NoAnswer) and self._key and server.verifier != self._verifier:
                    # The verifier was asked at an address that redirects, for example, and the key must not go to another one.
                    raise refused
            return unlock(
                server,
                # Each pass costs one of the key's servers. A key never goes to a host that a redirect names.
                key=self._key if not (self.passed or late) and server.verifier == self._verifier else None,
                # BinderHub may not have reported the launch. A pass that its server has used already uses up nothing more (D-221).
                token=late or self._token,
                calculate=self._calculate and not self._key,
                wait=wait,
                on_link=on_link,
            )
        except NoGate as error:
            return Outcome(None, why=str(error), kind="no-gate")
        except NoAnswer as error:
            return Outcome(None, why=str(error), kind="no-answer", link=server.link)
        except Refused as refusal:
            return Outcome(False, None, str(refusal), refusal.kind, server.link, refusal.retry_after)
        except (Unsolvable, PersonNeeded) as error:
            return Outcome(False, why=str(error), kind="unsolvable", link=server.link)

    def _already(self, server: Server) -> Outcome | None:
        """The outcome if the server already has egress, through its pass or one of the operators' rules.

        The verifier knows a new server within moments.
        """
        began = time.monotonic()
        verifier = Verifier(server.verifier)
        while True:
            waited = time.monotonic() - began
            try:
                shown = verifier.show(server)
                if shown["tier"] != UNVERIFIED:
                    return Outcome.of(shown)
                if not self.passed or not shown.get("unlockable", True) or waited > LABELLED:
                    return WATCHED if only_watches(shown) else None
            except Refused as refusal:
                if refusal.kind != "no-such-server" or waited > APPEARS:
                    raise
            time.sleep(0.3)

    def _verifier_that_answered(self) -> str:
        """The address of the verifier at the hub that built: federations redirect build requests to a member."""
        asked, answered = (address.partition("/build/")[0] + "/" for address in (self._build, self._answered_by))
        # One that is not below the hub was named (`--egress`), and no redirect says anything about it.
        return answered + self._verifier.removeprefix(asked) if self._verifier.startswith(asked) else self._verifier


def _printable(text: str) -> str:
    """The same JSON in printable ASCII, with everything escaped that could control a terminal.

    Outside strings, white space is the only such character in JSON; inside strings there are no bare tabs or line ends.
    """
    return re.sub(r"[^ -~]", lambda one: " " if one[0].isspace() and one[0].isascii() else json.dumps(one[0])[1:-1], text)


def _lines(answer: requests.Response) -> Iterator[bytes]:
    """The lines of a response, as soon as they arrive. `iter_lines` waits for a full buffer if a proxy has removed the chunks."""
    rest = bytearray()
    while chunk := answer.raw.read1(65536, decode_content=True):
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            yield from (bytes(line.rstrip(b"\r")) for line in lines)
        if len(rest) > MAX_LINE:
            raise LaunchFailed("the response is not a stream of events")
