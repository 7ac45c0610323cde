"""Bodies of requests, which pydantic checks, and of answers. The OpenAPI documents are made from the same models."""

from typing import Annotated, Literal, TypeVar

from flask import Response, request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..captcha.base import ProofOfWork, Widget
from ..decisions.kept_promises import PromiseState
from ..gate.api_keys import MAX_SERVERS_PER_DAY
from ..model.grants import BlockKind
from ..model.promise_token import PATTERN
from ..model.records import MAX_TIME
from ..model.repositories import cut
from ..model.validation import sentences
from ..operators.actions.answers import BlockRow, GrantRow, KeyRow
from ..settings import Access
from .problems import Problem

MAX_BODY_BYTES = 16 * 1024
"""The longest body that is read, in bytes: a solution or a pass of 8,192 characters (`_Token`), and its JSON. Most solutions have
one or two kilobytes."""

Sent = TypeVar("Sent", bound=BaseModel)

_Name = Annotated[str, Field(min_length=1, max_length=255)]
_Text = Annotated[str, Field(max_length=2048)]
_Token = Annotated[str, Field(max_length=8192)]
_Moment = Annotated[float, Field(ge=0, le=MAX_TIME, allow_inf_nan=False)]
"""Unix time in seconds."""


# -- requests


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PassBody(_Body):
    """`POST passes`: a provider's name, the solution of one of its challenges, and perhaps the promise that the pass shall keep;
    nothing if an API key is in the header."""

    provider: _Name = ""
    solution: _Token = ""
    promise: Annotated[str, Field(pattern=PATTERN, description="the promise of a launch; the pass keeps it")] = ""

    @model_validator(mode="after")
    def _both_or_none(self) -> "PassBody":
        if self.model_fields_set and not {"provider", "solution"} <= self.model_fields_set:
            raise ValueError("send provider and solution, or neither and an API key")
        return self


class PromiseBody(_Body):
    """`POST promises/…`: a pass that this verifier, or another member of the federation, issued."""

    token: Annotated[_Token, Field(min_length=1)]


class UnlockBody(_Body):
    """`POST servers/…`: a pass, or a solution."""

    token: Annotated[_Token, Field(min_length=1)] | None = None
    provider: _Name | None = None
    solution: _Token | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "UnlockBody":
        if (self.token is None) == (self.solution is None) or (self.solution is None) != (self.provider is None):
            raise ValueError("send either token, or provider and solution")
        return self


class LaunchBody(_Body):
    """`POST /api/launches`: a launch that BinderHub is about to make.

    Unknown fields are ignored: BinderHub is upgraded and rolled back on its own schedule, and the hook of a newer version
    would otherwise get no decision. Texts that a visitor chooses have no limit here, or the hook cuts them: a launch whose body
    is refused leaves its pod without a record, as lost wiring does.
    """

    model_config = ConfigDict(extra="ignore")

    user: _Name
    server: Annotated[str, Field(max_length=255)] = ""
    image: _Text
    repository: Annotated[str, AfterValidator(cut), Field(description="its URL; a longer one is cut, as that of its pod is")] = ""
    token: Annotated[str, Field(description="a pass or a promise; of any length: a launch always gets an answer")] | None = None
    client_address: Annotated[str, Field(max_length=255, description="the address that connected to BinderHub")] | None = None
    forwarded_for: Annotated[str, Field(max_length=2048, description="the request's X-Forwarded-For")] | None = None
    requested_at: _Moment | None = None
    context: Annotated[bool, Field(description="whether the hook saw the launch request")] = True
    authenticated: bool = False
    groups: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=1000)] = []
    user_agent: Annotated[str, Field(max_length=512, description="the request's User-Agent, which is not kept")] | None = None
    elsewhere: Annotated[bool, Field(description="whether a page of another site sent the request")] = False
    hub_url: Annotated[str, Field(max_length=1024, description="JupyterHub's address, as browsers see it")] | None = None
    launched_at: (
        Annotated[_Moment, Field(description="for a launch that could not be announced in time: when it should have been")] | None
    ) = None


class ReportBody(BaseModel):
    """`POST /api/detections`: a report in our own format. Lines from cryptnono, minesweeper and Falco are accepted as they are."""

    pod: str = ""
    server: Annotated[str, Field(description="instead of a pod: `user` or `user/server`")] = ""
    uid: Annotated[str, Field(description="the pod's uid; the report then applies only to that pod")] = ""
    namespace: str = ""
    list: Annotated[str, Field(description="the list or rule that matched")] = ""
    label: Annotated[str, Field(description="what matched")] = ""
    time: Annotated[str, Field(description="when it was seen, in RFC 3339; without it, now")] = ""


