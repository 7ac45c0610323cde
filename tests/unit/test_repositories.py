"""Names of repositories: no spelling avoids a block, and no other repository passes for a trusted one."""

import string
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder_egress.model import repositories
from binder_egress.model.repositories import CASELESS, MAX_DECODINGS, MAX_URL_CHARACTERS, covers, cut, exact, name, strict, within
from tests.support.linear import is_linear


def matches(pattern, url):
    return covers(name(pattern), name(url))


SPELLINGS = """
https://github.com/Owner/Name
http://github.com/owner/name
https://github.com/owner/name/
https://github.com/owner/name.git
https://github.com/owner/name.git/
https://github.com/owner/name.git.git
https://GitHub.COM/owner/name
https://www.github.com/owner/name
https://github.com./owner/name
https://github.com:443/owner/name
https://user:password@github.com/owner/name
https://evil.example@github.com/owner/name
https://github.com//owner//name
https://github.com/./owner/name
https://github.com/x/../owner/name
https://github.com/x/y/../../owner/name
https://github.com/../owner/name
https://github.com/owner/%6eame
https://github.com/owner/%256eame
https://github.com/owner%2fname
https%3A%2F%2Fgithub.com%2Fowner%2Fname
https://github.com/owner/name?x=1
https://github.com/owner/name#x
https:/github.com/owner/name
https://ｇithub.com/owner/name
https://github.com/ｏwner/name
git://github.com/owner/name
git+https://github.com/owner/name
ssh://git@github.com/owner/name.git
ssh://git@github.com:22/owner/name.git
git@github.com:owner/name.git
git@github.com:/owner/name.git
github.com:owner/name
github.com:/owner/name
github.com/owner/name
""".strip("\n").split("\n")


@pytest.mark.parametrize(
    "url", [*SPELLINGS, " https://github.com/owner/name\t", "https://github.com/owner/na\nme", "https://github.com/owner\\name"]
)
def test_blocked_repository_is_blocked_in_every_spelling(url):
    assert name(url) == "github.com/owner/name"
    assert matches("github.com/owner/name", url)
    assert matches("github.com/owner/*", url)


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "https://github.com/owner/name2", "https://github.com/owner/nam", "https://github.com/owner2/name",
        "https://github.com/owner", "https://example.com/github.com/owner/name", "https://github.com.example.com/owner/name",
        "https://notgithub.com/owner/name", "https://gitlab.com/owner/name", "https://github.com/x/owner/name",
        "https://gist.github.com/owner/name", "https://github.com/owner/name/tree",
    ],
)  # fmt: skip
def test_other_repository_is_not_blocked(url):
    assert not matches("github.com/owner/name", url)


@pytest.mark.parametrize(
    "host",
    [
        "git\u00adhub.com", "git\u200bhub.com", "git\u2060hub.com", "git\u200dhub.com", "github\u3002com", "github\uff0ecom",
        "git%C2%ADhub.com", "github%E3%80%82com", "GIT\u00adHUB.com", "\uff47ithub.com",
    ],
)  # fmt: skip
def test_characters_that_a_resolver_ignores_do_not_change_the_host(host):
    assert name(f"https://{host}/owner/name") == "github.com/owner/name"


NAMELESS = {
    "no host name": "https://git\u2028hub\u20ac\u0000.com/\ud800",
    "too long": "https://github.com/" + "a" * MAX_URL_CHARACTERS,
    "too long a query": "https://github.com/owner/name?" + "x" * MAX_URL_CHARACTERS,
    "encoded too often": "https://github.com/owner/%" + "25" * (MAX_DECODINGS + 1) + "41",
    "expands too far": "https://github.com/" + "\ufdfa" * 1000,
    "expands too far a query": "https://github.com/owner/name?" + "\ufdfa" * 1000,
    "slash in the user": "https://x%2F@github.com/owner/name",
    "backslash in the host": "https://github.com\\owner\\name",
    "hash in ssh's user": "ssh://x#@github.com/owner/name",
    "query in scp's user": "x?@github.com:owner/name",
    "brackets": "git@[github.com]:owner/name",
    "no host": "https://user@/github.com/owner/name",
    "transport": "https::https://github.com/owner/name",
}


