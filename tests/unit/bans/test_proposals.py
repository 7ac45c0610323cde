"""The bans in each spelling: BinderHub matches with them the repositories to ban and no others, and a name is only a name."""

import re
import shlex
import string
from dataclasses import replace
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.bans.command import Report
from binder_egress.bans.proposals import NETWORK_LABEL, NETWORK_PREFIXES, Ban, ban_networks, bans, shown
from binder_egress.bans.reading import Repository, Traffic
from binder_egress.bans.score import MIN_LAUNCHES, Part, Score
from binder_egress.bans.values_file import with_bans
from binder_egress.model import repositories
from binder_egress.settings import VerifierSettings


def scored(name, points=90.0, launches=20, networks=()):
    repository = Repository(name, {f"u{number}" for number in range(launches)})
    repository.networks.update(dict(networks))
    return Score(repository, {"detections": Part(points, f"{launches} of {launches} servers")})


def is_banned(spec, banned_specs):
    """`RepoProvider.is_banned` of BinderHub (binderhub/repoproviders.py), without `allowed_specs`."""
    return any(re.match(banned, spec, re.IGNORECASE) for banned in banned_specs)


def specs(name, whole=False):
    (ban,) = [Ban(name, whole, (scored(name),))]
    return ban.specs


GITHUB, GIT, GITLAB, GIST = "GitHubRepoProvider", "GitRepoProvider", "GitLabRepoProvider", "GistRepoProvider"


HYDROSHARE = "8f7c2f0341ef4180b0dbe97f59130756"


def url(text):
    return quote(text, safe="")


def git(*addresses):
    """The specs of Git addresses, in a browser's spelling."""
    return [f"{url(address)}/x" for address in addresses]


EVES = [f"{prefix}eve/a{end}" for prefix in ("https://github.com/", "ssh://git@github.com/", "git@github.com:",
        "https://www.github.com:443//") for end in ("", ".git", "/")]  # fmt: skip
NOT_EVES = [f"https://{name}" for name in ("github.com/eve/ab", "nogithub.com/eve/a", "good.org/eve/a", "github.com/9eve/a")]
DATA_SET = "https://demo.ckan.org/dataset/sample"


@pytest.mark.parametrize(
    ("name", "whole", "provider", "yes", "no"),
    [
        ("github.com/eve.x/a-b", False, GITHUB, ["eve.x/a-b/HEAD", "Eve.X/A-B/feature/x", "eve.x/a-b.git/HEAD"],
         ["eve.x/a-bc/HEAD", "evenx/a-b/HEAD", "eve.x/a/HEAD", "good/eve.x/a-b", "good/x/eve.x/a-b/HEAD"]),
        ("github.com/eve", True, GITHUB, ["eve/a/HEAD", "EVE/b/x"], ["evelyn/a/HEAD", "good/eve/HEAD", "steve/a/HEAD"]),
        ("github.com/eve/a", False, GIT, git(*EVES),
         [*git(*NOT_EVES), f"{url('https://good.org/a/b')}/{url('https://github.com/eve/a')}"]),
        ("codeberg.org/eve", True, GIT, git("https://codeberg.org/Eve/any"), git("https://codeberg.org/evelyn/a")),
        ("gitlab.com/eve", True, GITLAB, ["eve%2Fa/HEAD", "eve%2fsub%2Fa/HEAD"],
         ["evelyn%2Fa/HEAD", "good%2Feve%2Fa/HEAD", "a/eve%2F"]),
        ("gitlab.com/group/sub/a", False, GITLAB, ["group%2Fsub%2Fa/HEAD", "Group%2Fsub%2Fa.git/x"], ["group%2Fsub%2Fab/HEAD"]),
        ("gist.github.com/eve/0a", False, GIST, ["eve/0a", "eve/0a/HEAD", "eve/0a.git"], ["eve/0ab", "good/0a"]),
        ("10.5281/zenodo.32", False, "ZenodoProvider", ["10.5281/zenodo.32", "10.5281%2FZENODO.32"],
         ["10.5281/zenodo.321", "10x5281/zenodo.32"]),
        ("10.7910/dvn/7r", False, "DataverseProvider", ["10.7910/DVN/7R"], ["10.7910/DVN/7RX", "10.7910/DVN"]),
        (f"hydroshare.org/resource/{HYDROSHARE}", False, "HydroshareProvider",
         [HYDROSHARE, url(f"https://www.hydroshare.org/resource/{HYDROSHARE}/")],
         [HYDROSHARE.replace("7", "8"), "7" + HYDROSHARE[1:]]),
        ("demo.ckan.org/dataset/sample", False, "CKANProvider", [url(DATA_SET), f"{url(DATA_SET)}%2F{url('activity_id=1')}"],
         [url(f"{DATA_SET}2"), url("https://good.org/dataset/sample")]),
        ("data.example.org/en/dataset/sample", False, "CKANProvider", [url("https://data.example.org/en/dataset/sample")],
         [url("https://data.example.org/en/dataset/other")]),
        ("git.example.org/dataset/a", False, GIT, git("https://git.example.org/dataset/a.git"), ["dataset%2Fa/x"]),
        ("gitlab.com/eve/dataset/a", False, GITLAB, ["eve%2Fdataset%2Fa/HEAD"], ["eve%2Fdataset%2Fab/HEAD"]),
        ("github.com/dataset/a", False, GITHUB, ["dataset/a/HEAD"], ["dataset/ab/HEAD"]),
        ("10.evil.example/eve/a", False, GIT, git("https://10.evil.example/eve/a"), ["10.evil.example/eve/a"]),
        ("hydroshare.org/x/a", False, GIT, git("https://hydroshare.org/x/a"), [HYDROSHARE, "a"]),
        ("git.example.org/a(b)/c'd!", False, GIT,
         ["https%3A%2F%2Fgit.example.org%2Fa(b)%2Fc'd!/x", f"{url('https://git.example.org/a(b)/')}c%27d%21/x"], []),
    ],
)  # fmt: skip
def test_banned_specs_match_as_binderhub_matches(name, whole, provider, yes, no):
    pattern = specs(name, whole)[provider]
    assert [spec for spec in yes if not is_banned(spec, [pattern])] == []
    assert [spec for spec in no if is_banned(spec, [pattern])] == []