class _Action(_Body):
    by: _Name
    why: Annotated[str, Field(min_length=1, max_length=1000)]


class GrantBody(_Action):
    """`POST /api/grants`: a tier for a running server."""

    user: _Name
    server: Annotated[str, Field(max_length=255)] = ""
    tier: _Name


class RevocationBody(_Action):
    """`POST /api/revocations`: take a running server's tier away, and block it."""

    user: _Name
    server: Annotated[str, Field(max_length=255)] = ""


class BlockBody(_Action):
    """`POST /api/blocks`: block a server (`user`, `user/server`, a pod, or the address of its page), a repository (or `…/*`), or a
    client network (CIDR)."""

    kind: BlockKind
    what: Annotated[str, Field(min_length=1, max_length=2048)]
    until: _Moment | None = None


class KeyBody(_Body):
    """`POST /api/keys`: make an API key."""

    by: _Name
    why: Annotated[str, Field(max_length=1000)] = ""
    name: Annotated[str, Field(min_length=1, max_length=40)]
    tier: _Name
    servers_per_day: Annotated[int, Field(ge=1, le=MAX_SERVERS_PER_DAY)]
    expires: Annotated[str, Field(min_length=1, max_length=10, description="the last day (2027-01-31), or days from now (90d)")]
    origins: Annotated[list[_Name], Field(max_length=100)] = []
    repositories: Annotated[list[_Name], Field(max_length=100)] = []


class KeyRevocationBody(_Action):
    """`POST /api/keys/revocations`: revoke an API key."""

    key: Annotated[str, Field(min_length=1, max_length=255, description="its name or its id")]
    servers: Annotated[bool, Field(description="whether running servers also lose the tier that this key gave")] = False


def read(model: type[Sent], optional: bool = False) -> Sent:
    """The body of the current request.

    Args:
        model: the model that it must fit.
        optional: whether the body may be missing. It is then read as an empty object.

    Raises:
        Problem: the body is not JSON, or does not fit the model; the detail names the field.
    """
    if optional and not request.get_data():
        return model()
    if not request.is_json:
        raise Problem("not-json", "Send a JSON object with Content-Type: application/json.")
    try:
        return model.model_validate_json(request.get_data())
    except ValidationError as error:
        raise Problem("bad-request", sentences(error)[0]) from None


# -- answers of the public interface


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    title: str
    status: int
    detail: str


class WorkOffer(BaseModel):
    """A challenge that the browser solves by work."""

    name: str
    tier: str
    kind: Literal["proof-of-work"]
    challenge: ProofOfWork


class WidgetOffer(BaseModel):
    """A challenge from a remote captcha provider."""

    name: str
    tier: str
    kind: Annotated[
        Literal["interactive", "automatic"],
        Field(description="interactive: a person must click something; automatic: nobody needs to"),
    ]
    challenge: Widget


class ChallengeAnswer(BaseModel):
    """`GET challenge`."""

    purpose: str
    access: Annotated[
        Access | None,
        Field(description="what a server without a pass reaches, in the words of `GET servers/…`; null: this site closes nothing"),
    ]
    reach: Annotated[str, Field(description="the same as a sentence, in the language of Accept-Language; empty: see access")]
    hold: Annotated[
        int,
        Field(
            ge=0,
            le=60,
            description="seconds for which a launch, or a server that is ready, may wait for a solution without a click",
        ),
    ]
    interactive_hold: Annotated[int, Field(ge=0, le=60, description="seconds for which it may wait for a click")]
    providers: Annotated[
        list[Annotated[WorkOffer | WidgetOffer, Field(discriminator="kind")]],
        Field(description="in the operator's order; empty: there is nothing to solve at present"),
    ]


class PromiseAnswer(BaseModel):
    """`GET promises/…`, `POST promises/…`."""

    state: Annotated[
        PromiseState,
        Field(
            description="open: no pass keeps it, and no launch was announced with it; kept: a pass keeps it; announced: a launch "
            "was announced with it, and has no open tier; granted: that launch has a tier; refused: a rule refuses that launch"
        ),
    ]
    tier: Annotated[str | None, Field(description="the tier of the launch; null: no launch was announced with it")]
    access: Annotated[
        Access | None,
        Field(description="what its server reaches, in the words of `GET servers/…`; null: as there, or no launch was announced"),
    ]


