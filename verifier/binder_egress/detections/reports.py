"""Reports: what a detector says about one pod, read from the lines that detectors write.

| line | source | list | label |
|---|---|---|---|
| `"action": "killed"` with `matched` | `cryptnono` | `execwhacker` | the banned string |
| `"action": "killed"` with `banned-ip` or `addresses` | `cryptnono` | `flowkiller` | `banned-ip` or `scan` |
| `"action": "delete"` with `pod` | `minesweeper` | `minesweeper` | the words of its inspection, or the process |
| `rule` and `output_fields` | `falco` | the rule | the process |
| `pod`, `server` or `uid` | its `source` | its `list` | its `label` |

The formats of the first two are from cryptnono ff81fd9 (`scripts/execwhacker.py`, `flowkiller.py`), minesweeper's is from
mybinder.org-deploy 95860db (`mybinder/files/minesweeper/minesweeper.py`), Falco's from its documentation of `json_output`.
Strangers choose parts of all of them: command lines, names of executables, names of users.

Decisions: D-320, D-321, D-373.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from ..model.serialization import reader

MAX_LINE_CHARACTERS = 1 << 20
"""The longest line that is read. Detectors quote the command line, which may be long; the receiver accepts 1 MiB."""

MAX_LIST_CHARACTERS = 100
"""The longest name of a list that is kept."""

MAX_LABEL_CHARACTERS = 200
"""The longest label that is kept. It becomes the reason of a block, which is on the pod."""

MAX_NAME_CHARACTERS = 255
"""The longest name of a user or server that is accepted: the limit in JupyterHub's database."""

MAX_SENDER_CHARACTERS = 64
"""The longest address that is accepted. An IPv6 address has 45 characters at most, and a zone may follow."""

AGENT = "agent"
"""The source of our own agent's reports. It is recognised by its address instead of a token, and counts for pods on its own node
(D-335)."""

FUTURE_SECONDS = 60
"""Seconds by which the clock of a detector may be ahead."""

SOURCE = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""The name of a source, as in the values."""

_POD = re.compile(r"[a-z0-9][a-z0-9.-]{0,252}")  # Kubernetes' rule for names of pods, a little wider
_UID = re.compile(r"[A-Za-z0-9-]{1,64}")

_PREFIX = re.compile(r"(?:\[pod/\S{1,400}\] )?(?:(?P<at>\d{4}-\d\d-\d\dT\S{1,40}) )?(?=\{)")
"""What `kubectl logs --prefix --timestamps` writes before a line. Nothing else: minesweeper's log contains the logs of pods, each
line after spaces, and the files of a container runtime have long lines in pieces, which may begin anywhere (D-320)."""


Content = Mapping[str, object]
"""The object in a line. Strangers choose parts of it, so each value is looked at before it is used."""


class Unreadable(Exception):
    """A line that says nothing about a pod although it should. The text is one sentence for an operator."""


@dataclass(frozen=True)
class Report:
    """What a detector says about one pod.

    Attributes:
        source: the name of the detector in `detections.sources`.
        list_name: the detector's list, or rule, that matched; empty if it has none.
        label: the entry that matched; empty if it does not say.
        at: Unix time in seconds at which the match was seen.
        uid: the pod's uid; empty if the detector does not know it.
        pod: the pod's name; empty if the detector does not know it.
        namespace: the pod's namespace; empty if it does not say.
        user, server: the server, as JupyterHub names it; the user is empty if it does not say.
        sender: the address that an agent's report came from; empty for reports with a token.
    """

    source: str
    list_name: str
    label: str
    at: float
    uid: str = ""
    pod: str = ""
    namespace: str = ""
    user: str = ""
    server: str = ""
    sender: str = ""

    @property
    def reason(self) -> str:
        """List and label, as the reason of a block."""
        return ": ".join(filter(None, (self.list_name, self.label))) or "no reason given"

    @property
    def about(self) -> str:
        """The pod or the server that it names; empty if it names none."""
        return self.pod or (self.user and "/".join(filter(None, (self.user, self.server)))) or self.uid

    def dumps(self) -> str:
        """The report as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> "Report | None":
        """The report that JSON describes; None if it describes none, or one that `read` would not have made: an attacker who takes
        over the receiver may enter anything. Fields that a newer version added are left out."""
        report = _entered(text)
        return report if report and report.about and _time(report.at) and not _strange(report) else None


_entered = reader(Report)


