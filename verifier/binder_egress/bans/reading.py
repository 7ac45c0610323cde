"""Reads lines of logs and of mybinder's archive, and Prometheus. Only counts are kept."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import unquote, urlsplit

import requests

from ..detections.reports import Content, Unreadable, container_in, kubelet_labels, object_at_start
from ..model import repositories
from ..model.grants import UNVERIFIED
from ..model.serialization import read_origin

DAY_SECONDS = 86400.0

TIMEOUT_SECONDS = 60.0
"""How long Prometheus may take for each query, in seconds: queries over days and all pods take seconds."""

LAUNCH_SCHEMA = "binderhub.jupyter.org/launch"
"""The schema of BinderHub's launch events, versions 1 to 6. They share `provider` and `spec`, which are read here."""

GIVEN = frozenset({"free", "held", "moved"})
"""The outcomes of a good pass (docs/logs.md)."""

DETECTIONS = frozenset({"killed", "delete"})
"""The values of `action` in lines from cryptnono, which kills processes, and from minesweeper, which deletes pods."""

_name = lru_cache(maxsize=65536)(repositories.name)

_HOSTS = {"GitHub": "github.com", "Gist": "gist.github.com", "GitLab": "gitlab.com"}
_DOI = re.compile(r"10\.[0-9]{4,9}(?:\.[0-9]+)*/")
_HYDROSHARE, _HYDROSHARE_ID = "hydroshare.org/resource/", re.compile(r".*([0-9a-f]{32})")


@dataclass
class Repository:
    """What the sources show about one repository within the period.

    Attributes:
        name: its name, as returned by `repositories.name`.
        servers: the users of its launches in logs of decisions; BinderHub invents one for each launch.
        without_pass: the users among them without a good pass, who got no tier.
        networks: client networks → launches.
        archived: launches in the archive.
        counted: launches according to Prometheus.
        detected: pods in which something was detected.
        revoked: users whose server lost its tier to an operator, not to a detector.
        seconds: the processor time of its pods, each in seconds.
    """

    name: str
    servers: set[str] = field(default_factory=set)
    without_pass: set[str] = field(default_factory=set)
    networks: Counter[str] = field(default_factory=Counter)
    archived: int = 0
    counted: float = 0.0
    detected: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)

    @property
    def launches(self) -> int:
        """The number of launches. The sources see the same launches, so the largest count is taken, not the sum."""
        return max(len(self.servers), self.archived, round(self.counted))


def is_doi(name: str) -> bool:
    """Whether a name is a DOI. A host's name may begin with `10.`, too."""
    return _DOI.match(name) is not None


def hydroshare_id(name: str) -> str:
    """The id of a resource at HydroShare, by which BinderHub knows it; `""` for any other name."""
    match = _HYDROSHARE_ID.fullmatch(name)
    return match[1] if match and name == _HYDROSHARE + match[1] else ""


def may_be_data_set(name: str) -> bool:
    """Whether a name may be a data set of a CKAN, which may run on any host and below any path. A Git repository may have such a
    name, too, on any host but those that are known to have repositories only."""
    host, *path = name.split("/")
    return "dataset" in path[:-1] and host not in _HOSTS.values()


def owner(name: str) -> str:
    """The owner of a repository: `host/owner`. For a DOI or a data set the owner is unknown, so it is its own owner."""
    parts = name.split("/")
    if len(parts) < 3 or is_doi(name) or name.startswith(_HYDROSHARE) or may_be_data_set(name):
        return name
    return "/".join(parts[:2])


_Launch = tuple[float, str, str]  # Unix time, server, repository
_Happened = tuple[str, str, float]  # user, server, Unix time


@dataclass
class _Detected:
    """A detection in one pod: the URL of its repository, or `""`, and the time; None if a line has no time."""

    url: str = ""
    times: set[float | None] = field(default_factory=set)