class PassAnswer(BaseModel):
    """`POST passes`."""

    token: str
    expires_in: Annotated[int, Field(description="seconds")]
    servers: Annotated[int, Field(description="the number of servers that it is good for")]
    tier: str
    promise: Annotated[
        PromiseAnswer | None, Field(description="the promise; null: none was named, or it is not known whether it is kept")
    ] = None


class Script(BaseModel):
    """A script, and the checksum for the attribute `integrity`."""

    address: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    integrity: str


class ThirdPartyAnswer(BaseModel):
    """`GET v1/third-party.json`."""

    tag: Annotated[str, Field(description="HTML")]
    scripts: Annotated[dict[str, Script], Field(description="third-party.js is the plain script, third-party.mjs the module")]


class ServerAnswer(BaseModel):
    """`GET servers/…`."""

    user: str
    server: Annotated[str, Field(description="empty: the user's default server")]
    tier: Annotated[str, Field(description="unverified: no egress beyond what access says")]
    access: Annotated[
        Access | None,
        Field(
            description="none: nothing; packages: only package servers, hosts: only listed hosts, both through the egress proxy; "
            "network: what the tier opens; null: not known, or this site closes nothing"
        ),
    ]
    reach: Annotated[str, Field(description="what it reaches, for people, in the language of Accept-Language; empty: not known")]
    why: Annotated[
        str,
        Field(
            description="why it has no tier, and since when: its lease ended, or operators blocked it; or that its tier opens "
            "soon; empty: neither"
        ),
    ]
    opens_in: Annotated[
        int,
        Field(
            description="seconds until its tier opens, where the network acts late on labels; until then access says what is "
            "open; 0: it is open"
        ),
    ]
    contact: Annotated[str, Field(description="whom to ask: an address or a mail address; empty: the site names none")]
    until: Annotated[
        int | None, Field(description="Unix time in seconds at which the tier ends or, after that, the server; null: neither ends")
    ]
    expires_in: Annotated[int | None, Field(description="the same in seconds from now, for clients whose clock is wrong")]
    on_expiry: Annotated[
        Literal["end", "stop"] | None,
        Field(description="what happens then: end: the tier is taken away; stop: the server is also stopped, two minutes later"),
    ]
    unlockable: Annotated[
        bool, Field(description="whether it has no tier and a pass would give it one; false if operators blocked it")
    ]
    larger: Annotated[list[str], Field(description="the tiers that a captcha solution can give it instead of its present one")]
    renewable_in: Annotated[
        int | None,
        Field(description="seconds until a pass or a solution for this tier renews its lease; 0: now; null: it cannot be renewed"),
    ]


class UnlockAnswer(ServerAnswer):
    """`POST servers/…`."""

    state: Literal["granted", "pending"]


# -- answers of the in-cluster interface


class StatusAnswer(BaseModel):
    """`GET /healthz`, `GET /readyz`."""

    status: str


class LaunchAnswer(BaseModel):
    """`POST /api/launches`."""

    tier: str
    rule: str
    pass_outcome: str
    grant: str


class GrantsAnswer(BaseModel):
    """`GET /api/grants`."""

    grants: list[GrantRow]


class BlocksAnswer(BaseModel):
    """`GET /api/blocks`."""

    blocks: list[BlockRow]


class ReportsAnswer(BaseModel):
    """`POST /api/detections`."""

    source: str
    reports: Annotated[int, Field(description="reports that the reconciler will read")]
    others: Annotated[int, Field(description="lines from a detector that report nothing")]
    unreadable: Annotated[list[str], Field(description="why the other lines could not be read")]


class UsesAnswer(BaseModel):
    """`POST /api/uses`."""

    uses: Annotated[int, Field(description="rows that the reconciler will read")]


class KeysAnswer(BaseModel):
    """`GET /api/keys`."""

    keys: list[KeyRow]


def unchanging(content: bytes, content_type: str, etag: str) -> Response:
    """Content that does not change while the process runs, or 304 for a client that has it.

    Args:
        content: the whole content.
        content_type: the value of `Content-Type`.
        etag: names the content, and no other.
    """
    made = Response(content, content_type=content_type)
    made.set_etag(etag)
    made.make_conditional(request)
    return made


def answer(body: BaseModel) -> Response:
    """A model as a response in JSON. Fields that were not set are left out."""
    return Response(body.model_dump_json(exclude_unset=True) + "\n", mimetype="application/json")