@pytest.mark.parametrize("url", NAMELESS.values(), ids=NAMELESS)
def test_url_without_a_name_is_covered_by_every_pattern(url):
    assert name(url) is None
    assert covers("github.com/owner/*", name(url)) and covers("10.5281/zenodo.3242074", name(url))


LONG = "https://github.com/owner/" + "a" * 3000


@pytest.mark.parametrize(
    "url",
    [
        LONG, LONG + "/", LONG + "?x", LONG.replace("https", "ssh"), "https://github.com/owner/name?" + "x" * 3000,
        "https://github.com/owner/name" + "/" * 3000, "https://github.com/" + "%61" * 3000,
        "https://github.com/owner/" + "a" * (MAX_URL_CHARACTERS - 24), "x" * 60_000,
    ],
)  # fmt: skip
def test_cut_url_is_blocked_as_the_whole_one_and_never_trusted(url):
    """So all URLs that are cut have the same rights, also those that become equal."""
    assert len(url) > MAX_URL_CHARACTERS and len(cut(url)) == MAX_URL_CHARACTERS + 1
    assert name(cut(url)) is None and name(url) is None
    assert exact(cut(url)) == "" and not within("github.com/owner/*", cut(url))


def test_url_that_has_a_name_is_not_cut():
    url = "https://github.com/owner/" + "a" * (MAX_URL_CHARACTERS - 25)
    assert cut(url) == url and len(url) == MAX_URL_CHARACTERS
    assert name(url) == exact(url) == url.removeprefix("https://")


def test_decoding_of_a_name_takes_a_bounded_number_of_rounds(monkeypatch):
    """Each round decodes one layer. Without a bound, a URL with 450 layers held up the reconciler for 0.38 s per pattern."""
    rounds = []
    monkeypatch.setattr("binder_egress.model.repositories.unquote", lambda text: rounds.append(len(text)) or unquote(text))
    assert name("https://github.com/%" + "25" * 450 + "41" + "\ufdfa" * 500) is None
    assert len(rounds) <= MAX_DECODINGS + 1 and max(rounds) <= MAX_URL_CHARACTERS


def test_url_gets_a_name_up_to_the_limits_of_length_and_encoding():
    longest = "https://github.com/owner/name?".ljust(MAX_URL_CHARACTERS, "x")
    assert name(longest) == "github.com/owner/name" and name(longest + "x") is None
    once = "https://github.com/owner/%6eame"
    assert name(once.replace("%", "%" + "25" * (MAX_DECODINGS - 1))) == "github.com/owner/name"
    assert name(once.replace("%", "%" + "25" * MAX_DECODINGS)) is None


@pytest.mark.parametrize(
    ("beginning", "repeated", "end"),
    [
        ("https://e.example/%2525252541", ".git", "x"),
        ("https://e.example/a", "\u0301\u0327", ""),
        ("https://a", "\u0301\u0327", "/a/b"),
    ],
    ids=["repeated suffix", "marks of two kinds", "marks in the host"],
)
def test_time_for_a_name_grows_with_the_length_and_no_faster(beginning, repeated, end):
    def shape(characters):
        return (beginning + repeated * characters)[: characters - len(end)] + end

    def compute(url):
        repositories._name.cache_clear()
        name(url)

    assert is_linear(compute, shape, MAX_URL_CHARACTERS)


def test_kept_names_take_a_bounded_amount_of_memory():
    """A URL that is too long is not kept, however many there are."""
    before = repositories._name.cache_info()
    assert before.maxsize == repositories.KEPT
    assert name("https://e.example/" + "a" * MAX_URL_CHARACTERS) is None
    assert repositories._name.cache_info() == before


