"""Settings, from environment variables that the chart sets.

Every field names the chart value it comes from, so that a wrong value stops the start with a sentence that an operator can act on.
Values that contradict each other are refused by the chart (`validate.yaml`), which sees them all, and before anything is changed.
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
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.connection import parse_url

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


def _of(value: str, default: Any = ..., **checks: Any) -> Any:
    """A setting that comes from a value of the chart.

    Args:
        value: the value, or where it is besides, for messages.
        default: its default; missing: it has none.
        checks: as `Field` takes them.
    """
    return Field(default, json_schema_extra={"value": value}, **checks)


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


_Texts = Annotated[list[str], BeforeValidator(_json)]
_TextByName = Annotated[dict[str, str], BeforeValidator(_json)]
_Options = Annotated[dict[str, object], BeforeValidator(_json)]
_Lowered = Annotated[str, AfterValidator(str.lower)]
_Allowed = Annotated[str, AfterValidator(_origin_or_all)]


class CommonSettings(BaseSettings):
    """The settings of all processes and of the operators' commands: Redis, mode, tiers and rules."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True, enable_decoding=False)

    redis_url: Annotated[str, AfterValidator(_redis_url)] = _of("redis or externalRedis", "redis://localhost:6379/0")
    """The address of Redis. With `redis_sentinels` only its scheme (`rediss` for TLS) and the number of the database count."""
    redis_password: SecretStr | None = _of("redis-password in the Secret", None)
    redis_user: ClassVar[str] = "reconciler"
    """The name of this process' user in the chart's Redis. Operators' commands run in the reconciler's pod."""
    redis_user_password: SecretStr | None = _of("redis-verifier-password and others of that kind in the Secret", None)
    """The password of that user. Empty: all users have `redis_password`."""
    redis_ca: str = _of("externalRedis.ca", "")
    """The file with the certificate authority of Redis and its sentinels; empty: the authorities that the image trusts."""
    redis_sentinels: Annotated[list[_Sentinel], BeforeValidator(_json)] = _of("externalRedis.sentinel.hosts", [])
    redis_sentinel_master: str = _of("externalRedis.sentinel.masterName", "")
    redis_sentinel_password: SecretStr | None = _of("externalRedis.sentinel.existingSecret", None)
    log_level: Literal["debug", "info", "warning", "error"] = _of("logLevel", "info")
    mode: Literal["captcha", "observe", "allow"] = _of("mode", "captcha")
    tiers: Annotated[dict[str, Tier], BeforeValidator(_json)] = _of("tiers", {"verified": Tier()}, min_length=1)
    unverified_hosts: _Texts = _of("unverified.hosts", [])
    """The hosts that pages name for a server without a tier, which reaches them through the egress proxy (`Tier.hosts`)."""
    allow_tier: str = _of("allow.tier", "verified")
    blocked_repositories: Annotated[_Texts, AfterValidator(_blocked)] = _of("rules.blockedRepositories", [])
    self_networks: Annotated[list[IPNetwork], BeforeValidator(_networks)] = _of("rules.selfNetworks", [])
    trusted_repositories: Annotated[_TextByName, AfterValidator(_trusted)] = _of("rules.trustedRepositories", {})
    authenticated_users: _TextByName = _of("rules.authenticatedUsers", {})
    authenticated_groups: _TextByName = _of("rules.authenticatedGroups", {})
    may_stop_pods: bool = _of("reconciler.mayStopPods", False)
    detections: Annotated[dict[str, Source], BeforeValidator(_json)] = _of("detections.sources", {})
    """The sources of reports, by name; none: no reports are accepted."""
    report_days: int = _of("agent.report.days", 0, ge=0)
    """How long launches are kept for `egress report`; 0: they are not."""

    @property
    def unverified(self) -> Tier:
        """What a server without a tier has, in the form of a tier."""
        return Tier(direct=False, internet=False, hosts=self.unverified_hosts)


