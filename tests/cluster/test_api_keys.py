"""An API key from its creation to its end: the command in the reconciler's pod, the values, a pass, packets, and revocation."""

from collections.abc import Iterator

import pytest
import yaml

from tests.support.cluster.commands import keys
from tests.support.cluster.installing import ask
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import OPEN, Stage
from tests.support.cluster.timeouts import SECRET_SECONDS
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

REPOSITORY = "example.com/owner/repo"


@pytest.fixture
def key(stage: Stage, tmp_path) -> Iterator[tuple[str, str]]:
    """A key in the values, which the verifier has read without a restart, and the first pass for it."""
    before = pods(stage)
    made = keys(
        stage, "create", "--name=course", "--tier=verified", "--servers-per-day=4", "--expires=1d", f"--repository={REPOSITORY}"
    )
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(made["values"]))
    with stage.installed(f"--values={values}"):
        stage.hurry_kubelet("verifier")
        first = eventually(lambda: ask(stage, made["key"]).json().get("token"), SECRET_SECONDS, "the verifier has not read the key")
        assert pods(stage) == before
        yield made["key"], first


def pods(stage: Stage) -> set[str]:
    return {pod["metadata"]["uid"] for pod in stage.pods_of("verifier")}


def listed(stage):
    """The key in the list. Another may be in it: a verifier that ended within the last minute may have reported it."""
    (row,) = [row for row in keys(stage, "list") if row["name"] == "course"]
    return row


def test_key_from_its_creation_to_its_end(stage, key):
    # Launched with a pass for it, a server has egress; of another repository it has none.
    key, first = key
    passes = [first, *(ask(stage, key).json()["token"] for _ in range(3))]
    user = stage.launch(token=passes[0]).user
    stage.await_tier(user, "verified")
    assert_reaches(stage, user, egress=True)
    other = stage.launch("fake/somebody/else/main", token=passes[1]).user
    assert_reaches(stage, other, egress=False)

    # The key has used up its servers for the day.
    answer = ask(stage, key)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 3600
    row = listed(stage)
    assert (row["name"], row["state"], row["used"], row["servers_per_day"]) == ("course", "valid", 4, 4)

    # Revoked: the key gets no pass, and passes that were issued for it give nothing.
    done = keys(stage, "revoke", "course", "--servers", "--why", "a test")
    assert done["remove"] == ["apiKeys.keys.course"]
    answer = ask(stage, key)
    assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (403, "key-revoked")
    late = stage.launch(token=passes[2]).user
    assert_reaches(stage, late, egress=False)
    assert stage.unlock(late, token=passes[3]).status_code == 403
    stage.await_tier(user, None)
    assert_reaches(stage, user, egress=False, closing=OPEN)
    assert listed(stage)["state"] == "revoked"