def test_url_with_the_marks_of_a_text_that_people_read_has_a_name():
    marked = "a" + "\u0301" * repositories.MAX_MARKS
    assert name(f"https://e.example/{marked}/b") == f"e.example/\u00e1{marked[2:]}/b"
    assert name(f"https://e.example/{marked}\u0301/b") is None
    assert name(f"https://e.example/{marked}%01{marked[1:]}/b") is None


def test_number_after_a_colon_is_an_owner_without_a_scheme_and_a_port_with_one():
    assert name("git@github.com:2024/name.git") == name("github.com:2024/name") == "github.com/2024/name"
    assert name("ssh://git@github.com:2024/owner/name") == "github.com/owner/name"


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com%2Fowner%2Fname%23@evil.example/x/y",
        "https://github.com%252Fowner%252Fname%2523.evil.example/x/y",
        "https://github.com\\owner\\name%23.evil.example/x/y",
        "evil.example:x@github.com/owner/name",
        "https://doi.org/github.com/owner/name",
        "https://\u00ad/github.com/owner/name",
    ],
)
def test_repository_elsewhere_does_not_get_the_name_of_another(url):
    assert name(url) != "github.com/owner/name"


def test_pattern_of_an_owner_or_a_host_blocks_all_its_repositories_and_no_others():
    assert matches("github.com/owner/*", "https://github.com/OWNER/anything.git")
    assert not matches("github.com/owner/*", "https://github.com/owner2/anything")
    assert not matches("github.com/owner/*", "https://github.com/owner")
    assert matches("git.example.org/*", "https://git.example.org/owner/name")
    assert matches("git.example.org/*", "git@GIT.example.org:group/team/name.git")
    assert not matches("git.example.org/*", "https://example.org/owner/name")
    assert not matches("git.example.org/*", "https://git.example.org.example.com/owner/name")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://gist.github.com/user/0123abc.git", "gist.github.com/user/0123abc"),
        ("https://gitlab.com/group/sub/sub2/name.git", "gitlab.com/group/sub/sub2/name"),
        ("https://git\u00ad_lab.example.org/a/b", "git_lab.example.org/a/b"),
        ("https://git.example.org:8443/~me/Thing", "git.example.org/~me/thing"),
        ("10.5281/zenodo.3242074", "10.5281/zenodo.3242074"),  # BinderHub's providers of archives have this as URL
        ("https://doi.org/10.5281/zenodo.3242074", "10.5281/zenodo.3242074"),
        ("https://dx.doi.org/10.5281/zenodo.3242074", "10.5281/zenodo.3242074"),
        ("doi:10.5281/zenodo.3242074", "10.5281/zenodo.3242074"),
        ("DOI: 10.5281/zenodo.3242074", "10.5281/zenodo.3242074"),
        ("https://www.hydroshare.org/resource/b8f6/", "hydroshare.org/resource/b8f6"),
        ("10.7910/DVN/TJCLKP", "10.7910/dvn/tjclkp"),
        ("https://b\u00fccher.example/a/b", "xn--bcher-kva.example/a/b"),
        ("https://xn--bcher-kva.example/a/b", "xn--bcher-kva.example/a/b"),
    ],
)
def test_urls_of_other_providers_have_a_name(url, found):
    assert name(url) == found
    assert matches(found, url)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://github.com/Owner/Name", "github.com/owner/name"),
        ("https://GITHUB.com/owner/name.git", "github.com/owner/name"),
        ("https://github.com/owner/name/", "github.com/owner/name"),
        ("https://git.example.org/Owner/Name", "git.example.org/Owner/Name"),
        ("https://gitlab.com/group/sub/name.git", "gitlab.com/group/sub/name"),
        ("HTTPS://github.com/owner/name", "github.com/owner/name"),
    ],
)
def test_plain_url_has_an_exact_name(url, found):
    assert exact(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "http://github.com/owner/name", "git@github.com:owner/name", "ssh://git@github.com/owner/name", "github.com/owner/name",
        "https://user@github.com/owner/name", "https://github.com:443/owner/name", "https://github.com/owner/name?x",
        "https://github.com/owner/name#x", "https://github.com/owner/../name/x", "https://github.com/./owner/name",
        "https://github.com//owner/name", "https://github.com/owner/%6eame", "https://github.com\\owner/name",
        "https://github.com/owner/name\n", " https://github.com/owner/name", "https://github.com/owner/name@evil.example/x",
        "https://evil.example/https://github.com/owner/name", "https://ｇithub.com/owner/name", "https://github.com/owner/naｍe",
        "https://github.com/owner", "https://github.com", "https:///owner/name", "10.5281/zenodo.3242074", "",
        "https://github.com/owner/name/*", "https://github.com/owner/name//", "https://github.com/owner/na me",
        # Without regard to case, these are an s and a k.
        "https://github.com/owner/\u017fname", "https://github.com/owner/\u212aname", "https://\u212aaggle.com/owner/name",
    ],
)  # fmt: skip
def test_other_forms_of_a_url_cannot_be_trusted(url):
    assert exact(url) == ""


