"""The input of `egress propose-bans`: lines of several kinds, and Prometheus."""

import json

import pytest
import requests
import responses
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.bans.reading import Traffic, ask, owner
from tests.support.ban_traffic import DAY, END, archived, decision, detection

REPOSITORY = "github.com/someone/x"
HYDROSHARE = "8f7c2f0341ef4180b0dbe97f59130756"
AT = END - DAY


def traffic(*lines):
    found = Traffic(END - 7 * DAY, END)
    found.read(lines)
    found.settle()
    return found


def launch(user="u", at=AT, **fields):
    about = {"user": user, "server": "", "repository": f"https://{REPOSITORY}.git", "client_network": "198.51.100.0/24"}
    return decision("launch", at, **about | {"tier": "unverified", "rule": "default", "pass_outcome": "none"} | fields)


def test_launches_are_counted_by_repository():
    found = traffic(
        launch("a"), launch("a"), launch("b", tier="verified", pass_outcome="free"), launch("c", pass_outcome="expired")
    )
    one = found.repositories[REPOSITORY]
    assert (one.launches, one.without_pass, one.networks) == (3, {"a", "c"}, {"198.51.100.0/24": 3})


@pytest.mark.parametrize(
    ("provider", "spec", "name"),
    [
        ("GitHub", "Someone/X.git/feature/a", "github.com/someone/x"),
        ("Gist", "someone/0123abcd/HEAD", "gist.github.com/someone/0123abcd"),
        ("GitLab", "group%2Fsub%2Fproject/HEAD", "gitlab.com/group/sub/project"),
        ("Git", "https%3A%2F%2Fcodeberg.org%2Fsomeone%2Fx/HEAD", "codeberg.org/someone/x"),
        ("Git", "git%40codeberg.org%3Asomeone%2Fx/HEAD", "codeberg.org/someone/x"),
        ("Zenodo", "10.5281/zenodo.3242074", "10.5281/zenodo.3242074"),
        ("Dataverse", "10.7910/DVN/7RVV9N", "10.7910/dvn/7rvv9n"),
        ("Hydroshare", HYDROSHARE, f"hydroshare.org/resource/{HYDROSHARE}"),
        ("Hydroshare", f"https%3A%2F%2Fwww.hydroshare.org%2Fresource%2F{HYDROSHARE}%2F", f"hydroshare.org/resource/{HYDROSHARE}"),
        ("CKAN", "https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fsample", "demo.ckan.org/dataset/sample"),
    ],
)
def test_archive_names_repositories_as_the_logs_do(provider, spec, name):
    line = json.loads(archived(REPOSITORY, AT)) | {"provider": provider, "spec": spec}
    assert list(traffic(json.dumps(line)).repositories) == [name]


def test_sources_that_see_the_same_launches_are_not_added_up():
    found = traffic(launch("a"), launch("b"), archived(REPOSITORY, AT), archived(REPOSITORY, AT), archived(REPOSITORY, AT))
    assert found.repositories[REPOSITORY].launches == 3


MINESWEEPER = {"action": "delete", "pod": "jupyter-b", "env": {"BINDER_REF_URL": f"https://{REPOSITORY}/tree/{'a' * 40}"}}
CONTAINER = {"container_type": "cri", "labels": {"io.kubernetes.pod.name": "jupyter-someone-2dx-2dk3"}}
FLOWKILLER = {"action": "killed", "pid": 7, "container": CONTAINER}
CHOSEN = {"io.kubernetes.pod.name": "jupyter-someone-2dx-2dk3", "container_type": "cri", **MINESWEEPER["env"]}
IN_DOCKER = {"container_type": "docker", "labels": CHOSEN, "env": CHOSEN}  # LABEL and ENV of a Dockerfile
BUILD = {"action": "killed", "pid": 7, "matched": "xmrig", **IN_DOCKER}


@pytest.mark.parametrize(
    ("line", "pods"),
    [
        (detection("jupyter-someone-2dx-2dk3", AT), {"jupyter-someone-2dx-2dk3"}),
        (detection("jupyter-someone-x-k3---1a2b3c4d", AT), {"jupyter-someone-x-k3---1a2b3c4d"}),
        (detection("renamed", AT), {"renamed"}),
        (json.dumps(FLOWKILLER), {"jupyter-someone-2dx-2dk3"}),
        (json.dumps(BUILD), set()),
        (json.dumps(FLOWKILLER | {"container": IN_DOCKER}), set()),
        (json.dumps({"action": "killed", "container_type": "cri", "labels": MINESWEEPER["env"]}), set()),
        (json.dumps(MINESWEEPER), {"jupyter-b"}),
        ("[pod/minesweeper-x7/minesweeper] 2026-11-25T00:00:00.5Z " + json.dumps(MINESWEEPER), {"jupyter-b"}),
        ("2026-01-25T00:00:00.5Z " + json.dumps(MINESWEEPER), set()),
        (detection("jupyter-of-nobody", AT), set()),
        (detection("jupyter-someone-2dx-2dk3", AT - 9 * DAY), set()),
    ],
)
def test_detections_are_tied_to_repositories(line, pods):
    """By the pod's name, the reconciler's log, or the detector's address of the pod, with the lines in any order."""
    pod = decision("pod", AT, user="someone-x-k3", server="", pod="renamed", tier="verified", rule="valid-pass", grant="g")
    found = traffic(line, line, pod, launch("someone-x-k3"))
    assert found.repositories[REPOSITORY].detected == pods
    assert found.untied == (not pods and found.lines["outside"] == 0)


