"""A made-up week of a hub: many small repositories, four that must never be proposed, a miner that must, and others."""

import json
import math
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.support.detections import killed

UNTIL = datetime(2026, 11, 26, tzinfo=UTC)
END = UNTIL.timestamp()
DAY = 86400.0
WEEK = 7 * DAY

INNOCENT = (
    "github.com/university/popular-course",
    "github.com/teacher/class",
    "github.com/conference/tutorial",
    "github.com/lab/ci",
)
SCRIPT, BY_HAND, FREE = "github.com/eve/fast-model", "github.com/mallory/notes", "github.com/oscar/desktop"


@dataclass
class Week:
    """Lines of the verifier's logs, of cryptnono, and of four weeks of mybinder's archive; and pod → processor time in seconds."""

    decisions: list[str] = field(default_factory=list)
    detections: list[str] = field(default_factory=list)
    archive: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def week(seed: int) -> Week:
    """A week from a seed. Shares and sizes are drawn from wide ranges each time."""
    draw = random.Random(seed)
    made = Week()
    numbers = iter(range(10**9))

    def network() -> str:
        return f"{draw.randrange(1, 224)}.{draw.randrange(256)}.{draw.randrange(256)}.0/24"

    def launch(repository, at, client, given, seconds, detected=0.0, revoked=0.0):
        user = f"{repository.rpartition('/')[2]}-{next(numbers):08x}"
        where = {"user": user, "server": ""}
        pod = f"jupyter-{user.replace('-', '-2d')}"
        outcome = {"tier": "verified", "pass_outcome": "free"} if given else {"tier": "unverified", "pass_outcome": "none"}
        made.decisions.append(
            decision(
                "launch", at, **where, repository=f"https://{repository}", client_network=client, rule="x", grant="", **outcome
            )
        )
        made.archive.append(archived(repository, at))
        made.seconds[pod] = seconds
        if draw.random() < detected:
            made.detections += [detection(pod, at + 60)] * draw.randint(1, 5)
        if draw.random() < revoked:
            made.decisions.append(decision("revoke", at + 90, **where, by="eve", why="x", stop=False, block="b"))

    def seconds(middle: float, spread: float = 0.8) -> float:
        return middle * math.exp(draw.gauss(0, spread))

    def some(repository, number, times, networks, given, used, **more):
        clients = [network() for _ in range(networks)]
        for _ in range(number):
            launch(repository, times(), draw.choice(clients), draw.random() < given, used(), **more)

    def any_time() -> float:
        return END - draw.random() * WEEK

    def within(hours: float):
        begin = END - DAY * draw.uniform(1, 6)
        return lambda: begin + draw.random() * hours * 3600

    usual = draw.uniform(0.5, 0.97)
    mistakes = draw.uniform(0.0, 0.03)
    for number in range(draw.randint(60, 150)):
        launches = 1 + int(draw.paretovariate(1.1))
        some(f"github.com/person{number}/work", min(launches, 200), any_time, max(1, round(launches * draw.uniform(0.4, 1))),
             min(1.0, max(0.0, draw.gauss(usual, 0.15))), lambda: seconds(draw.uniform(20, 120)), detected=mistakes)  # fmt: skip
        if draw.random() < 0.8:
            made.archive.append(archived(f"github.com/person{number}/work", END - draw.uniform(8, 28) * DAY))
    course, school, tutorial, ci = INNOCENT
    some(course, draw.randint(300, 1500), any_time, 400, draw.uniform(0.6, 1), lambda: seconds(150), detected=mistakes)
    made.archive += [archived(course, END - draw.uniform(8, 28) * DAY) for _ in range(50)]
    # A class behind one address; thebe pages bring no pass. It uses much processor time, and its teacher is new here.
    some(school, draw.randint(15, 120), within(2), 1, draw.choice([0.0, 0.5, 1.0]),
         lambda: seconds(draw.uniform(200, 2500)), detected=mistakes)  # fmt: skip
    some(tutorial, draw.randint(50, 300), within(6), draw.randint(1, 30), draw.uniform(0, 1),
         lambda: seconds(600), detected=mistakes)  # fmt: skip
    # A CI brings no pass, and runs everything.
    some(ci, draw.randint(30, 400), any_time, draw.randint(1, 10), 0.0,
         lambda: seconds(draw.uniform(300, 3000), 0.3), detected=mistakes)  # fmt: skip
    made.archive += [archived(ci, END - draw.uniform(8, 28) * DAY) for _ in range(50)]
    # Hours at the limit; some buy passes. Detectors see at least four of ten servers, operators none to half of them.
    some(SCRIPT, draw.randint(15, 400), within(draw.uniform(6, 100)), draw.randint(1, 40), draw.choice([0.0, 0.0, 0.5, 1.0]),
         lambda: seconds(15000, 0.3), detected=draw.uniform(0.4, 1), revoked=draw.uniform(0, 0.5))  # fmt: skip
    some(BY_HAND, draw.randint(1, 6), any_time, 1, 1.0, lambda: seconds(15000, 0.3), detected=draw.uniform(0.2, 0.9))
    some(FREE, draw.randint(5, 40), any_time, 2, 0.9,
         lambda: seconds(2000), detected=draw.uniform(0, 0.3), revoked=draw.uniform(0, 0.1))  # fmt: skip
    for lines in (made.decisions, made.detections, made.archive):
        draw.shuffle(lines)  # The logs of several pods come in any order.
    return made


def decision(event: str, at: float, **fields: object) -> str:
    """A line of our logs, as `binder_egress.logs` writes it."""
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "level": "info", "logger": "binder-egress", "message": event, **fields}, ensure_ascii=False)


def detection(pod: str, at: float) -> str:
    """A line of cryptnono's execwhacker."""
    return killed(pod, at=at, namespace="binder")


def archived(repository: str, at: float) -> str:
    """A line of mybinder's archive: a launch event, with its time cut to the minute."""
    time = datetime.fromtimestamp(at, UTC).replace(second=0, microsecond=0).isoformat()
    line = {"timestamp": time, "schema": "binderhub.jupyter.org/launch", "version": 6, "provider": "GitHub"}
    line |= {"spec": f"{repository.removeprefix('github.com/')}/HEAD", "status": "success", "origin": "hub.example.org"}
    return json.dumps(line | {"ref": "a" * 40, "build_token": False, "request_origin": "same-origin"})
