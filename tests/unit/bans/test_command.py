"""The command on the command line: its output, its exit codes, and the examples of docs/bans.md."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import responses
import yaml

from binder_egress.commands.egress import egress
from tests.support import TOP
from tests.support import ban_traffic as made
from tests.support.doc_examples import section
from tests.support.doubles.forge import API, NAME, Forge

UNTIL = ("--until", "2026-11-26")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a week: decisions with detections among them, and the archive."""
    week, folder = made.week(4), tmp_path_factory.mktemp("week")
    (folder / "decisions.log").write_text("\n".join([*week.decisions, *week.detections, "not JSON", ""]))
    (folder / "archive.jsonl").write_text("\n".join(week.archive))
    return [str(folder / "decisions.log"), str(folder / "archive.jsonl")]


@pytest.fixture
def run(monkeypatch):
    """Run the command without a Redis. Returns exit code, standard output and standard error."""
    from click.testing import CliRunner

    monkeypatch.delenv("PROMETHEUS_URL", raising=False)

    def run(*arguments, **more):
        done = CliRunner().invoke(egress, ["propose-bans", *arguments], **more)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


def test_text_says_what_stands_out_and_what_was_left_out(run, files):
    code, out, _ = run(*files, *UNTIL)
    assert code == 0 and "1 that cannot be read." in out and "Left out: processor time: " in out
    first = next(line for line in out.splitlines() if "launches)" in line)
    assert re.fullmatch(rf"\*  \d\d\.\d  {re.escape(made.SCRIPT)}  \(\d+ launches\)", first)
    assert "Nobody is banned by this." in out
    values = yaml.safe_load(re.search(r"^config:\n(?: .*\n)+", out, re.M)[0])
    assert values["config"]["GitHubRepoProvider"]["banned_specs"] == [r"^eve/.*"]
    assert re.search(r"^egress block --why 'propose-bans: score [\d.]+' -- repository 'github.com/eve/\*'$", out, re.M)


def test_json_has_everything_from_files_or_a_pipe(run, files):
    out = run(*files, *UNTIL, "--json")[1]
    assert run("-", *UNTIL, "--json", input="".join(Path(file).read_text() + "\n" for file in files))[1] == out
    found = json.loads(out)
    first = found["repositories"][0]
    assert (first["repository"], first["proposed"]) == (made.SCRIPT, True)
    assert first["parts"]["detections"]["points"] > 40 and "processor time" in found["left_out"]
    assert set(found["banned_specs"]) == {"GitHubRepoProvider", "GitRepoProvider"} and len(found["egress_block"]) == 1


def test_excepted_repository_is_in_no_ban_of_its_owner(run, files, tmp_path):
    course = made.SCRIPT.replace("fast-", "slow-")
    # Names of users and pods begin with the repository's.
    (tmp_path / "more.log").write_text(Path(files[0]).read_text().replace("fast-", "slow-"))
    more = (*files, str(tmp_path / "more.log"), *UNTIL, "--json")
    assert json.loads(run(*more)[1])["banned_specs"]["GitHubRepoProvider"] == ["^eve/.*"]
    found = json.loads(run(*more, "--except", course)[1])
    (pattern,) = found["banned_specs"]["GitHubRepoProvider"]
    assert re.match(pattern, made.SCRIPT.partition("/")[2]) and not re.match(pattern, course.partition("/")[2])
    assert found["egress_block"][0].endswith(f"-- repository {made.SCRIPT}")
    assert course not in {row["repository"] for row in found["repositories"]}


def test_alert_is_one_line_that_an_alerter_matches(run, files):
    """The same as mybinder's alerter: a regular expression for the line, and fields of its JSON."""
    (rule,) = yaml.safe_load(section("docs/bans.md", "An alert", "yaml")[0])["k8s-log-alerter-zulip"]["rules"].values()
    _, out, _ = run(*files, *UNTIL, "--alert")
    assert out.count("\n") == 1 and re.search(rule["regex"], out)
    assert json.loads(out) == {"action": "ban-proposed", "number": 1, "names": ["github.com/eve"]}
    assert set(rule["json_grouping_fields"]) <= json.loads(out).keys()
    assert run(*files, *UNTIL, "--alert", "--except", "github.com/eve/*") == (0, "", "")


def test_patch_is_for_git_apply(run, files, tmp_path):
    (tmp_path / "values.yaml").write_text("# ours\nbinderhub:\n  config: {}\n")
    code, out, _ = run(*files, *UNTIL, "--values", str(tmp_path / "values.yaml"), "--at", "binderhub.config")
    subprocess.run(["git", "apply", "-p1", "--unsafe-paths", "--directory=/", "-"], input=out, text=True, check=True, cwd=tmp_path)
    text = (tmp_path / "values.yaml").read_text()
    assert code == 0 and text.startswith("# ours\n") and "'^eve/.*'" in text


@responses.activate
def test_pull_request_has_the_reasons(run, files, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("GITHUB_API_URL", API)
    monkeypatch.setattr("github.Requester.Requester._Requester__deferRequest", lambda *_: None)
    forge = Forge(b"config: {}\n")
    code, out, _ = run(*files, *UNTIL, "--values", forge.path, "--pull-request", NAME)
    assert (code, out) == (0, "Pull request 1 is opened.\n")
    assert f"| `{made.SCRIPT}` |" in forge.pulls[0]["body"] and b"'^eve/.*'" in forge.file("propose-bans")
    forge.private = False
    assert run(*files, *UNTIL, "--values", forge.path, "--pull-request", NAME)[0] == 4
    quiet = run(*files, *UNTIL, "--values", forge.path, "--pull-request", NAME, "--except", "github.com/eve/*")
    assert quiet == (0, "There is nothing to propose.\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "There is nothing to read"),
        (("-", "--json", "--alert"), "Choose one of"),
        (("-", "--pull-request", "a/b"), "needs --values"),
        (("-", "--values", "missing.yaml"), "missing.yaml: No such file or directory"),
        (("--prometheus", "http://["), "http://"),
        (("--prometheus", "prometheus:9090"), "http://"),
        (("-", "--except", "x" * 3000), "host/owner/name"),
        (("-", "--except", "owner/name"), "host/owner/name"),
        (("-", "--except", "github.com/owner"), "host/owner/name"),
    ],
)
def test_wrong_usage_is_a_sentence(run, arguments, sentence):
    code, out, error = run(*arguments, input="")
    assert (code, out) == (2, "") and sentence in error


def test_text_that_is_no_unicode_is_no_fault(run):
    assert "1 that cannot be read." in run("-", input=b"\xff\xfe\x00{")[1]
    line = made.decision("launch", made.END - 1, user="u", repository="https://x.org/a/\N{SNOWMAN}", tier="unverified")
    piped = line.replace("\N{SNOWMAN}", "\\ud800")
    assert "x.org/a" in run("-", *UNTIL, input=piped)[1] and json.loads(run("-", *UNTIL, "--json", input=piped)[1])["repositories"]
    assert "The latest line is of 2026-11-25" in run("-", "--until", "2027-06-01", input=piped)[1]


def test_image_has_no_part_of_the_extra():
    assert "verifier/binder_egress/bans" in (TOP / ".dockerignore").read_text().splitlines()
    lock = (TOP / "requirements/verifier.lock").read_text().lower()
    assert not re.search(r"^(pygithub|ruamel)", lock, re.M)
    assert re.search(r"^pygithub==", (TOP / "requirements/bans.lock").read_text(), re.M)