class Traffic:
    """All data that was read.

    Args:
        since: Unix time in seconds at which the period begins. Older lines only show since when an owner is known.
        until: Unix time in seconds at which it ends. Later lines do not count.

    Attributes:
        repositories: the repositories of the period, by name.
        first_seen: Unix time in seconds at which each owner was first seen.
        lines: the number of lines of each kind: `decision`, `archive`, `detection`, `other`, `broken`, `outside`.
        latest: the latest time of a line, 0 without one.
        untied: detections and revocations whose repository is not known.
        notes: sentences about the answers of Prometheus.
    """

    def __init__(self, since: float, until: float):
        self.since, self.until = since, until
        self.repositories: dict[str, Repository] = {}
        self.first_seen: dict[str, float] = {}
        self.lines: Counter[str] = Counter()
        self.latest = 0.0
        self.untied = 0
        self.notes: list[str] = []
        self._launches: dict[str, list[_Launch]] = {}  # by user
        self._pods: dict[str, str] = {}  # pod → user
        self._unlocked: set[_Happened] = set()
        self._revoked: set[_Happened] = set()
        self._detected: defaultdict[str, _Detected] = defaultdict(_Detected)  # by pod, or by URL if the pod is unknown

    def read(self, lines: Iterable[str]) -> None:
        """Read lines of JSON of any of these kinds. Other lines are counted, and are never an error.

        The object begins the line, as in a detector's report: a stranger's text may stand behind spaces (D-320).
        """
        for text in lines:
            if not text.strip():
                continue
            try:
                line, stamp = object_at_start(text)
            except Unreadable:
                self.lines["broken"] += 1
            else:
                self.lines[self._take(line, stamp)] += 1

    def settle(self) -> None:
        """Tie detections and revocations to repositories. Must be called once, after everything was read."""
        for pod, seen in self._detected.items():
            user = self.user_of(pod)
            self._tie({self._launched(user, at) or self._by_url(seen.url) for at in seen.times}, "detected", pod)
        revoked: defaultdict[str, set[str | None]] = defaultdict(set)
        for user, server, at in self._revoked:
            revoked[user].add(self._launched(user, at, server))
        for user, names in revoked.items():
            self._tie(names, "revoked", user)
        for user, server, at in self._unlocked:
            if name := self._launched(user, at, server):
                self._repository(name).without_pass.discard(user)

    def user_of(self, pod: str) -> str:
        """The user of a pod, from the reconciler's log or from KubeSpawner's naming of pods; `""` if unknown.

        The reconciler logs only pods that it changed. The names are `jupyter-<user>`, also with a hash appended, or with `-`
        written `-2d`.
        """
        bare = pod.removeprefix("jupyter-").partition("---")[0]
        candidates = (self._pods.get(pod, ""), bare, bare.replace("-2d", "-"))
        return next((user for user in candidates if user in self._launches), "")

    def count(self, url: str, launches: float) -> None:
        """Add the launches that Prometheus counted for a repository. It extrapolates, so less than half a launch is none."""
        if (name := _name(url)) and launches >= 0.5:
            self._repository(name).counted += launches

    def use(self, pod: str, seconds: float) -> bool:
        """Add the processor time of a pod in seconds. Returns whether the logs tie it to one repository and no other."""
        repository = self.repositories.get(self._launched(self.user_of(pod), None) or "")
        if repository:
            repository.seconds.append(seconds)
        return repository is not None

    # -- lines

    def _take(self, line: Content, stamp: str) -> str:
        """Process a line, and return its kind. `stamp` is the time that `kubectl logs` wrote before it, or `""`."""
        if line.get("schema") == LAUNCH_SCHEMA:
            kind = "archive"
        elif _text(line, "action") in DETECTIONS:
            kind = "detection"
        elif line.get("logger") == "binder-egress":
            kind = "decision"
        else:
            return "other"
        at = _time(_text(line, "time") or _text(line, "timestamp") or stamp)
        if kind == "detection":
            return self._detection(line, at) if at is None or self.since <= at <= self.until else "outside"
        if at is None:
            return "broken"
        self.latest = max(self.latest, at)
        if at > self.until:
            return "outside"
        name = _name(_archived_url(line) if kind == "archive" else _text(line, "repository")) or ""
        if name:
            whose = owner(name)
            self.first_seen[whose] = min(at, self.first_seen.get(whose, at))
        if at < self.since:
            return "outside"
        if kind == "archive":
            if not name:
                return "broken"
            self._repository(name).archived += 1
        else:
            self._decision(line, at, name)
        return kind

    def _decision(self, line: Content, at: float, name: str) -> None:
        event, user, server = _text(line, "message"), _text(line, "user"), _text(line, "server")
        if event == "launch" and name and user:
            repository = self._repository(name)
            new = user not in repository.servers  # BinderHub may report a launch twice.
            repository.servers.add(user)
            self._launches.setdefault(user, []).append((at, server, name))
            if new and (network := _text(line, "client_network")):
                repository.networks[network] += 1
            given = _text(line, "pass_outcome") in GIVEN or _text(line, "tier") != UNVERIFIED
            (repository.without_pass.discard if given else repository.without_pass.add)(user)
        elif event == "pod":
            self._pods[_text(line, "pod")] = user
        elif event == "unlock" and _text(line, "tier") != UNVERIFIED:
            self._unlocked.add((user, server, at))
        elif event == "revoke":
            by = read_origin(_text(line, "by"), _text(line, "by_kind"))
            if by.kind != "detector":  # a detection, which counts by itself
                self._revoked.add((user, server, at))

    def _detection(self, line: Content, at: float | None) -> str:
        pod = _text(line, "pod") or _text(kubelet_labels(line), "io.kubernetes.pod.name")
        container = container_in(line)
        places = [line, container, line.get("env"), container.get("env")]
        urls = (_text(place, "BINDER_REF_URL") for place in places if isinstance(place, dict))
        # minesweeper names no type. Docker's container has what the author of a build chose (D-373).
        url = next(filter(None, urls), "") if container.get("container_type", "cri") == "cri" else ""
        # Without the pod's name, all lines for a repository count as one detection.
        seen = self._detected[pod or url]
        seen.url = url or seen.url
        seen.times.add(at)
        return "detection"

    def _launched(self, user: str, at: float | None, server: str | None = None) -> str | None:
        """The repository of a user's last launch before a time. A user who logs in may have launched others before and after.

        Args:
            user: the user.
            at: Unix time in seconds; None: not known, in which case a repository counts only if it is the user's only one.
            server: the name of the user's server; None: not known.
        """
        launches = [(then, name) for then, its, name in self._launches.get(user, ()) if server is None or its == server]
        if at is None:
            names = {name for _, name in launches}
            return names.pop() if len(names) == 1 else None
        return max(((then, name) for then, name in launches if then <= at), default=(0.0, None))[1]

    def _repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository(name))

    def _tie(self, names: set[str | None], kind: str, what: str) -> None:
        known = [self.repositories[name] for name in names if name in self.repositories]
        for repository in known:
            getattr(repository, kind).add(what)
        self.untied += not known

    def _by_url(self, url: str) -> str | None:
        """The repository of a BINDER_REF_URL, in which the ref follows the repository."""
        name = _name(re.sub(r"/(-/)?tree/.*", "", url)) if url else None
        return name if name in self.repositories else name and name.rpartition("/")[0]  # a gist's ref has no word before it