def test_all_providers_that_reach_a_repository_have_a_pattern():
    assert set(specs("github.com/eve/a")) == {GITHUB, GIT} and set(specs("gitlab.com/eve/a")) == {GITLAB, GIT}
    assert set(specs("gist.github.com/eve/a")) == {GIST, GIT} and set(specs("codeberg.org/eve/a")) == {GIT}
    assert set(specs("github.com/dataset/a")) == {GITHUB, GIT} and set(specs("gitlab.com/eve/dataset/a")) == {GITLAB, GIT}
    assert set(specs("demo.ckan.org/dataset/a")) == {"CKANProvider", GIT} and set(specs("hydroshare.org/x/a")) == {GIT}
    assert set(specs("10.evil.example/eve/a")) == {GIT}
    assert GIT not in specs("10.5281/zenodo.32") and GIT not in specs("10.1000.10/x")


def test_owner_is_banned_only_if_all_of_its_repositories_are_proposed():
    bad, bad2, good = scored("github.com/eve/a"), scored("github.com/eve/b", 60), scored("github.com/eve/course", 3)
    assert [(ban.name, ban.whole) for ban in bans([bad, bad2])] == [("github.com/eve", True)]
    assert [(ban.name, ban.whole) for ban in bans([bad, bad2, good])] == [("github.com/eve/a", False), ("github.com/eve/b", False)]
    assert bans([scored("github.com/eve/a", launches=MIN_LAUNCHES - 1), good]) == []


def test_block_names_what_egress_block_takes():
    (ban,) = bans([scored("github.com/eve/a", 72.5)])
    assert ban.block == "egress block --why 'propose-bans: score 72.5' -- repository 'github.com/eve/*'"
    assert repositories.covers(repositories.name(shlex.split(ban.block)[-1]), "github.com/eve/other")
    assert Ban("git.example.org/*/a", False, (scored("git.example.org/*/a"),)).block == ""


BAD = {"198.51.100.0/24": 20, "203.0.113.0/24": 20, "2001:db8::/48": 10, "192.0.2.0/24": 9, "x": 99}


@pytest.mark.parametrize(
    ("bad", "others", "proposed"),
    [
        # Almost nothing else comes from there.
        (BAD, {"198.51.100.0/24": 2, "203.0.113.0/24": 3}, ["198.51.100.0/24", "2001:db8::/48"]),
        # A wider network comes from a site that logs fewer bits, or from a line that nobody logged.
        (dict.fromkeys(["0.0.0.0/0", "198.51.0.0/23", "::/0", "2001:db8::/47"], 20), {}, []),
    ],
)
def test_networks_are_proposed_where_nearly_nothing_else_comes_from(bad, others, proposed):
    found = [scored("github.com/eve/a", networks=bad), scored("github.com/good/class", 10, networks=others)]
    assert ban_networks(Traffic(0, 1), found) == dict.fromkeys(proposed, NETWORK_LABEL)
    prefixes = {4: "log_ipv4_prefix", 6: "log_ipv6_prefix"}
    assert {version: VerifierSettings.model_fields[name].default for version, name in prefixes.items()} == NETWORK_PREFIXES


