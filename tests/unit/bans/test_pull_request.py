"""A pull request with bans: there is one, in a private repository, and it is updated, not doubled."""

import pytest
import requests
import responses
from click import UsageError

from binder_egress.bans.pull_request import BRANCH, TITLE, propose
from binder_egress.bans.values_file import ProposalRefused
from tests.support.doubles.forge import ANY, API, NAME, Forge

VALUES = b"# ours\nconfig:\n  GitHubRepoProvider:\n    banned_specs:\n      - ^old/.*\n"


@pytest.fixture(autouse=True)
def edge(monkeypatch):
    """Only the forge answers, and nothing waits between requests."""
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("GITHUB_API_URL", API)
    monkeypatch.setattr("github.Requester.Requester._Requester__deferRequest", lambda *_: None)
    with responses.mock:
        yield


def run(*patterns, path="values/config.yaml", body="why"):
    return propose(NAME, path, "config", {"GitHubRepoProvider": list(patterns)}, {}, body)


def test_pull_request_is_opened_and_replaced_and_a_closed_one_followed_by_another():
    forge = Forge(VALUES)
    assert run("^old/.*") == "Nothing is missing in values/config.yaml; no pull request is needed."
    assert forge.writes == []
    assert run("^eve/.*") == "Pull request 1 is opened."
    assert forge.file(BRANCH) == VALUES + b"      - '^eve/.*'\n" and forge.file("main") == VALUES
    (request,) = forge.pulls
    assert (request["title"], request["body"], request["head"], request["base"]) == (TITLE, "why", {"ref": BRANCH}, {"ref": "main"})
    assert forge.commits[forge.branches[BRANCH]]["parents"] == ["c0"]
    done, forge.writes = forge.writes, []
    assert done and run("^eve/.*") == "Pull request 1 is up to date."
    assert forge.writes == [("POST", "/git/trees")]  # An object without references: only the forge knows its id.
    assert run("^mallory/.*", body="another") == "Pull request 1 is brought up to date."
    assert forge.file(BRANCH) == VALUES + b"      - '^mallory/.*'\n"
    assert [(one["number"], one["body"]) for one in forge.pulls] == [(1, "another")]
    assert not forge.moved_empty  # The forge would close it.
    forge.pulls[0]["state"] = "closed"
    assert run("^eve/.*") == "Pull request 2 is opened."


@pytest.mark.parametrize("content", [b"# more\n" + VALUES, VALUES], ids=["the same file", "another file"])
def test_branch_follows_the_default_branch(content):
    forge = Forge(VALUES)
    run("^eve/.*")
    forge.trees["t1"] = content
    forge.commits["c1"] = {"tree": "t1", "parents": ["c0"]}
    forge.branches["main"] = "c1"
    run("^eve/.*")
    assert forge.file(BRANCH).startswith(content) and forge.commits[forge.branches[BRANCH]]["parents"] == ["c1"]
    assert len(forge.pulls) == 1


@pytest.mark.parametrize("private", [False, None])
def test_public_repository_is_refused_before_anything_is_written(private):
    forge = Forge(VALUES, private=private)
    with pytest.raises(ProposalRefused, match="hub/secrets is public"):
        run("^eve/.*")
    assert forge.writes == [] and len(responses.calls) == 1


@pytest.mark.parametrize(
    ("content", "path", "sentence"),
    [
        (b"config: [", "values/config.yaml", "no YAML"),
        (VALUES, "values", "not a file"),
        (VALUES, "values/other.yaml", "404 'Not Found'"),
    ],
)
def test_file_that_cannot_be_changed_is_refused(content, path, sentence):
    forge = Forge(content)
    with pytest.raises(ProposalRefused, match=sentence):
        run("^eve/.*", path=path)
    assert forge.writes == []


@pytest.mark.parametrize(("status", "message"), [(401, "Bad credentials"), (403, "no \x1b[31m"), (422, "x"), (451, "x")])
def test_refusal_of_the_forge_is_a_sentence(status, message):
    responses.get(ANY, status=status, json={"message": message})
    with pytest.raises(ProposalRefused) as refused:
        run("^eve/.*")
    assert refused.value.format_message() == f"The forge refused hub/secrets: {status} {message!a}."


def test_forge_that_says_something_else_is_a_sentence():
    Forge(VALUES, private="yes")
    with pytest.raises(ProposalRefused, match="something else than GitHub does"):
        run("^eve/.*")


def test_forge_that_does_not_answer_is_a_sentence():
    responses.get(ANY, body=requests.ConnectionError("secret"))
    with pytest.raises(ProposalRefused, match=r"^The forge does not answer: ConnectionError\.$"):
        run("^eve/.*")


def test_token_comes_from_the_environment_only(monkeypatch):
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(UsageError, match="GITHUB_TOKEN"):
        run("^eve/.*")