def test_ref_of_a_gist_is_no_part_of_its_name():
    line = json.dumps({"action": "delete", "pod": "p", "env": {"BINDER_REF_URL": "https://gist.github.com/a/b/" + "c" * 40}})
    assert traffic(launch(repository="https://gist.github.com/a/b.git"), line).repositories["gist.github.com/a/b"].detected == {"p"}


def test_revocations_by_operators_are_tied_to_repositories():
    """The reconciler writes the same line for a detector. Earlier versions wrote no kind."""
    lines = [revoke(AT, "a"), revoke(AT, "a"), revoke(AT, "b", by="detector cryptnono"), revoke(AT, "c", by="detective")]
    lines += [revoke(AT, kind, by="detector agent", by_kind=kind) for kind in ("operator", "detector")]
    found = traffic(*lines, *map(launch, ("a", "b", "c", "d", "operator", "detector")))
    assert (found.repositories[REPOSITORY].revoked, found.untied) == ({"a", "c", "operator"}, 0)


COURSE = "github.com/org/course"


def revoke(at, user="a", server="", by="eve", **fields):
    return decision("revoke", at, user=user, server=server, by=by, why="x", stop=False, block="b", **fields)


def seen(*lines):
    return {name: (one.revoked, one.detected) for name, one in traffic(*lines).repositories.items()}


@pytest.mark.parametrize("order", [1, -1])
def test_event_is_tied_to_the_launch_before_it(order):
    """A user who logs in launches several repositories. The lines come in any order."""
    course = launch("a", AT + 100, repository=f"https://{COURSE}")
    lines = [launch("a"), detection("jupyter-a", AT + 50), revoke(AT + 60), course]
    assert seen(*lines[::order]) == {REPOSITORY: ({"a"}, {"jupyter-a"}), COURSE: (set(), set())}
    again = [*lines, detection("jupyter-a", AT + 150), revoke(AT + 160)]
    assert seen(*again[::order]) == {REPOSITORY: ({"a"}, {"jupyter-a"}), COURSE: ({"a"}, {"jupyter-a"})}


def test_event_before_the_first_launch_is_tied_to_nothing():
    found = traffic(revoke(AT - 60), detection("jupyter-a", AT - 60), launch("a"))
    assert (found.repositories[REPOSITORY].revoked, found.repositories[REPOSITORY].detected, found.untied) == (set(), set(), 2)


def test_revocation_is_tied_to_the_launch_of_its_server():
    lines = [launch("a", server="one"), launch("a", AT + 100, server="two", repository=f"https://{COURSE}")]
    assert seen(*lines, revoke(AT + 160, server="one")) == {REPOSITORY: ({"a"}, set()), COURSE: (set(), set())}


def test_unlocked_server_counts_for_the_launch_before_it():
    course = f"https://{COURSE}"
    lines = [launch("a"), launch("a", AT + 100, repository=course), launch("b", AT + 100, repository=course)]
    unlock = decision("unlock", AT + 160, user="a", server="", tier="verified", rule="unlock")
    refused = decision("unlock", AT + 160, user="b", server="", tier="unverified", rule="blocked")
    found = traffic(*lines, unlock, refused).repositories
    assert (found[REPOSITORY].without_pass, found[COURSE].without_pass) == ({"a"}, {"b"})


def test_processor_time_of_several_repositories_is_tied_to_none():
    found = traffic(launch("a"), launch("b"), launch("a", AT + 100, repository=f"https://{COURSE}"))
    assert [found.use(pod, 5.0) for pod in ("jupyter-a", "jupyter-b")] == [False, True]
    assert (found.repositories[REPOSITORY].seconds, found.repositories[COURSE].seconds) == ([5.0], [])


def test_owner_is_known_since_before_the_period():
    found = traffic(launch("a"), archived("github.com/someone/other", AT - 20 * DAY))
    assert found.first_seen == {"github.com/someone": pytest.approx(AT - 20 * DAY, abs=60)}
    assert list(found.repositories) == [REPOSITORY]


