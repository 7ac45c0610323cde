"""Remote captcha providers: one adapter for all that check a solution through a request called "siteverify".

A row in a table says how they differ (`providers.ROWS`): their addresses, their fields, and what their answers mean. An answer
counts as a yes only if it clearly is one. A provider's trouble, our own wrong settings and a wrong solution are told apart. Some
vendors advise accepting solutions while their service is down; we do so only if the operator chose that (`captcha.onOutage`).

Decisions: D-044, D-045, D-046, D-047, D-048, D-049.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from uuid import uuid4

import requests
import urllib3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..logs import LINES_WINDOW_SECONDS, MAX_LINES, Counts
from ..model.validation import sentences
from .base import Outcome, Verdict, Widget

CONNECT_SECONDS, READ_SECONDS = 2.0, 3.0
"""Time limits for connecting and for each part of the answer, in seconds."""

ASK_LIMIT_SECONDS = 10.0
"""Time limit for a whole call to a provider, including a second try and the wait for a free thread. It is less than a request to
the public port may take (`web.gunicorn.REQUEST_LIMIT_SECONDS`)."""

CALLS_AT_A_TIME = 16
"""The most calls to one provider at a time. Solutions beyond that wait, but not too many (`limits.MOST_WAITING`, D-386)."""

MAX_ANSWER_BYTES = 64 * 1024
"""The longest answer that is read. Real ones have some hundred bytes."""

NO_HOSTNAME = "not-provided"
"""What hCaptcha may send instead of a host while a site has unusually many challenges (https://docs.hcaptcha.com/)."""

DAY_SECONDS = 86400

ACCEPTS_ANYTHING = "it accepts a solution that is none"
"""The reason for distrusting an answer: something else is answering in the provider's place."""

log = logging.getLogger(__name__)

Read = Callable[[int, Mapping[str, object]], tuple[object, object]]


class State(StrEnum):
    """The state of a provider. Only one that is up is offered."""

    UP = "up"
    DOWN = "down"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True)
class Row:
    """How a provider is asked, what its answers mean, and what its widget needs.

    Attributes:
        title: its name, for texts.
        path: the address of the interface, below `api`; may contain `{site_key}`.
        script: the address of the widget's script, below `widget`.
        read: HTTP status and JSON object → whether the solution is right, and the error codes. If the first is not a boolean,
            the answer is not understood.
        codes: error code → its meaning. Any other code means trouble at the provider.
        life: the longest time for which a solution can be presented, in seconds.
        api: the address of the interface; empty: the operator sets it.
        widget: the address of the widget; empty: the same as `api`.
        kind: `interactive` if a person has something to click, else `automatic`.
        fields: our name of a field → the provider's.
        as_json: whether the fields are sent as JSON; else as a form.
        key_header: the header for the secret; empty: the secret is a field.
        retry_field: the field that makes a second try of the same solution safe; empty: there is no second try.
        solved_at: the path in an answer to the time of the solution: RFC 3339 text, or Unix time in seconds.
        hostname: the path in an answer to the host on whose page it was solved.
        hostname_may_lack: whether that host may be missing, empty or `NO_HOSTNAME`.
        action: whether an answer repeats the widget's action, which is our purpose.
        score: whether an answer has a score between 0 (a bot) and 1.
        endpoint: what the widget calls; `{api}` and `{widget}` are the addresses, `{site_key}` the key. Empty: it knows.
        csp: directive of a Content-Security-Policy → sources; `{api}` and `{widget}` are the addresses, `{api_origin}` and
            `{widget_origin}` only their origins.
        test_site_keys: public keys for which every solution is right.
        test_secrets: their secrets.
        wrong_solution: the solution that the self-check presents.
        shape: whether a text can be a solution for a site key at all.
        tells: whether the answer to a wrong solution proves that the secret is right.
    """

    title: str
    path: str
    script: str
    read: Read
    codes: Mapping[str, Outcome]
    life: int
    api: str = ""
    widget: str = ""
    kind: Literal["interactive", "automatic"] = "interactive"
    fields: Mapping[str, str] = field(default_factory=lambda: {"secret": "secret", "solution": "response", "address": "remoteip"})
    as_json: bool = False
    key_header: str = ""
    retry_field: str = ""
    solved_at: tuple[str, ...] = ()
    hostname: tuple[str, ...] = ()
    hostname_may_lack: bool = False
    action: bool = False
    score: bool = False
    endpoint: str = ""
    csp: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test_site_keys: frozenset[str] = frozenset()
    test_secrets: frozenset[str] = frozenset()
    wrong_solution: str = "binder-egress-self-check"
    shape: Callable[[str, str], bool] = lambda solution, site_key: True
    tells: bool = True


