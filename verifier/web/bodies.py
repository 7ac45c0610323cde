"""Request bodies, checked by pydantic."""

from typing import Annotated, Literal, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .problems import Problem

MAX_BODY_BYTES = 16 * 1024
"""The longest body that anybody needs to send is a solution of one or two kilobytes."""

_Name = Annotated[str, Field(min_length=1, max_length=255)]
_Text = Annotated[str, Field(max_length=2048)]
_Token = Annotated[str, Field(max_length=8192)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PassRequest(_Body):
    """`POST passes`: a provider's name and the solution of one of its challenges; nothing, if an API key is sent in the header."""

    provider: _Name = ""
    solution: _Token = ""

    @model_validator(mode="after")
    def _both_or_none(self) -> "PassRequest":
        if len(self.model_fields_set) == 1:
            raise ValueError("send provider and solution, or neither and an API key")
        return self


class Unlock(_Body):
    """`POST servers/…`: a pass, or a solution."""

    token: _Token | None = None
    provider: _Name | None = None
    solution: _Token | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Unlock":
        if (self.token is None) == (self.solution is None) or (self.solution is None) != (self.provider is None):
            raise ValueError("send either token, or provider and solution")
        return self


class LaunchBody(_Body):
    """`POST /api/launches`: a launch that BinderHub is about to make."""

    user: _Name
    server: Annotated[str, Field(max_length=255)] = ""
    image: _Text
    repository: _Text = ""
    token: str | None = None
    client_address: Annotated[str, Field(max_length=255)] | None = None
    requested_at: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None
    context: bool = True
    authenticated: bool = False
    groups: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=1000)] = []


class _Action(_Body):
    by: _Name
    why: Annotated[str, Field(min_length=1, max_length=1000)]


class GrantBody(_Action):
    """`POST /api/grants`: a tier for a running server."""

    user: _Name
    server: Annotated[str, Field(max_length=255)] = ""
    tier: _Name


class RevocationBody(_Action):
    """`POST /api/revocations`: take a running server's tier away and block it."""

    user: _Name
    server: Annotated[str, Field(max_length=255)] = ""
    stop: bool = False


class BlockBody(_Action):
    """`POST /api/blocks`: block a server (`user`, `user/server` or a pod), a repository (or `…/*`), or a client network (CIDR)."""

    kind: Literal["server", "repository", "network"]
    what: Annotated[str, Field(min_length=1, max_length=2048)]
    until: Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)] | None = None


T = TypeVar("T", bound=BaseModel)


class KeyBody(_Body):
    """`POST /api/keys`: make an API key."""

    by: _Name
    why: Annotated[str, Field(max_length=1000)] = ""
    name: Annotated[str, Field(min_length=1, max_length=40)]
    tier: _Name
    servers_per_day: Annotated[int, Field(ge=1, le=1_000_000)]
    expires: Annotated[str, Field(min_length=1, max_length=10, description="the last day, as 2027-01-31, or days from now, as 90d")]
    origins: Annotated[list[_Name], Field(max_length=100)] = []
    repositories: Annotated[list[_Name], Field(max_length=100)] = []


class KeyRevocationBody(_Action):
    """`POST /api/keys/revocations`: let an API key count no more."""

    key: Annotated[str, Field(min_length=1, max_length=255, description="its name or its id")]
    servers: Annotated[bool, Field(description="whether running servers lose what they have by it")] = False


def read(kind: type[T], optional: bool = False) -> T:
    """The body of the current request.

    Args:
        kind: what it must be.
        optional: whether there may be none at all, which is read as an empty object.

    Raises:
        Problem: the body is not JSON, or not of this kind; the detail names the field.
    """
    if optional and not request.get_data():
        return kind()
    if not request.is_json:
        raise Problem("not-json", "Send a JSON object with Content-Type: application/json.")
    try:
        return kind.model_validate_json(request.get_data())
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Problem("bad-request", f"{where}: {first['msg']}" if where else first["msg"]) from None