def read(line: str, received: float) -> Report | None:
    """The report in one line.

    Args:
        line: the line, with or without the wrapping that log shippers add.
        received: Unix time in seconds at which it arrived.

    Returns:
        The report, or None for a detector's line that reports nothing.

    Raises:
        Unreadable: the line is broken, is of an unknown kind, names no pod, or does not say which of two pods with one name it
            means.
    """
    if len(line) > MAX_LINE_CHARACTERS:
        raise Unreadable(f"It is longer than {MAX_LINE_CHARACTERS} characters.")
    content, stamp = object_at_start(line)
    at = _time(stamp)
    kind = _kind(content)
    wrapped = content.get("log", content.get("message"))
    # Not if the object is itself a report: an alert may quote what a stranger wrote.
    if kind is None and isinstance(wrapped, str) and wrapped.startswith("{"):
        # Fluent Bit and Vector wrap a line and say when it was written.
        at = next(filter(None, (_time(content.get(name)) for name in ("timestamp", "@timestamp", "time", "date"))), at)
        content = _object(wrapped)
        kind = _kind(content)
    if kind:
        report = kind(content, at, received)
        return report and _checked(report, received)
    if "action" in content or "event" in content:
        return None  # cryptnono logs other things, too
    raise Unreadable("It is of no known kind.")


def object_at_start(line: str) -> tuple[Content, str]:
    """The JSON object that a line begins with, or that follows what `kubectl logs` writes before a line.

    Args:
        line: the line.

    Returns:
        The object, and the time that `kubectl logs --timestamps` wrote, or `""`.

    Raises:
        Unreadable: the line begins with something else, or is no JSON.
    """
    prefix = _PREFIX.match(line)
    if not prefix:
        raise Unreadable("It does not begin with a JSON object.")
    return _object(line[prefix.end() :]), prefix["at"] or ""


def _object(text: str) -> Content:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("It is not JSON.") from None
    assert isinstance(content, dict)  # it begins with a brace
    return content


def _checked(report: Report, received: float) -> Report:
    if not report.about:
        raise Unreadable("It names no pod.")
    if strange := _strange(report):
        raise Unreadable(f"Its {strange} is not well-formed.")
    if not report.uid and not report.at:
        # A log that is read again later must not hit a later pod with the same name (D-321).
        raise Unreadable("It has neither the pod's uid nor a time: use kubectl logs --timestamps.")
    if not report.uid and report.at > received + FUTURE_SECONDS:
        raise Unreadable("Its time is in the future.")
    return replace(report, at=report.at or received)


def _strange(report: Report) -> str:
    """The first field that is not well-formed, in words; empty if all are."""
    for text, form, what in (
        (report.pod, _POD, "pod"),
        (report.namespace, _POD, "namespace"),
        (report.uid, _UID, "uid"),
        (report.source, SOURCE, "source"),
    ):
        if text and not form.fullmatch(text):
            return what
    for texts, limit, what in (
        ((report.user, report.server), MAX_NAME_CHARACTERS, "server"),
        ((report.list_name,), MAX_LIST_CHARACTERS, "list"),
        ((report.label,), MAX_LABEL_CHARACTERS, "label"),
        ((report.sender,), MAX_SENDER_CHARACTERS, "sender"),
    ):
        if any(len(text) > limit or not text.isprintable() for text in texts):
            return what
    return ""


# -- the kinds


def container_in(line: Content) -> Content:
    """What a line says about a container: cryptnono's flowkiller in the field `container`, execwhacker in the line itself."""
    container = line.get("container")
    return container if isinstance(container, dict) else line


def kubelet_labels(line: Content) -> Content:
    """The labels that the kubelet gave to the container of a line.

    Args:
        line: the object in a line of cryptnono.

    Returns:
        The labels. Empty for Docker's container: its labels include the image's, which the author of a build chooses (D-373).
    """
    return _labels(line) if container_in(line).get("container_type") == "cri" else {}


def _labels(line: Content) -> Content:
    labels = container_in(line).get("labels")
    return labels if isinstance(labels, dict) else {}


def _killed(content: Content, at: float | None, received: float) -> Report | None:
    """cryptnono killed a process. It asks the container runtime about the process; the container's labels name the pod."""
    labels = kubelet_labels(content)
    if "io.kubernetes.pod.name" not in labels:
        if container_in(content).get("container_type") != "docker":
            raise Unreadable("cryptnono did not find the pod (it needs containerdHostPath).")
        if "io.kubernetes.pod.name" in _labels(content):
            raise Unreadable("Docker names the pod, and labels from Docker are not trusted.")
        return None  # about an image build
    if "matched" in content:
        list_name, label = "execwhacker", content["matched"]
    else:
        list_name, label = "flowkiller", "banned-ip" if "banned-ip" in content else "scan" if "addresses" in content else ""
    named = {name: _word(labels.get(f"io.kubernetes.pod.{name}")) for name in ("uid", "name", "namespace")}
    return _report(
        "cryptnono", list_name, label, _time(content.get("timestamp")) or at,
        uid=named["uid"], pod=named["name"], namespace=named["namespace"],
    )  # fmt: skip


