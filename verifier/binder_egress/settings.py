"""Settings, from environment variables that the chart sets.

Every field names the chart value it comes from, so that a wrong value stops the start with a sentence that an operator can act on.
"""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis.connection import parse_url

from .model.grants import UNVERIFIED
from .model.host_groups import HOST_GROUPS
from .model.networks import IPNetwork
from .model.origins import origin, origin_of
from .model.repositories import BLOCK_PATTERN, block_pattern, exact, strict
from .model.validation import details

PREFIX = "BINDER_EGRESS_"

CAPTCHA_SECRET = f"{PREFIX}CAPTCHA_SECRET_"
"""The prefix of the environment variables that hold the secrets of remote providers."""

MIN_KEY_LENGTH = 32
"""The least length of a signing key or bearer token, in characters: 32 random letters and digits are 190 bits, more than the 128
that HMAC-SHA-256 keys need against guessing."""


def _lines(text: Any) -> Any:
    """Split a Secret's text into its lines; a list is returned as it is."""
    return [line.strip() for line in text.splitlines() if line.strip()] if isinstance(text, str) else text


def _stripped(text: Any) -> Any:
    """A Secret's text without the newline that a file ends with, as clients send it; anything else is returned as it is."""
    return text.strip() if isinstance(text, str) else text


def _json(text: Any) -> Any:
    """Decode JSON text here rather than in pydantic-settings, whose error for bad JSON does not name the field."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        raise ValueError("is not JSON") from None


def _json_or_file(text: Any) -> Any:
    """Decode JSON text, or the file whose path it is."""
    if isinstance(text, str) and text.startswith("/"):
        try:
            text = Path(text).read_text()
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from None
    return _json(text)


def _base_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must start with /")
    return path.rstrip("/") + "/"


def _captcha_secrets() -> dict[str, SecretStr]:
    """The secrets of remote providers, each in a variable of its own: the provider's name in upper case → the secret."""
    return {
        name.upper().removeprefix(CAPTCHA_SECRET): SecretStr(value.strip())
        for name, value in os.environ.items()
        if name.upper().startswith(CAPTCHA_SECRET)
    }


def _redis_url(url: str) -> str:
    try:
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError("is not the address of a Redis, such as redis://host:6379/0") from None
    return url


def _value(name: str) -> dict[str, JsonValue]:
    """The value of the chart that a setting comes from."""
    return {"value": name}


def _chart_value(settings: type[BaseSettings], name: str) -> JsonValue:
    extra = settings.model_fields[name].json_schema_extra
    return extra["value"] if isinstance(extra, dict) else name


def _origin_or_all(text: str) -> str:
    """An origin, or `*` for every origin."""
    return text if text == "*" else origin(text)


def _with_origin(text: str) -> str:
    """An address whose scheme and host form an origin, or an empty text."""
    if text:
        origin_of(text)
    return text


_Sentinel = Annotated[str, Field(pattern=r"^[^\s:/]+:[0-9]{1,5}$")]
"""A sentinel: `host:port`."""


_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")  # Kubernetes' own rule


Access = Literal["none", "packages", "hosts", "network"]
"""What a server reaches, for people and programs: nothing; only package servers, or also other listed hosts, both through the
egress proxy; or what the policy of its tier opens, or the internet through the proxy."""

MORE_HOSTS = "…"
"""The entry that stands for a repository's own hosts. Pages say *hosts that the operators chose*, as names would reveal the
repository."""


class Tier(BaseModel):
    """A tier without its policy. The chart takes it from the same values.

    Attributes:
        description: the operator's words by language; empty: the page's own words.
        direct: whether its policy opens anything; if not, the egress proxy is the only way out.
        internet: whether it opens the internet, or only some addresses; None if that is unknown.
        hosts: the hosts behind the egress proxy that pages name: all groups, and some hosts.
        ports: the ports that it opens, as people read them (`443`, `6000-6010`, `53/UDP`); empty: all ports.
        lease: seconds after which a grant ends unless it is renewed; 0: it never ends.
        on_expiry: what happens then: `end` takes the tier away, `stop` also stops the server.
        rank: a server may get a tier of a higher rank in place of its own.
    """

    description: dict[str, str] = {}
    direct: bool = True
    internet: bool | None = None
    hosts: list[str] = []
    ports: list[str] = []
    lease: int = Field(0, ge=0)
    on_expiry: Literal["end", "stop"] = "end"
    rank: int = 0

    @property
    def access(self) -> Access:
        """What a server with it reaches, in one word (`Access`)."""
        if self.direct or self.internet:
            return "network"
        if not self.hosts:
            return "none"
        packages = {name for name, group in HOST_GROUPS.items() if group.packages}
        return "packages" if packages.issuperset(self.hosts) else "hosts"


