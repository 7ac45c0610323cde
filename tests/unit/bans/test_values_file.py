"""Bans in a values file: existing content stays, and adding twice is the same as adding once."""

import subprocess

import pytest
import yaml

from binder_egress.bans.values_file import ProposalRefused, decoded, patch, with_bans

SPECS = {"GitHubRepoProvider": ["^eve/.*", "^mallory/a\\-b(?:\\.git)?(?:/.*)?$"], "GitRepoProvider": ["^[^/]*x"]}
OF_GIT = "binderhub.config.GitRepoProvider.banned_specs"
NETWORKS = {"198.51.100.0/24": "a label: with a colon"}

VALUES = """\
# The hub of the example.
binderhub:
  config:

    # banned_specs are below
    GitHubRepoProvider:
      high_quota_specs: []  # nobody
      banned_specs:
        # e.g. '^org/repo.*'
        - .*xmrig.*
        - ^eve/.*   # since 2026-08-01
        - "^drastria/ghost_project/.*"

    # any Git address
    GitRepoProvider: {}
    BinderHub:
      use_registry: true
      banner_message: |
        <a style="width:fit-content;padding:10px;background-color:#e66581;color:white;font-weight:bold;position:absolute;">
      about_message: 'single'
      per_repo_quota: 0x64  # in hex

# the hub
jupyterhub:
  hub: &hub
    image: {name: a,   tag: "1.0"}
  other: *hub
  token: !secret abc
"""

ADDED = [
    r"""
        - "^drastria/ghost_project/.*"
        - '^mallory/a\-b(?:\.git)?(?:/.*)?$'

    # any Git address
    GitRepoProvider:
      banned_specs:
        - '^[^/]*x'
    BinderHub:
""",
    """
      per_repo_quota: 0x64  # in hex
      ban_networks:
        '198.51.100.0/24': 'a label: with a colon'

# the hub
jupyterhub:
""",
]


def test_patch_adds_bans_and_changes_nothing_else():
    after = with_bans(VALUES, "binderhub.config", SPECS, NETWORKS)
    change = patch("values.yaml", VALUES, after)
    assert all(part in after for part in ADDED)
    gone = [line for line in change.splitlines() if line.startswith("-")]
    assert gone == ["--- a/values.yaml", "-    GitRepoProvider: {}", '-    image: {name: a,   tag: "1.0"}']
    assert with_bans(after, "binderhub.config", SPECS, NETWORKS) == after and patch("values.yaml", after, after) == ""
    assert with_bans("a:   {b: 1}   # odd\n", "config", {}, {}) == "a:   {b: 1}   # odd\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "binderhub:\n",
        "binderhub: {}\n",
        "binderhub:\n  config:\n    GitHubRepoProvider:\n      banned_specs:\n      - a\n",
        "binderhub:\n    config:\n        GitHubRepoProvider:\n            banned_specs: []\n",
        "binderhub: {config: {GitHubRepoProvider: {banned_specs: [a]}}}",
        "binderhub:\n  config:\n    BinderHub:\n      ban_networks:\n        192.0.2.0/24: x",
        "a: 1\r\nb:\r\n- 2\r\n",
    ],
)
def test_bans_are_added_whatever_is_there(text, tmp_path):
    after = with_bans(text, "binderhub.config", SPECS, NETWORKS)
    before, values = yaml.safe_load(text) or {}, yaml.safe_load(after)
    config = values["binderhub"]["config"]
    assert {provider: config[provider]["banned_specs"][-len(found) :] for provider, found in SPECS.items()} == SPECS
    assert config["BinderHub"]["ban_networks"].items() >= NETWORKS.items()
    assert before.keys() <= values.keys() and all(values[key] == before[key] for key in before if key != "binderhub")
    assert after.count("\r\n") in (0, after.count("\n"))
    assert with_bans(after, "binderhub.config", SPECS, NETWORKS) == after
    (tmp_path / "v.yaml").write_bytes(text.encode())
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch("v.yaml", text, after).encode(), check=True)
    assert (tmp_path / "v.yaml").read_bytes() == after.encode()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is no YAML, line 1."),
        ("a: 1\na: 2\n", "is no YAML, line 2."),
        ("a: 1\n---\nb: 2\n", "is no YAML, line 2."),
        ("a: \x00", "is no YAML."),
        ("- a\n", "has something else at its top: bans cannot be added."),
        ("binderhub: off\n", "has something else at binderhub: bans cannot be added."),
        ("binderhub: {config: {GitRepoProvider: {banned_specs: x}}}", f"has something else at {OF_GIT}: bans cannot be added."),
        ("a: ENC[x]\nsops: {mac: x}\n", "is encrypted by SOPS: a change by anything else would break its checksum."),
    ],
)
def test_file_that_cannot_be_changed_is_refused_with_a_sentence(text, sentence):
    with pytest.raises(ProposalRefused) as refused:
        with_bans(text, "binderhub.config", SPECS, NETWORKS)
    assert refused.value.format_message() == f"The values file {sentence}"


@pytest.mark.parametrize(("content", "word"), [(b"\0GITCRYPT\0\x13\xed", "git-crypt"), (b"a: \xff", "not UTF-8")])
def test_file_that_is_no_text_is_refused(content, word):
    with pytest.raises(ProposalRefused, match=word):
        decoded(content)