class VerifierSettings(CommonSettings):
    """The verifier's settings. Times are in seconds, prefix lengths in bits."""

    redis_user = "verifier"

    repositories_with_hosts: Annotated[_Texts, AfterValidator(_strict_patterns)] = _of("rules.repositories", [])
    """Patterns for repositories whose servers reach more hosts through the egress proxy."""

    base_path: Annotated[str, AfterValidator(_base_path)] = _of("ingress.path", "/egress/")
    public_port: int = _of("verifier", 8080, ge=1, le=65535)
    internal_port: int = _of("verifier", 8081, ge=1, le=65535)
    threads: int = _of("verifier.threads", 32, ge=1, le=1000)
    signing_keys: Annotated[list[SecretStr], BeforeValidator(_lines)] = _of(
        "secret.signingKeys, or signing-keys in the Secret", min_length=1
    )
    api_token: Annotated[SecretStr, BeforeValidator(_stripped)] = _of(
        "secret.apiToken, or api-token in the Secret", min_length=MIN_KEY_LENGTH
    )
    pass_lifetime: int = _of("passes.lifetime", 300, ge=10, le=300)
    pass_servers: int = _of("passes.servers", 1, ge=1, le=100)
    launch_timeout: int = _of("launch.timeout", 600, ge=10, le=86400)
    captcha_providers: Annotated[dict[str, dict[str, object]], BeforeValidator(_json)] = _of(
        "captcha.providers", {"altcha": {}}, min_length=1
    )
    captcha_proof_of_work: _Options = _of("captcha.providers.altcha", {})
    captcha_on_outage: Literal["deny", "proofOfWork", "allow"] = _of("captcha.onOutage", "proofOfWork")
    captcha_allow_test_keys: bool = _of("captcha.allowTestKeys", False)
    # As browsers, and therefore providers, write hosts.
    captcha_hostnames: Annotated[frozenset[_Lowered], BeforeValidator(_json)] = _of("captcha.hostnames", frozenset())
    captcha_secrets: dict[str, SecretStr] = _of("captcha.providers, existingSecret of each", default_factory=_captcha_secrets)
    allowed_origins: Annotated[list[_Allowed], BeforeValidator(_json)] = _of("allowedOrigins", [])
    api_keys_file: str = _of("apiKeys", "")
    trusted_proxies: Annotated[int | list[IPNetwork], BeforeValidator(_trusted_proxies)] = _of("trustedProxies", 1)
    public_url: str = _of("publicUrl", "", pattern="^(https?://[^/]+)?$")
    hub_url: Annotated[_PageAddress, AfterValidator(_with_origin)] = _of("hubUrl", "")
    branding: Annotated[Branding, BeforeValidator(_json)] = _of("branding", Branding())
    client_ipv4_prefix: int = _of("clientNetwork.ipv4Prefix", 32, ge=16, le=32)
    client_ipv6_prefix: int = _of("clientNetwork.ipv6Prefix", 64, ge=32, le=64)
    log_ipv4_prefix: int = _of("logClientNetwork.ipv4Prefix", 24, ge=0, le=32)
    log_ipv6_prefix: int = _of("logClientNetwork.ipv6Prefix", 48, ge=0, le=128)
    fairness_window: int = _of("fairness.window", 3600, ge=60, le=86400)
    fairness_doubled_after: int = _of("fairness.doubledAfter", 30, ge=0, le=1_000_000)
    fairness_budget: int = _of("fairness.budget", 0, ge=0, le=1_000_000)
    fairness_rejections: int = _of("fairness.rejections", 30, ge=0, le=1_000_000)
    launch_hold: int = _of("launchPage.hold", 4, ge=0, le=60)
    launch_interactive_hold: int = _of("launchPage.interactiveHold", 60, ge=0, le=60)

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

    namespace: str = _of("the release's namespace", "default", min_length=1)
    user_pod_labels: _TextByName = _of("userPods.labels", {"component": "singleuser-server"}, min_length=1)
    policies: Annotated[dict[str, dict[str, Any]], BeforeValidator(_json_or_file)] = _of("base and tiers", {})
    """The `spec` of each of our NetworkPolicies for user pods, by name, as the chart renders it; none in mode `observe`.
    Or the path of a file that contains it: a variable holds 128 KiB at most, and thousands of banned addresses take more."""
    canary: bool = _of("canary.enabled", False)
    node_canaries: bool = _of("canary.onEachNode", False)
    saved_blocks: str = _of("fullnameOverride", "binder-egress-blocks", min_length=1)
    """The name of the ConfigMap with what must outlive Redis."""
    random_secrets: _Texts = _of("secret.existingSecret", [])
    """The keys of the chart's Secret that its last rendering generated, because it could not look at the cluster."""
    missing_admission_policies: _Texts = _of("admissionPolicies", [])
    """The admission policies that are enabled in the values but were not rendered."""
    agent_labels: _TextByName = _of("agent.enabled", {})
    """The labels of the agents' pods; none: there is no agent."""
    proxy_labels: _TextByName = _of("proxy.enabled", {})
    """The labels of the egress proxy's pods, for `doctor`; none: there is no egress proxy. JupyterHub's proxy has some of them."""
    receiver_labels: _TextByName = _of("detections", {})
    """The labels of the receiver's pod, for `doctor`; none: there is no receiver."""
    proxy: bool = _of("proxy.enabled", False)
    """Whether to publish the addresses of user pods, for the egress proxy."""
    proxy_service: str = _of("proxy.enabled", "")
    """The name of the egress proxy's Service, whose address is in the variables of user pods. Empty: they have no variables."""
    connections: str = _of("connections.enabled", "")
    """The ConfigMap through which the nodes learn of changed tiers, to end connections; empty: none does."""