_PAGE_ADDRESS = r"https?://[^\s\"'<>;,]+"
_PageAddress = Annotated[str, Field(pattern=rf"^({_PAGE_ADDRESS})?$")]
"""The address of a page of the site; empty: none."""


_Contact = Annotated[str, Field(max_length=200, pattern=r"^([A-Za-z0-9._+-]+@[A-Za-z0-9.-]+|https?://[A-Za-z0-9._~:/?#@%&=+-]+)?$")]
"""A mail address, or the address of a page; empty: none. It is part of the egress proxy's refusals, so it is ASCII."""


def is_page_address(text: str) -> bool:
    """Whether a text is what `hubUrl` may be: an address with a scheme and a host, and no user."""
    try:
        return bool(re.fullmatch(_PAGE_ADDRESS, _with_origin(text)))
    except ValueError:
        return False


class Branding(BaseModel):
    """The site's look on the verifier's pages: `branding` in the chart's values, with the same names.

    Attributes:
        name: the site's name.
        logo: the address of its logo, a path on its host, or a `data:` URL.
        accentColor: its colour, `#rrggbb`.
        helpUrl: where visitors find help.
        contact: whom they may ask about a block: a mail address, or the address of a page.
        startUrl: the start page; empty: the path above the verifier's own.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=100)
    logo: str = Field(
        "",
        max_length=65_536,
        pattern=(
            r"^(https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[^\s\"'<>;,]*)?"
            r"|/([^/\\\s\"'<>;,][^\s\"'<>;,]*)?|data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=]+)?$"
        ),
    )
    accentColor: str = Field("", pattern=r"^(#[0-9A-Fa-f]{6})?$")
    helpUrl: _PageAddress = ""
    contact: _Contact = ""
    startUrl: _PageAddress = ""


OnMatch = Literal["observe", "revoke", "stop"]
"""What follows a detection: a line in the log; also, the server loses its egress and is blocked; also, its pod is deleted."""


class Source(BaseModel):
    """A detector whose reports count. The chart takes it from `detections.sources`.

    Attributes:
        on_match: what follows its reports.
        lists: what follows reports of single lists, by name.
    """

    on_match: OnMatch = "observe"
    lists: dict[str, OnMatch] = {}

    def follows(self, list_name: str) -> OnMatch:
        """What follows a report of a list."""
        return self.lists.get(list_name, self.on_match)


class InvalidSettings(Exception):
    """Settings are missing or wrong. The text has one sentence for each, naming the chart value to change."""


def _networks(found: Any) -> Any:
    try:
        return [ipaddress.ip_network(cidr, strict=False) for cidr in _json(found)]
    except TypeError:
        raise ValueError("is not a list of CIDRs") from None


def _trusted_proxies(found: Any) -> Any:
    found = _json(found)
    if isinstance(found, list):
        return _networks(found)
    if type(found) is not int or not 0 <= found <= 10:
        raise ValueError("is neither a number from 0 to 10 nor a list of CIDRs")
    return found


def _trusted(repositories: dict[str, str]) -> dict[str, str]:
    for name in repositories:
        if not exact(f"https://{name}"):
            raise ValueError(f"{name!r} is not host/owner/name, written out")
    return {exact(f"https://{name}"): tier for name, tier in repositories.items()}


def _blocked(patterns: list[str]) -> list[str]:
    """The names of the patterns, made only once: each request compares its repository's name with them."""
    names = []
    for pattern in patterns:
        name = block_pattern(pattern)
        # As in the chart, a value is written without https://.
        if name is None or not BLOCK_PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is not host/owner/name, or one that ends in /*, or covers no repository, or nearly all")
        names.append(name)
    return names


def _strict(repositories: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same map with patterns that are made only once; as written, they may begin with `https://`."""
    return {strict(pattern.removeprefix("https://")): value for pattern, value in repositories.items()}


def _strict_patterns(patterns: list[str]) -> list[str]:
    return list(_strict({pattern: [] for pattern in patterns}))


_Tiers = Annotated[dict[str, str], NoDecode, BeforeValidator(_json)]


class CommonSettings(BaseSettings):
    """The settings of all processes and of the operators' commands: Redis, mode, tiers and rules."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = Field(
        "redis://localhost:6379/0", json_schema_extra=_value("redis or externalRedis")
    )
    """The address of Redis. With `redis_sentinels` only its scheme (`rediss` for TLS) and the number of the database count."""
    redis_password: SecretStr | None = Field(None, json_schema_extra=_value("redis-password in the Secret"))
    redis_user: ClassVar[str] = "reconciler"
    """The name of this process' user in the chart's Redis. Operators' commands run in the reconciler's pod."""
    redis_user_password: SecretStr | None = Field(
        None, json_schema_extra=_value("redis-verifier-password and others of that kind in the Secret")
    )
    """The password of that user. Empty: all users have `redis_password`."""
    redis_ca: str = Field("", json_schema_extra=_value("externalRedis.ca"))
    """The file with the certificate authority of Redis and its sentinels; empty: the authorities that the image trusts."""
    redis_sentinels: Annotated[list[_Sentinel], NoDecode, BeforeValidator(_json)] = Field(
        [], json_schema_extra=_value("externalRedis.sentinel.hosts")
    )
    redis_sentinel_master: str = Field("", json_schema_extra=_value("externalRedis.sentinel.masterName"))
    redis_sentinel_password: SecretStr | None = Field(None, json_schema_extra=_value("externalRedis.sentinel.existingSecret"))
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", json_schema_extra=_value("logLevel"))
    mode: Literal["captcha", "observe", "allow"] = Field("captcha", json_schema_extra=_value("mode"))
    tiers: Annotated[dict[str, Tier], NoDecode, BeforeValidator(_json)] = Field(
        {"verified": Tier()}, min_length=1, json_schema_extra=_value("tiers")
    )
    unverified_hosts: Annotated[list[str], NoDecode, BeforeValidator(_json)] = Field(
        [], json_schema_extra=_value("unverified.hosts")
    )
    """The hosts that pages name for a server without a tier, which reaches them through the egress proxy (`Tier.hosts`)."""
    allow_tier: str = Field("verified", json_schema_extra=_value("allow.tier"))
    blocked_repositories: Annotated[list[str], NoDecode, BeforeValidator(_json), AfterValidator(_blocked)] = Field(
        [], json_schema_extra=_value("rules.blockedRepositories")
    )
    self_networks: Annotated[list[IPNetwork], NoDecode, BeforeValidator(_networks)] = Field(
        [], json_schema_extra=_value("rules.selfNetworks")
    )
    trusted_repositories: Annotated[_Tiers, AfterValidator(_trusted)] = Field(
        {}, json_schema_extra=_value("rules.trustedRepositories")
    )
    authenticated_users: _Tiers = Field({}, json_schema_extra=_value("rules.authenticatedUsers"))
    authenticated_groups: _Tiers = Field({}, json_schema_extra=_value("rules.authenticatedGroups"))
    may_stop_pods: bool = Field(False, json_schema_extra=_value("reconciler.mayStopPods"))
    detections: Annotated[dict[str, Source], NoDecode, BeforeValidator(_json)] = Field(
        {}, json_schema_extra=_value("detections.sources")
    )
    """The sources of reports, by name; none: no reports are accepted."""

    @property
    def unverified(self) -> Tier:
        """What a server without a tier has, in the form of a tier."""
        return Tier(direct=False, internet=False, hosts=self.unverified_hosts)

    @model_validator(mode="after")
    def _sentinels_watch_something(self) -> Self:
        if bool(self.redis_sentinels) != bool(self.redis_sentinel_master):
            raise ValueError("externalRedis.sentinel: hosts and masterName go together; set both or neither")
        return self

    @model_validator(mode="after")
    def _detections_may_stop(self) -> Self:
        for name, source in self.detections.items():
            if "stop" in (source.on_match, *source.lists.values()) and not self.may_stop_pods:
                raise ValueError(f"detections.sources.{name} stops pods: set reconciler.mayStopPods: true")
        return self

    @model_validator(mode="after")
    def _tiers_exist(self) -> Self:
        if UNVERIFIED in self.tiers:
            raise ValueError(f"tiers: {UNVERIFIED!r} is what pods have without a grant; choose another name")
        for tier in self.tiers:
            if not _LABEL_VALUE.fullmatch(tier):
                raise ValueError(f"tiers: {tier!r} cannot be the value of a label; use letters, digits and dashes")
            if self.tiers[tier].on_expiry == "stop" and not self.may_stop_pods:
                raise ValueError(f"tiers.{tier}.onExpiry is stop, which deletes user pods: set reconciler.mayStopPods: true")
        if self.allow_tier not in self.tiers:
            raise ValueError(f"allow.tier: there is no tier {self.allow_tier!r}, only {', '.join(sorted(self.tiers))}")
        for field in ("trusted_repositories", "authenticated_users", "authenticated_groups"):
            for name, tier in getattr(self, field).items():
                if tier not in self.tiers:
                    raise ValueError(
                        f"{_chart_value(type(self), field)}: {name} has the tier {tier!r}, and there is none of that name"
                    )
        return self


class VerifierSettings(CommonSettings):
    """The verifier's settings. Times are in seconds, prefix lengths in bits."""

    redis_user = "verifier"

    repositories_with_hosts: Annotated[list[str], NoDecode, BeforeValidator(_json), AfterValidator(_strict_patterns)] = Field(
        [], json_schema_extra=_value("rules.repositories")
    )
    """Patterns for repositories whose servers reach more hosts through the egress proxy."""

    base_path: Annotated[str, AfterValidator(_base_path)] = Field("/egress/", json_schema_extra=_value("ingress.path"))
    public_port: int = Field(8080, ge=1, le=65535, json_schema_extra=_value("verifier"))
    internal_port: int = Field(8081, ge=1, le=65535, json_schema_extra=_value("verifier"))
    threads: int = Field(32, ge=1, le=1000, json_schema_extra=_value("verifier.threads"))
    signing_keys: Annotated[list[SecretStr], NoDecode, BeforeValidator(_lines)] = Field(
        min_length=1, json_schema_extra=_value("secret.signingKeys, or signing-keys in the Secret")
    )
    api_token: Annotated[SecretStr, BeforeValidator(_stripped)] = Field(
        min_length=MIN_KEY_LENGTH, json_schema_extra=_value("secret.apiToken, or api-token in the Secret")
    )
    pass_lifetime: int = Field(300, ge=10, le=300, json_schema_extra=_value("passes.lifetime"))
    pass_servers: int = Field(1, ge=1, le=100, json_schema_extra=_value("passes.servers"))
    launch_timeout: int = Field(600, ge=10, le=86400, json_schema_extra=_value("launch.timeout"))
    captcha_providers: Annotated[dict[str, dict[str, object]], NoDecode, BeforeValidator(_json)] = Field(
        {"altcha": {}}, min_length=1, json_schema_extra=_value("captcha.providers")
    )
    captcha_proof_of_work: Annotated[dict[str, object], NoDecode, BeforeValidator(_json)] = Field(
        {}, json_schema_extra=_value("captcha.providers.altcha")
    )
    captcha_on_outage: Literal["deny", "proofOfWork", "allow"] = Field("proofOfWork", json_schema_extra=_value("captcha.onOutage"))
    captcha_allow_test_keys: bool = Field(False, json_schema_extra=_value("captcha.allowTestKeys"))
    # As browsers, and therefore providers, write hosts.
    captcha_hostnames: Annotated[frozenset[Annotated[str, AfterValidator(str.lower)]], NoDecode, BeforeValidator(_json)] = Field(
        frozenset(), json_schema_extra=_value("captcha.hostnames")
    )
    captcha_secrets: dict[str, SecretStr] = Field(
        default_factory=_captcha_secrets, json_schema_extra=_value("captcha.providers, existingSecret of each")
    )
    allowed_origins: Annotated[list[Annotated[str, AfterValidator(_origin_or_all)]], NoDecode, BeforeValidator(_json)] = Field(
        [], json_schema_extra=_value("allowedOrigins")
    )
    api_keys_file: str = Field("", json_schema_extra=_value("apiKeys"))
    trusted_proxies: Annotated[int | list[IPNetwork], NoDecode, BeforeValidator(_trusted_proxies)] = Field(
        1, json_schema_extra=_value("trustedProxies")
    )
    public_url: str = Field("", pattern="^(https?://[^/]+)?$", json_schema_extra=_value("publicUrl"))
    hub_url: Annotated[_PageAddress, AfterValidator(_with_origin)] = Field("", json_schema_extra=_value("hubUrl"))
    branding: Annotated[Branding, NoDecode, BeforeValidator(_json)] = Field(Branding(), json_schema_extra=_value("branding"))
    client_ipv4_prefix: int = Field(32, ge=16, le=32, json_schema_extra=_value("clientNetwork.ipv4Prefix"))
    client_ipv6_prefix: int = Field(64, ge=32, le=64, json_schema_extra=_value("clientNetwork.ipv6Prefix"))
    log_ipv4_prefix: int = Field(24, ge=0, le=32, json_schema_extra=_value("logClientNetwork.ipv4Prefix"))
    log_ipv6_prefix: int = Field(48, ge=0, le=128, json_schema_extra=_value("logClientNetwork.ipv6Prefix"))
    fairness_window: int = Field(3600, ge=60, le=86400, json_schema_extra=_value("fairness.window"))
    fairness_doubled_after: int = Field(30, ge=0, le=1_000_000, json_schema_extra=_value("fairness.doubledAfter"))
    fairness_budget: int = Field(0, ge=0, le=1_000_000, json_schema_extra=_value("fairness.budget"))
    fairness_rejections: int = Field(30, ge=0, le=1_000_000, json_schema_extra=_value("fairness.rejections"))
    launch_hold: int = Field(4, ge=0, le=60, json_schema_extra=_value("launchPage.hold"))
    launch_interactive_hold: int = Field(60, ge=0, le=60, json_schema_extra=_value("launchPage.interactiveHold"))

    @model_validator(mode="after")
    def _two_ports(self) -> Self:
        # With one port for both, the in-cluster interface would face the internet.
        if self.public_port == self.internal_port:
            raise ValueError("verifier: the public and the in-cluster port must differ")
        return self

    @model_validator(mode="after")
    def _long_keys(self) -> Self:
        if any(len(key.get_secret_value()) < MIN_KEY_LENGTH for key in self.signing_keys):
            raise ValueError(
                f"secret.signingKeys, or signing-keys in the Secret: each key must have at least {MIN_KEY_LENGTH} characters"
            )
        return self

    @property
    def plain_signing_keys(self) -> list[str]:
        """The signing keys as plain text, oldest first. The last one signs."""
        return [key.get_secret_value() for key in self.signing_keys]

    @property
    def challenge_keys(self) -> list[str]:
        """The signing keys for challenges, tied to this installation by its bearer token.

        Members of a federation share signing keys, so that passes count everywhere. Challenges must not count everywhere: each
        member has its own Redis with the used solutions, so one solution would earn a pass at every member.
        """
        return [f"{self.api_token.get_secret_value()} {key}" for key in self.plain_signing_keys]


class ReconcilerSettings(CommonSettings):
    """The reconciler's settings. It gets no signing key and no bearer token."""

    namespace: str = Field("default", min_length=1, json_schema_extra=_value("the release's namespace"))
    user_pod_labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_json)] = Field(
        {"component": "singleuser-server"}, min_length=1, json_schema_extra=_value("userPods.labels")
    )
    policies: Annotated[dict[str, dict[str, Any]], NoDecode, BeforeValidator(_json_or_file)] = Field(
        {}, json_schema_extra=_value("base and tiers")
    )
    """The `spec` of each of our NetworkPolicies for user pods, by name, as the chart renders it; none in mode `observe`.
    Or the path of a file that contains it: a variable holds 128 KiB at most, and thousands of banned addresses take more."""
    canary: bool = Field(False, json_schema_extra=_value("canary.enabled"))
    node_canaries: bool = Field(False, json_schema_extra=_value("canary.onEachNode"))
    random_secrets: Annotated[list[str], NoDecode, BeforeValidator(_json)] = Field(
        [], json_schema_extra=_value("secret.existingSecret")
    )
    """The keys of the chart's Secret that its last rendering generated, because it could not look at the cluster."""
    missing_admission_policies: Annotated[list[str], NoDecode, BeforeValidator(_json)] = Field(
        [], json_schema_extra=_value("admissionPolicies")
    )
    """The admission policies that are enabled in the values but were not rendered."""
    agent_labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_json)] = Field({}, json_schema_extra=_value("agent.enabled"))
    """The labels of the agents' pods; none: there is no agent."""
    proxy_labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_json)] = Field({}, json_schema_extra=_value("proxy.enabled"))
    """The labels of the egress proxy's pods, for `doctor`; none: there is no egress proxy. JupyterHub's proxy has some of them."""
    receiver_labels: Annotated[dict[str, str], NoDecode, BeforeValidator(_json)] = Field({}, json_schema_extra=_value("detections"))
    """The labels of the receiver's pod, for `doctor`; none: there is no receiver."""
    proxy: bool = Field(False, json_schema_extra=_value("proxy.enabled"))
    """Whether to publish the addresses of user pods, for the egress proxy."""
    proxy_service: str = Field("", json_schema_extra=_value("proxy.enabled"))
    """The name of the egress proxy's Service, whose address is in the variables of user pods. Empty: they have no variables."""


class ProxyTier(BaseModel):
    """What a tier may reach through the egress proxy. The chart takes it from the tier's values.

    Attributes:
        hosts: groups, hosts, `*.` suffixes, or `*` (`proxy.hosts`).
        ports: the TCP ports that the tier opens; empty: all.
        closed: CIDRs that it does not reach: `except` and `bannedAddresses`.
    """

    hosts: list[str] = []
    ports: list[Annotated[str, Field(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$")]] = []
    closed: Annotated[list[IPNetwork], BeforeValidator(_networks)] = []


class ProxySettings(CommonSettings):
    """The egress proxy's settings. It gets no signing key and no bearer token."""

    redis_user = "proxy"

    proxy_port: int = Field(3128, ge=1, le=65535, json_schema_extra=_value("proxy"))
    proxy_admin_port: int = Field(8082, ge=0, le=65535, json_schema_extra=_value("proxy"))
    proxy_tiers: Annotated[dict[str, ProxyTier], NoDecode, BeforeValidator(_json_or_file)] = Field(
        {}, json_schema_extra=_value("tiers and unverified.hosts")
    )
    """By tier, including `unverified`; or the path of a file that contains it."""
    proxy_repositories: Annotated[dict[str, list[str]], NoDecode, BeforeValidator(_json_or_file), AfterValidator(_strict)] = Field(
        {}, json_schema_extra=_value("rules.repositories")
    )
    """Pattern for repositories → the hosts that their servers may also reach; or the path of a file that contains it."""
    proxy_own_names: Annotated[list[str], NoDecode, BeforeValidator(_json)] = Field(
        [], json_schema_extra=_value("proxy.refusedHosts")
    )
    proxy_page: str = Field("", pattern="^(https?://.+/)?$", json_schema_extra=_value("publicUrl or ingress.hosts"))
    proxy_contact: _Contact = Field("", json_schema_extra=_value("branding.contact"))
    proxy_connections: int = Field(100, ge=1, le=10_000, json_schema_extra=_value("proxy.limits.connections"))
    proxy_new_per_second: int = Field(20, ge=1, le=10_000, json_schema_extra=_value("proxy.limits.newPerSecond"))
    proxy_bytes_per_second: int = Field(0, ge=0, json_schema_extra=_value("proxy.limits.bytesPerSecond"))
    proxy_all_connections: int = Field(4000, ge=2, le=100_000, json_schema_extra=_value("proxy.limits.allConnections"))
    proxy_all_bytes_per_second: int = Field(0, ge=0, json_schema_extra=_value("proxy.limits.allBytesPerSecond"))
    proxy_new_hosts_per_minute: int = Field(100, ge=0, json_schema_extra=_value("proxy.limits.newHostsPerMinute"))
    proxy_unverified_new_hosts_per_minute: int = Field(
        30, ge=0, json_schema_extra=_value("proxy.limits.unverifiedNewHostsPerMinute")
    )
    proxy_log_connections: bool = Field(False, json_schema_extra=_value("proxy.logConnections"))
    proxy_drain_seconds: int = Field(60, ge=0, le=3600, json_schema_extra=_value("proxy.drain"))


class ReceiverSettings(CommonSettings):
    """The settings of the receiver of reports. It gets no signing key and no bearer token."""

    redis_user = "receiver"

    reports_port: int = Field(8081, ge=1, le=65535, json_schema_extra=_value("detections"))
    """It is not called `receiver_port`, because Kubernetes may set that variable for the Service."""
    reporters_file: str = Field("", json_schema_extra=_value("detections"))


T = TypeVar("T", bound=BaseSettings)


def load(kind: type[T], **overrides: Any) -> T:
    """Settings from the environment.

    Args:
        kind: the settings of a process, for instance `VerifierSettings`.
        overrides: values that override the environment, for tests.

    Returns:
        The settings, complete and checked.

    Raises:
        InvalidSettings: with one sentence for each wrong setting; never with the value of a secret.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        raise InvalidSettings("\n".join(_sentence(kind, *found) for found in details(error))) from None


def _sentence(kind: type[BaseSettings], path: str, message: str) -> str:
    if not path:
        return f"{message}."
    name = path.partition(".")[0]
    return f"{_chart_value(kind, name)}: {message[:1].lower()}{message[1:]} (environment variable {PREFIX}{name.upper()})."