def _text(line: Content, key: str) -> str:
    """A field that is a text; `""` if it is not. Invalid Unicode (a lone surrogate) becomes a question mark."""
    value = line.get(key)
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _time(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return at if at > 0 else None


def _archived_url(line: Content) -> str:
    """The URL of an event's repository, made from the provider and the specification in it as BinderHub does (`get_repo_url`)."""
    provider, spec = _text(line, "provider"), _text(line, "spec")
    if provider in ("GitHub", "Gist"):
        return f"https://{_HOSTS[provider]}/{'/'.join(spec.split('/')[:2])}" if "/" in spec else ""
    if provider == "GitLab":
        return f"https://{_HOSTS[provider]}/{unquote(spec.partition('/')[0])}"
    if provider == "Git":
        return unquote(spec.partition("/")[0])
    if provider == "Hydroshare":
        resource = _HYDROSHARE_ID.match(spec)
        return f"https://{_HYDROSHARE}{resource[1]}" if resource else ""
    return unquote(spec) if provider in ("CKAN", "Zenodo", "Figshare", "Dataverse") else ""


# -- Prometheus


def ask(traffic: Traffic, address: str) -> None:
    """Add what Prometheus knows about the period: launches, processor time, and processes that cryptnono killed.

    Processor time counts for pods whose server a log ties to a repository, so the lines must be read before. Anything that
    Prometheus does not answer is left out, and `Traffic.notes` says so.

    Args:
        traffic: where to add the results.
        address: Prometheus' address, perhaps with a user and a password, which are never printed.
    """
    span = f"[{max(1, round(traffic.until - traffic.since))}s]"
    try:
        launches = _query(
            address, f'sum by (repo) (increase(binderhub_launch_count_total{{status="success"}}{span}))', traffic.until
        )
        for labels, value in launches:
            traffic.count(_text(labels, "repo"), value)
        used = "max_over_time(container_cpu_usage_seconds_total"
        pods = _query(address, f'sum by (pod) ({used}{{pod=~"jupyter-.*",container!="",container!="POD"}}{span}))', traffic.until)
        tied = sum([traffic.use(_text(labels, "pod"), value) for labels, value in pods])
        kinds = '{__name__=~"cryptnono_.*_processes_killed_total"}'
        killed = sum(value for _, value in _query(address, f"sum(increase({kinds}{span}))", traffic.until))
    except (requests.RequestException, _NoAnswer) as error:
        reason = str(error) if isinstance(error, _NoAnswer) else type(error).__name__
        traffic.notes.append(f"Prometheus at {urlsplit(address).hostname} did not answer all queries: {reason}.")
        return
    told = f"Prometheus: {len(launches)} repositories; {tied} of {len(pods)} pods are tied to one"
    traffic.notes.append(f"{told}; cryptnono killed {killed:.0f} processes.")


class _NoAnswer(Exception):
    """Prometheus gave no usable answer."""


def _query(address: str, query: str, at: float) -> list[tuple[Content, float]]:
    answer = requests.get(f"{address.rstrip('/')}/api/v1/query", {"query": query, "time": str(at)}, timeout=TIMEOUT_SECONDS)
    try:
        rows = [(row["metric"], float(row["value"][1])) for row in answer.json()["data"]["result"]]
    except (ValueError, LookupError, TypeError) as error:
        raise _NoAnswer(f"HTTP {answer.status_code}") from error
    return [(labels, value) for labels, value in rows if isinstance(labels, dict) and math.isfinite(value) and value >= 0]


def by_owner(repositories: Iterable[Repository]) -> dict[str, list[Repository]]:
    """Repositories by their owner."""
    groups: defaultdict[str, list[Repository]] = defaultdict(list)
    for repository in repositories:
        groups[owner(repository.name)].append(repository)
    return dict(groups)