DATA_SETS = ("10.7910/dvn/7rvv9n", f"hydroshare.org/resource/{HYDROSHARE}", "hydroshare.org/resource/no-id",
             "demo.ckan.org/dataset/sample", "data.example.org/en/dataset/sample", "x.org/y")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        *((name, name) for name in DATA_SETS),
        ("10.evil.example/eve/miner", "10.evil.example/eve"),
        ("10.0.0.1/eve/miner", "10.0.0.1/eve"),
        ("gitlab.com/eve/dataset/miner", "gitlab.com/eve"),
        ("github.com/dataset/miner", "github.com/dataset"),
        ("hydroshare.org/eve/miner", "hydroshare.org/eve"),
    ],
)
def test_data_sets_have_no_owner_and_a_name_like_theirs_does_not_hide_one(name, whose):
    assert owner(name) == whose


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{", "broken"),
        ("[" * 100_000, "broken"),
        ("9" * 5000, "broken"),
        ("[]", "broken"),
        ('{"message": "launch"}', "other"),
        ('{"name": "events-2026-08-01.jsonl", "date": "2026-08-01", "count": 3}', "other"),
        (launch(at=END + DAY), "outside"),
        (launch(at=END - 8 * DAY), "outside"),
        ('{"logger": "binder-egress", "message": "launch", "time": "yesterday"}', "broken"),
        ('{"logger": "binder-egress", "message": "launch", "time": "0001-01-01T00:00:00+14:00"}', "broken"),
        (
            '{"schema": "binderhub.jupyter.org/launch", "timestamp": "2026-11-25T00:00:00", "provider": ["GitHub"], "spec": 1}',
            "broken",
        ),
    ],
)
def test_line_that_does_not_count_is_counted(line, kind):
    found = traffic(line)
    assert found.lines == {kind: 1} and found.repositories == {}


@pytest.mark.parametrize("line", [launch(), revoke(AT), archived(REPOSITORY, AT), json.dumps(MINESWEEPER)])
@pytest.mark.parametrize("before", ["    ", "2026-11-25T00:00:00.5Z     ", "[pod/minesweeper-x7/minesweeper]     ", "err! "])
def test_line_behind_anything_but_what_kubectl_writes_does_not_count(line, before):
    """minesweeper prints the logs of pods into its own, behind four spaces."""
    assert traffic(line).lines["broken"] == 0
    found = traffic(before + line)
    assert (found.lines, found.repositories, found.untied) == ({"broken": 1}, {}, 0)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["labels", "env", "pod", "BINDER_REF_URL"]) | st.text(), inner),
    max_leaves=5,
)
KEYS = [
    *("time", "timestamp", "schema", "provider", "spec", "logger", "message"),
    *("user", "repository", "client_network", "pod", "action"),
]
VALUES = ["binder-egress", "launch", "2026-11-25T00:00:00Z", "binderhub.jupyter.org/launch", "GitHub", "killed", "\ud800", "a/b/c"]


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), ANYTHING | st.sampled_from(VALUES)), max_size=4))
def test_no_line_is_an_error(lines):
    assert traffic(*map(json.dumps, lines)).lines.total() == len(lines)


# -- Prometheus

ADDRESS = "https://reader:secret@prometheus.example.org/base/"
API = f"{ADDRESS}api/v1/query"


def vector(*rows):
    result = [{"metric": labels, "value": [END, value]} for labels, value in rows]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


@responses.activate
def test_prometheus_adds_launches_and_processor_time():
    responses.get(API, json=vector(({"repo": f"https://{REPOSITORY}"}, "41.7"), ({}, "3"), ({"repo": "x"}, "NaN")))
    responses.get(API, json=vector(({"pod": "jupyter-a"}, "120.5"), ({"pod": "jupyter-b"}, "7"), ({"pod": 7}, "+Inf")))
    responses.get(API, json=vector(({}, "12.2")))
    found = Traffic(END - 7 * DAY, END)
    found.read([launch("a")])
    ask(found, ADDRESS)
    one = found.repositories[REPOSITORY]
    assert (one.launches, one.seconds) == (42, [120.5])
    assert found.notes == ["Prometheus: 2 repositories; 1 of 2 pods are tied to one; cryptnono killed 12 processes."]
    assert responses.calls[0].request.headers["Authorization"].startswith("Basic ")
    queries = [call.request.params["query"] for call in responses.calls]
    assert all("[604800s]" in query for query in queries) and "binderhub_launch_count_total" in queries[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"status": 503, "body": "x"}, "HTTP 503"),
        ({"status": 400, "json": {"status": "error", "error": "parse"}}, "HTTP 400"),
        ({"json": []}, "HTTP 200"),
        ({"json": vector(({}, None))}, "HTTP 200"),
        ({"body": requests.ConnectionError("secret")}, "ConnectionError"),
    ],
)
@responses.activate
def test_prometheus_that_fails_is_left_out_and_said(answer, reason):
    responses.get(API, **answer)
    found = Traffic(END - 7 * DAY, END)
    ask(found, ADDRESS)
    assert found.notes == [f"Prometheus at prometheus.example.org did not answer all queries: {reason}."]