_ADDRESS = r"^(https?://[^\s?#;,'@/]+(/[^\s?#;,']*)?)?$"
"""No user and password are allowed: they would be visible in the ConfigMap and in the log."""


class Options(BaseModel):
    """`captcha.providers.<name>` in the chart, for a remote provider."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    tier: str = "verified"
    order: int = Field(50, ge=0, le=1000)
    siteKey: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$")
    apiUrl: str = Field("", pattern=_ADDRESS)
    widgetUrl: str = Field("", pattern=_ADDRESS)
    sendAddress: bool = False
    score: float | None = Field(None, ge=0, le=1)


@dataclass(frozen=True)
class ProviderAnswer:
    """What a provider answered.

    Attributes:
        outcome: its meaning.
        reason: a few words for the log: a known code, or what went wrong. Never text from the provider or a client.
        body: the JSON object; empty if there was none.
        again: whether a second try may help.
        busy: whether the provider was not asked, because too many calls were under way.
    """

    outcome: Outcome
    reason: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False
    busy: bool = False


class Remote:
    """A remote provider.

    Args:
        name: its key in `captcha.providers`.
        row: its row of the table.
        options: its chart values.
        secret: this site's secret key.
        hostnames: the hosts on whose pages solutions may be made; empty: every host that the provider allows.
    """

    def __init__(self, name: str, row: Row, options: Options, secret: str, hostnames: frozenset[str]):
        self.name = name
        self.kind: Literal["interactive", "automatic"] = row.kind
        self.tier = options.tier
        self.order = options.order
        self.state = State.UP
        self.check_due = threading.Event()
        """Set when a self-check is due before its time."""
        self.test_keys = False
        """Whether its keys are the provider's public test keys."""
        self._row = row
        self._options = options
        self._secret = secret
        self._hostnames = hostnames
        self._api = (options.apiUrl or row.api).rstrip("/")
        self._widget = (options.widgetUrl or row.widget or self._api).rstrip("/")
        self._accepts_anything = False
        self._lock = threading.Lock()
        self._warned = Counts(LINES_WINDOW_SECONDS)
        # The time limits of the library requests are for each read. Waiting for a pool's result limits the whole call, however slow
        # the provider.
        self.pool = ThreadPoolExecutor(CALLS_AT_A_TIME, thread_name_prefix=name)
        """The threads that ask the provider about clients' solutions."""
        # A separate pool, so that clients cannot prevent the self-check.
        self._check_pool = ThreadPoolExecutor(1, thread_name_prefix=f"{name} self-check")

    @classmethod
    def from_options(
        cls, name: str, row: Row, options: Mapping[str, object], secret: str, hostnames: frozenset[str], allow_test_keys: bool
    ) -> Self:
        """Make the provider from chart values.

        Args:
            name: its name in `captcha.providers`.
            row: its row in the table.
            options: the values below that name.
            secret: what proves to the provider that it is us who ask.
            hostnames: hosts on whose pages solutions may be made; empty: any.
            allow_test_keys: `captcha.allowTestKeys`.

        Raises:
            ValueError: with one sentence for each wrong option, which names the chart value, and never the secret.
        """
        value = f"captcha.providers.{name}"
        try:
            checked = Options.model_validate(options)
        except ValidationError as error:
            raise ValueError("\n".join(f"{line}." for line in sentences(error, value))) from None
        if checked.score is not None and not row.score:
            raise ValueError(f"{value}.score: {row.title} has no score.")
        if not (checked.apiUrl or row.api):
            raise ValueError(f"{value}.apiUrl: say where your {row.title} is.")
        if not secret:
            raise ValueError(f"{value}: there is no secret; set existingSecret, or secret.captcha.{name}.")
        if not (secret.isascii() and secret.isprintable()) or " " in secret:
            raise ValueError(f"{value}: the secret has a character that no key of {row.title} has, perhaps a line feed at its end.")
        if checked.siteKey in row.test_site_keys or secret in row.test_secrets:
            if not allow_test_keys:
                raise ValueError(
                    f"{value}: these are public test keys, with which everybody's solution is right; use your own, or set "
                    "captcha.allowTestKeys."
                )
            # Answers for test keys name one of the provider's own hosts.
            hostnames = frozenset()
            row = replace(row, action=False, tells=False)
        made = cls(name, row, checked, secret, hostnames)
        made.test_keys = secret in row.test_secrets or checked.siteKey in row.test_site_keys
        return made

    @property
    def usable(self) -> bool:
        """Whether it is offered."""
        return self.state is State.UP

    def challenge(self, purpose: str, network: str, price: float) -> Widget:
        """What the widget needs. A remote provider ignores network and price."""
        needed: Widget = {"site_key": self._options.siteKey, "script": self._widget + self._row.script, "action": purpose}
        return {**needed, "endpoint": self._fill(self._row.endpoint)} if self._row.endpoint else needed

    def csp(self) -> dict[str, list[str]]:
        """What a page with the widget needs in its Content-Security-Policy: directive → sources."""
        return {directive: [self._fill(source) for source in sources] for directive, sources in self._row.csp.items()}

    def verify(self, solution: str, purpose: str, network: str, address: str) -> Verdict:
        """Ask the provider about a solution, and check its answer."""
        now = time.time()
        verdict = Verdict(
            Outcome.OK,
            solution_id=hashlib.sha256(solution.encode("utf-8", "surrogatepass")).hexdigest(),
            expires_at=now + self._row.life,
            issued_at=now,
            tier=self.tier,
        )
        written = solution.isascii() and solution.isprintable() and solution and " " not in solution
        if not (written and self._row.shape(solution, self._options.siteKey)):
            return replace(verdict, outcome=Outcome.REJECTED, detail=f"This is no solution of {self._row.title}.")
        verdict = replace(verdict, asked=True)
        answer = self._ask(self.pool, solution, address)
        if answer.outcome is Outcome.OK and self._accepts_anything:
            answer = ProviderAnswer(Outcome.MISCONFIGURED, ACCEPTS_ANYTHING)
        self._note(answer)
        if answer.outcome is not Outcome.OK:
            return replace(verdict, outcome=answer.outcome, detail=_DETAILS[answer.outcome].format(self._row.title))
        if wrong := self._wrong(answer.body, purpose):
            return replace(verdict, outcome=Outcome.REJECTED, detail=f"The solution was made {wrong}. Solve again here.")
        # If the provider sends no time, only its own check for single use protects against replays after a wipe of Redis.
        return replace(verdict, issued_at=_seconds(_at(answer.body, self._row.solved_at)) or now)

    def check(self) -> None:
        """Present a wrong solution, to see whether the provider answers and whether our secret is right."""
        answer = self._ask(self._check_pool, self._fill(self._row.wrong_solution), "")
        # A real provider never accepts a wrong solution. Something else answering in its place might.
        if answer.outcome is not Outcome.UNAVAILABLE:
            self._accepts_anything = answer.outcome is Outcome.OK and not self.test_keys
        if answer.outcome is Outcome.OK and self._accepts_anything:
            self._move(State.MISCONFIGURED, ACCEPTS_ANYTHING)
        else:
            self._move(_STATES[answer.outcome] if self._row.tells or not answer.body else State.UP, answer.reason)

    def _note(self, answer: ProviderAnswer) -> None:
        """Learn from the answer to a client's solution. Only the self-check marks a provider as down or misconfigured: a client
        could cause any error with what it sends."""
        if answer.outcome is Outcome.OK or (answer.outcome is Outcome.REJECTED and self.state is State.DOWN):
            self._move(State.UP, answer.reason)
        elif answer.outcome is not Outcome.REJECTED and not answer.busy:
            # Anybody who has a solution for another site can cause some of these lines (D-392).
            if answer.outcome is Outcome.MISCONFIGURED and self._warned.note(answer.reason)[0] <= MAX_LINES:
                log.warning("captcha.providers.%s: a solution was answered with: %s", self.name, answer.reason)
            self.check_due.set()

    def _move(self, state: State, reason: str) -> None:
        with self._lock:
            if state is self.state:
                return
            self.state = state
        value = f"captcha.providers.{self.name}"
        if state is State.UP:
            log.info("%s answers, and is offered again", value)
        elif state is State.DOWN:
            log.error(
                "%s is down, and not offered: %s. See whether DNS, verifier.networkPolicy.captchaProviders and a firewall let the "
                "verifier reach %s, and what %s says of its service",
                value,
                reason,
                self._api,
                self._row.title,
            )
        else:
            log.error(
                "%s is set up wrong, and not offered: %s. Put the secret that belongs to siteKey into its existingSecret or "
                "secret.captcha.%s, and see that apiUrl is right",
                value,
                reason,
                self.name,
            )

    def _fill(self, text: str) -> str:
        api, widget = (f"{parts.scheme}://{parts.netloc}" for parts in (urlsplit(self._api), urlsplit(self._widget)))
        return text.format(api=self._api, widget=self._widget, api_origin=api, widget_origin=widget, site_key=self._options.siteKey)

    def _wrong(self, body: Mapping[str, Any], purpose: str) -> str:
        """What is wrong with a solution that the provider calls right; empty if nothing is wrong."""
        if self._row.hostname and self._hostnames:
            host = _at(body, self._row.hostname)
            # Some providers send an origin instead of a host.
            known = isinstance(host, str) and host.rpartition("://")[2].partition(":")[0] in self._hostnames
            if not known and not (self._row.hostname_may_lack and (not host or host == NO_HOSTNAME)):
                return "on another site's page"
        if self._row.action and body.get("action") != purpose:
            return "for another purpose"
        if self._row.score:
            score = body.get("score")
            threshold = 0.5 if self._options.score is None else self._options.score
            # Not `<`, which is false for NaN.
            if isinstance(score, bool) or not isinstance(score, int | float) or not score >= threshold:
                return "by what looks like a bot"
        return ""

    def _ask(self, pool: ThreadPoolExecutor, solution: str, address: str) -> ProviderAnswer:
        asked = pool.submit(self._try_twice, solution, address)
        try:
            return asked.result(ASK_LIMIT_SECONDS)
        except TimeoutError:
            busy = asked.cancel()
            return ProviderAnswer(Outcome.UNAVAILABLE, "too many calls are under way" if busy else "it takes too long", busy=busy)

    def _try_twice(self, solution: str, address: str) -> ProviderAnswer:
        row = self._row
        known = {"secret": self._secret, "solution": solution, "site_key": self._options.siteKey}
        if address and self._options.sendAddress:
            known["address"] = address
        sent = {theirs: known[ours] for ours, theirs in row.fields.items() if ours in known}
        if row.retry_field:
            sent[row.retry_field] = str(uuid4())
        answer = self._try(sent)
        return self._try(sent) if answer.again and row.retry_field else answer

    def _try(self, sent: dict[str, str]) -> ProviderAnswer:
        deadline = time.monotonic() + CONNECT_SECONDS + READ_SECONDS
        try:
            # A new connection for each call: an idle one may be dead, and most of these calls cannot be repeated.
            with (
                requests.Session() as session,
                session.post(
                    self._api + self._fill(self._row.path),
                    headers={"Accept": "application/json"} | ({self._row.key_header: self._secret} if self._row.key_header else {}),
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    allow_redirects=False,
                    stream=True,
                    json=sent if self._row.as_json else None,
                    data=None if self._row.as_json else sent,
                ) as response,
            ):
                text = bytearray()
                # Byte by byte: a larger read waits until it is full, past the deadline.
                for byte in response.iter_content(1):
                    text += byte
                    if len(text) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                        return ProviderAnswer(Outcome.UNAVAILABLE, "its answer is too long, or too slow", again=True)
                return self.judge(response.status_code, bytes(text))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # Only the type: an error's text may repeat what was sent.
            return ProviderAnswer(Outcome.UNAVAILABLE, type(error).__name__, again=True)

    def judge(self, status: int, text: bytes) -> ProviderAnswer:
        """What an answer of the interface means.

        Args:
            status: the HTTP status. A proxy may have answered instead of the provider.
            text: the body.
        """
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return ProviderAnswer(Outcome.UNAVAILABLE, f"HTTP {status}, and no JSON object", again=status != 429)
        if status == 429 or status >= 500 or 300 <= status < 400:
            return ProviderAnswer(Outcome.UNAVAILABLE, f"HTTP {status}", body, again=status != 429)
        right, codes = self._row.read(status, body)
        if not isinstance(right, bool) or not (isinstance(codes, list) and all(isinstance(code, str) for code in codes)):
            return ProviderAnswer(Outcome.UNAVAILABLE, f"HTTP {status}, and an answer that is not understood", body)
        if right:
            return (
                ProviderAnswer(Outcome.OK, "", body)
                if status == 200
                else ProviderAnswer(Outcome.UNAVAILABLE, f"HTTP {status}", body)
            )
        meant = {self._row.codes.get(code, Outcome.UNAVAILABLE) for code in codes} or {Outcome.REJECTED}
        outcome = next(worst for worst in (Outcome.MISCONFIGURED, Outcome.UNAVAILABLE, Outcome.REJECTED) if worst in meant)
        known = ", ".join(code for code in codes if code in self._row.codes) or f"HTTP {status}, and no code that is known"
        return ProviderAnswer(outcome, known, body, again=outcome is Outcome.UNAVAILABLE)


_STATES = {
    Outcome.OK: State.UP,
    Outcome.REJECTED: State.UP,
    Outcome.MISCONFIGURED: State.MISCONFIGURED,
    Outcome.UNAVAILABLE: State.DOWN,
}

_DETAILS = {
    Outcome.REJECTED: "{} did not accept the solution: it is wrong, too old, or was used before. Solve again.",
    Outcome.MISCONFIGURED: "{} does not accept this site's keys. Its operators must act; choose another way if there is one.",
    Outcome.UNAVAILABLE: "{} does not answer. Try again in a minute, or choose another way if there is one.",
}


def _at(body: Any, path: tuple[str, ...]) -> Any:
    """The value at a path in a JSON object; None if there is none."""
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body if path else None


def _seconds(moment: Any) -> float | None:
    """Unix time in seconds, from RFC 3339 text; None if it is none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