def _deleted(content: Content, at: float | None, received: float) -> Report | None:
    """minesweeper deletes a pod for reasons that its inspection gives as texts or as true."""
    found = content.get("minesweeper")
    found = found if isinstance(found, dict) else {}
    listed = found.get("procs")
    processes = [process for process in (listed if isinstance(listed, list) else []) if isinstance(process, dict)]
    said = [about.get(word) for about in (found, *processes) for word in ("should_terminate", "suspicious")]
    names = [process.get("name") for process in processes]
    label = next((text for text in (*said, *names) if isinstance(text, str) and text), "")
    return _report("minesweeper", "minesweeper", label, at, pod=_word(content["pod"]))


def _by_falco(content: Content, at: float | None, received: float) -> Report | None:
    """An alert of Falco. Unknown values are null or `<NA>`."""
    fields = content["output_fields"]
    assert isinstance(fields, dict)  # or it is of no known kind
    told = {name: value for name, value in fields.items() if value not in (None, "", "<NA>")}
    if told.get("container.id") == "host" or str(content["rule"]).startswith("Falco internal:"):
        return None  # about the node, or about Falco, which tells of events that it missed
    if not ({"k8s.pod.name", "k8s.pod.uid"} & set(told)):
        raise Unreadable("The rule's output has neither k8s.pod.uid nor k8s.pod.name.")
    label = told.get("proc.exepath") or told.get("proc.name")
    return _report(
        "falco", content["rule"], label, _time(content.get("time")) or at,
        uid=_word(told.get("k8s.pod.uid")), pod=_word(told.get("k8s.pod.name")), namespace=_word(told.get("k8s.ns.name")),
    )  # fmt: skip


def _plain(content: Content, at: float | None, received: float) -> Report | None:
    """Our own kind. Without a time, it was seen just now."""
    source = _word(content.get("source", ""))
    if source and not SOURCE.fullmatch(source):
        raise Unreadable("Its source is not the name of a source.")
    if "time" in content and _time(content["time"]) is None:
        raise Unreadable("Its time is not one such as 2026-11-25T10:03:12Z.")
    named = _word(content.get("server", ""))
    user, _, server = named.partition("/")
    if named and not user:
        raise Unreadable("Its server is not user, or user/server: it begins with a slash.")
    return _report(
        source, content.get("list"), content.get("label"), _time(content.get("time")) or at or received,
        uid=_word(content.get("uid", "")), pod=_word(content.get("pod", "")), namespace=_word(content.get("namespace", "")),
        user=user, server=server,
    )  # fmt: skip


_Reader = Callable[[Content, float | None, float], Report | None]

_KINDS: tuple[tuple[Callable[[Content], bool], _Reader], ...] = (
    (lambda content: content.get("action") == "killed", _killed),
    (lambda content: content.get("action") == "delete" and "pod" in content, _deleted),
    (lambda content: "rule" in content and isinstance(content.get("output_fields"), dict), _by_falco),
    (lambda content: "action" not in content and bool({"pod", "server", "uid"} & set(content)), _plain),
)
"""How to recognise each kind, and the function that reads it. The first match counts."""


def _kind(content: Content) -> _Reader | None:
    return next((reader for is_kind, reader in _KINDS if is_kind(content)), None)


def _report(source: str, list_name: object, label: object, at: float | None, **named: str) -> Report:
    return Report(source, _text(list_name, MAX_LIST_CHARACTERS), _text(label, MAX_LABEL_CHARACTERS), at or 0.0, **named)


def _word(value: object) -> str:
    """A name. Anything that is not a text is refused."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable("One of its names is not a text.")
    return value


def _text(value: object, limit: int) -> str:
    """A text that people read, without what a terminal would act on."""
    text = value if isinstance(value, str) else ""
    return escaped(text[:limit])[:limit]


def escaped(text: str) -> str:
    r"""A text with its control characters and other unprintable ones escaped, as in `\x1b`."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _time(value: object) -> float | None:
    """Unix time in seconds, from an RFC 3339 text, taken as UTC if it names no zone, or from a number; None if it is neither."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e11
    return float(value) if is_time else None  # type: ignore[arg-type]