class ConnectionsSettings(BaseSettings):
    """The settings of the part on a node that ends connections. It gets no secret, and has no connection to Redis."""

    model_config = CommonSettings.model_config

    namespace: str = _of("the release's namespace", min_length=1)
    node: str = _of("the pod's node", min_length=1)
    connections: str = _of("connections.enabled", min_length=1)
    policies: Annotated[dict[str, dict[str, Any]], BeforeValidator(_json_or_file)] = _of("base and tiers")
    private: Annotated[list[IPNetwork], BeforeValidator(_networks)] = _of("except")
    """The networks towards which no connection is ended."""
    mode: Literal["captcha", "allow", "deny"] = _of("mode")
    log_level: Literal["debug", "info", "warning", "error"] = _of("logLevel", "info")


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

    proxy_port: int = _of("proxy", 3128, ge=1, le=65535)
    proxy_admin_port: int = _of("proxy", 8082, ge=0, le=65535)
    proxy_tiers: Annotated[dict[str, ProxyTier], BeforeValidator(_json_or_file)] = _of("tiers and unverified.hosts", {})
    """By tier, including `unverified`; or the path of a file that contains it."""
    proxy_repositories: Annotated[dict[str, list[str]], BeforeValidator(_json_or_file), AfterValidator(_strict)] = _of(
        "rules.repositories", {}
    )
    """Pattern for repositories → the hosts that their servers may also reach; or the path of a file that contains it."""
    proxy_own_names: _Texts = _of("proxy.refusedHosts", [])
    proxy_page: str = _of("publicUrl or ingress.hosts", "", pattern="^(https?://.+/)?$")
    proxy_contact: _Contact = _of("branding.contact", "")
    proxy_connections: int = _of("proxy.limits.connections", 100, ge=1, le=10_000)
    proxy_new_per_second: int = _of("proxy.limits.newPerSecond", 20, ge=1, le=10_000)
    proxy_bytes_per_second: int = _of("proxy.limits.bytesPerSecond", 0, ge=0)
    proxy_all_connections: int = _of("proxy.limits.allConnections", 4000, ge=2, le=100_000)
    proxy_all_bytes_per_second: int = _of("proxy.limits.allBytesPerSecond", 0, ge=0)
    proxy_new_hosts_per_minute: int = _of("proxy.limits.newHostsPerMinute", 100, ge=0)
    proxy_unverified_new_hosts_per_minute: int = _of("proxy.limits.unverifiedNewHostsPerMinute", 30, ge=0)
    proxy_log_connections: bool = _of("proxy.logConnections", False)
    proxy_drain_seconds: int = _of("proxy.drain", 60, ge=0, le=3600)


class ReceiverSettings(CommonSettings):
    """The settings of the receiver of reports. It gets no signing key and no bearer token."""

    redis_user = "receiver"

    reports_port: int = _of("detections", 8081, ge=1, le=65535)
    """It is not called `receiver_port`, because Kubernetes may set that variable for the Service."""
    reporters_file: str = _of("detections", "")


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