def test_strict_pattern_names_an_owner():
    for pattern in ("github.com/owner/name", "github.com/owner/*", "git.example.org/group/team/*"):
        assert strict(pattern) == pattern
    for pattern in ("github.com/*", "github.com//*", "github.com/./*", "github.com/a/../*", "github.com/../x", "github.com/a/."):
        with pytest.raises(ValueError, match="is not host/owner/name"):
            strict(pattern)


@pytest.mark.parametrize("path", ["owner/name2", "owner/name/x", "owner-/name", "owner/name.git.git"])
@pytest.mark.parametrize("host", ["github.com", "www.github.com"])
def test_name_with_the_same_beginning_differs(host, path):
    assert exact(f"https://{host}/{path}") != exact("https://github.com/owner/name") != exact("https://www.github.com/owner/name")


PART = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12).filter(
    lambda part: set(part) != {"."} and not part.lower().endswith(".git")
)
HOST = st.sampled_from(["github.com", "gitlab.com", "git.example.org"])


@given(st.text(max_size=80) | st.text("%256feE/.:@?#\\ wgit*", max_size=40))
def test_name_of_a_name_is_the_same_name(url):
    found = name(url)
    assert found is None or name(found) == found


@given(HOST, PART, PART, st.data())
def test_block_holds_for_random_spellings(host, owner, repository, data):
    def percent(text):
        return "".join(f"%{ord(letter):02x}" if data.draw(st.booleans()) else letter for letter in text)

    scheme = data.draw(st.sampled_from(["https://", "http://", "git://", "ssh://git@", "git@", ""]))
    colon = ":" if scheme == "git@" else "/"
    owner_spelt = percent(owner)
    repository_spelt = percent(data.draw(st.sampled_from([repository, repository.upper(), repository.lower()])))
    end = data.draw(st.sampled_from(["", "/", ".git", ".git/", "?a=b", "#c", "//"]))
    assert matches(f"{host}/{owner}/{repository}", f"{scheme}{host}{colon}{owner_spelt}/{repository_spelt}{end}")


@given(HOST, PART, PART, st.integers(0, 60), st.characters())
def test_url_with_one_more_character_is_another_repository_or_none(host, owner, repository, where, letter):
    url, trusted = f"https://{host}/{owner}/{repository}", exact(f"https://{host}/{owner}/{repository}")
    where = min(where, len(url))
    changed = url[:where] + letter + url[where:]
    if exact(changed) == trusted:
        assert changed == url + "/"


@given(st.text(max_size=60) | st.from_regex(r"https://[a-z.]{3,12}/[\w./-]{3,20}", fullmatch=True))
def test_trusted_url_has_the_same_name_for_blocks(url):
    found = exact(url)
    if found:
        assert name(url) == name(found)
        assert found.partition("/")[0] not in CASELESS or found == found.lower()