def test_network_of_a_spared_repository_is_not_proposed():
    shared = "198.51.100.0/24"
    bad, course = scored("github.com/eve/a", networks={shared: 10}), scored("github.com/uni/course", 60, networks={shared: 200})
    assert ban_networks(Traffic(0, 1), [bad, course]) == {shared: NETWORK_LABEL}
    assert ban_networks(Traffic(0, 1), [bad, replace(course, spared=True)]) == {}


# -- names that strangers chose

NASTY = [
    *("`", "```", "|", "\n", "\r", "\x1b[31m", "\u202e", "$(id)", "';id;'", '"', "\\", "#", ": ", "- ", "{}", "[x](y)", "<b>"),
    *("@**all**", "\u2028", "!!python", "&a", "*", "%", "~", "é", "-rf", "__x__", "\x00", "\x7f", "\x85", ".*", "^a|b", "(?:"),
    "\ud800",
]
PART = st.lists(st.sampled_from(NASTY) | st.text(max_size=5) | st.sampled_from(string.ascii_letters), min_size=1, max_size=6).map(
    "".join
)
NAMES = (
    st.tuples(st.sampled_from(["github.com", "gitlab.com", "gist.github.com", "git.example.org"]), PART, PART)
    .map(lambda parts: repositories.name(f"https://{parts[0]}/{parts[1]}/{parts[2]}".encode(errors="replace").decode()))
    .filter(bool)
)
SAFE = set(string.ascii_letters + string.digits + "._~/-%")


def report(name):
    traffic = Traffic(0, 7 * 86400)
    return Report(traffic, [scored(name)], {}, "binderhub.config")


PLAIN = report("github.com/eve/a")


@given(NAMES)
def test_name_writes_nothing_but_itself_where_people_read(name):
    found = report(name)
    assert set(shown(name)) <= SAFE
    for text in (found.text(5), found.markdown(), found.alert()):
        assert all(letter in string.printable and letter not in "\t\r\x0b\x0c" for letter in text)
    # As many lines as for a harmless name: only the providers make a difference.
    assert "before you merge" in PLAIN.markdown()
    assert found.markdown().count("\n") == PLAIN.markdown().count("\n") and "\n" not in found.alert()
    assert re.fullmatch(
        r"\| `[\w.~/%-]+` \| 20 \| 90 \| detections 90 \(20 of 20 servers\) \|", found.markdown().splitlines()[-1], re.ASCII
    )


@given(NAMES)
def test_name_writes_nothing_but_itself_in_yaml(name):
    found = report(name)
    text = with_bans("binderhub:\n  config: {}\n", found.where, found.specs, {})
    wanted = {provider: {"banned_specs": patterns} for provider, patterns in found.specs.items()}
    assert yaml.safe_load(text) == {"binderhub": {"config": wanted}}
    assert with_bans(text, found.where, found.specs, {}) == text
    shown_values = found.text(5).partition("Nobody is banned by this.\n\n")[2].partition("\n\n")[0]
    assert yaml.safe_load(shown_values) == {"binderhub": {"config": wanted}}


@given(NAMES)
def test_name_writes_nothing_but_itself_in_a_shell(name):
    for line in report(name).blocks:
        words = shlex.split(line)
        assert words[:2] + words[3:6] == ["egress", "block", "propose-bans: score 90", "--", "repository"] and len(words) == 7
        assert set(words[6]) <= SAFE | {"*"}
        assert repositories.covers(repositories.name(words[6]), name)


@given(NAMES)
def test_name_is_no_regular_expression(name):
    """Each pattern bans its repository, in a browser's spelling, and not another owner's."""
    host, _, path = name.partition("/")
    ban = Ban(name, False, (scored(name),))
    assert is_banned(f"{quote(f'https://{host}/{path}', safe=chr(39) + '!()*')}/HEAD", [ban.specs[GIT]])
    for patterns in report(name).specs.values():
        assert not any(
            is_banned(spec, patterns) for spec in ("good/course/HEAD", "good%2Fcourse/HEAD", f"{url('https://good.org/a/b')}/x")
        )
