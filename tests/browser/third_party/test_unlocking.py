"""Third-party pages that have more than the tag: a policy, a key, a link for a person, or code that waits for a pass."""

import json
import re

import pytest
from playwright.sync_api import expect

from binder_egress.decisions.refusals import REFUSALS
from binder_egress.gate import api_keys as keys
from binder_egress.model.grants import Rule
from binder_egress.model.records import Server
from tests.support import TOP
from tests.support.apps import PATIENT_UNLOCK_SECONDS, reconciler
from tests.support.browser import MODEST
from tests.support.page_time import STILL
from tests.support.third_party import await_tier, script_tag
from tests.support.third_party_site import CLIENTS
from tests.support.waiting import eventually

MESSAGES = {
    path.stem: json.loads(path.read_text())
    for path in sorted((TOP / "verifier/binder_egress/web/messages/third-party").glob("*.json"))
}

# --- pages with a Content-Security-Policy, and without workers --------------------------------------------------------


def csp(hub, *more, left_out=(), scripts="'unsafe-inline'"):
    """The Content-Security-Policy of docs/third-party-pages.md, for a page with scripts of its own."""
    document = (TOP / "docs/third-party-pages.md").read_text()
    (documented,) = re.findall(r"```text\n(.*?)```", document, re.DOTALL)
    host = hub.url.rstrip("/")
    parts = {
        line.split()[0]: line for line in documented.replace("https://hub.example.org", host).strip().replace(";", "").splitlines()
    }
    parts["script-src"] += f" {scripts}"
    return "; ".join([*(line for name, line in parts.items() if name not in left_out), *more])


COSTS = {
    "SHA-256": {"cost": 10},
    "SCRYPT": {"cost": 16, "memoryCost": 8},
    "ARGON2ID": {"cost": 1, "memoryCost": 64},
}
"""Each algorithm with little work."""


@pytest.mark.parametrize("algorithm", COSTS)
def test_documented_csp_is_enough(algorithm, site, start, store, tab):
    altcha = {"altcha": {"algorithm": algorithm, "counterMax": 5, **COSTS[algorithm]}}
    hub = start(captcha_providers=altcha, allowed_origins=[site.origin], unlock_wait_seconds=PATIENT_UNLOCK_SECONDS)
    # Only those that are WebAssembly need it.
    more = " 'wasm-unsafe-eval'" if algorithm in ("SCRYPT", "ARGON2ID") else ""
    site.headers["Content-Security-Policy"] = csp(hub, scripts=f"'unsafe-inline'{more}")
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub)))
    opened.launch_granted(hub, store)
    assert opened.console == []
    assert opened.workers


@pytest.mark.parametrize("how", ["worker-src 'none'", "no Worker"])
def test_challenge_is_solved_in_the_page_without_workers(how, site, hub, store, tab):
    init = "delete window.Worker" if how == "no Worker" else None
    if not init:
        site.headers["Content-Security-Policy"] = csp(hub, "worker-src 'none'", left_out=["worker-src"])
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub)), init=init)
    opened.launch_granted(hub, store)
    assert opened.workers == []


def test_csp_that_blocks_the_verifier_leaves_the_launch_alone(site, hub, tab):
    site.headers["Content-Security-Policy"] = csp(hub, f"connect-src {hub.url}build/", left_out=["connect-src"])
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub)))
    opened.launch(hub)
    opened.state("unanswered")
    assert hub.count("GET /egress/challenge") == 0


# --- when a person is needed -----------------------------------------------------------------------------------------


LINK = '<p id="egress"></p>' + CLIENTS["EventSource"]


def test_unlock_link_is_shown_if_a_widget_is_needed(double, site, start, tab):
    hub = start(**double.settings("turnstile"), allowed_origins=[site.origin])
    opened = tab(site.page(LINK, script_tag(hub, link="#egress")))
    opened.launch(hub)
    detail = opened.state("needed")
    assert detail["unlock"] == f"{hub.url}egress/servers/user-1"
    link = opened.page.get_by_role("link", name=MESSAGES["en"]["unlock"], exact=True)
    expect(link).to_have_attribute("href", detail["unlock"])
    with opened.page.expect_popup() as popup:
        link.click()
    expect(popup.value.locator("#state")).to_be_visible()
    # The page has loaded nothing from the captcha provider.
    assert not any(double.url in url for url in opened.requests)


def test_site_that_only_watches_shows_no_link(double, site, start, tab):
    hub = start(mode="observe", **double.settings("turnstile"), allowed_origins=[site.origin])
    opened = tab(site.page(LINK, script_tag(hub, link="#egress")))
    opened.launch(hub)
    assert opened.state("needed")["unlock"] is None
    assert opened.page.locator("#egress a").count() == 0


def test_tier_that_is_not_enough_is_not_solved_for(site, start, tab):
    tiers = {"verified": {"internet": True}, "small": {"internet": False}}
    hub = start(tiers=tiers, captcha_providers={"altcha": {**MODEST["altcha"], "tier": "small"}}, allowed_origins=[site.origin])
    opened = tab(site.page(LINK, script_tag(hub, tiers="verified other", link="#egress")))
    opened.launch(hub)
    assert opened.state("needed")["unlock"]
    assert hub.count("POST /egress/") == 0


def test_tier_that_is_enough_is_solved_for(site, hub, store, tab):
    opened = tab(site.page(LINK, script_tag(hub, tiers="other verified", link="#egress")))
    opened.launch_granted(hub, store)
    assert opened.page.locator("#egress a").count() == 0


def test_unlock_link_has_the_language_of_the_page(site, hub, tab):
    hub.fault, hub.fault_paths = "down", ("challenge",)
    body = f"<script>document.documentElement.lang = 'ar-XX'</script>{LINK}"
    opened = tab(site.page(body, script_tag(hub, link="#egress")), locale="fr-FR")
    opened.launch(hub)
    opened.state("unanswered")
    link = opened.page.locator("#egress a")
    assert (link.text_content(), link.get_attribute("dir")) == (MESSAGES["ar"]["unlock"], "rtl")


def test_unlock_link_is_shown_for_an_unknown_server(site, hub, tab):
    """The script tries four times, and then shows the link."""
    hub.launched = lambda user: None
    opened = tab(site.page(LINK, script_tag(hub, link="#egress")))
    opened.launch(hub)
    assert opened.state("none")["unlock"]
    assert hub.count("POST /egress/servers/user-1") == 4


def test_unlock_without_an_answer_is_reported(site, hub, tab):
    hub.gates["servers"].close()
    opened = tab(site.page(LINK, script_tag(hub, link="#egress")), init=STILL)
    opened.launch(hub)
    for tries, pause in enumerate((1, 2, 4, None), start=1):
        # The preflight has no answer.
        eventually(lambda tries=tries: hub.count("OPTIONS /egress/servers/user-1") == tries, what=f"no {tries} requests")
        opened.page.evaluate("passTime(10)")
        if pause:
            eventually(lambda pause=pause: opened.page.evaluate("timersLeft()") == [pause], what=f"no pause of {pause} s")
            opened.page.evaluate("(pause) => passTime(pause)", pause)
    assert opened.state("unanswered")["unlock"]


# --- with an API key --------------------------------------------------------------------------------------------------


@pytest.fixture
def make_key(site, start, tmp_path):
    """A function that gives a BinderHub whose verifier has a key for two servers a day on the site's pages; and the key."""

    def make_key(*repositories):
        key, entry = keys.create("keyed", 2, "2999-12-31", [site.origin], list(repositories))
        file = tmp_path / "keys.json"
        file.write_text(json.dumps({"course": entry.model_dump()}))
        tiers = {"verified": {"internet": True}, "keyed": {"internet": True}}
        own = {"api_keys_file": str(file), "tiers": tiers, "allowed_origins": [site.origin]}
        return start(unlock_wait_seconds=PATIENT_UNLOCK_SECONDS, **own), key

    return make_key


def test_key_replaces_calculation_until_it_is_spent(site, make_key, store, tab):
    hub, key = make_key()
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub, key=key)))
    for user, tier in (("user-1", "keyed"), ("user-2", "keyed"), ("user-3", "verified")):
        with reconciler(store, Server(user)):
            opened.launch(hub)
            opened.page.wait_for_function("(server) => states.at(-1).server === server", arg=f"{hub.url}user/{user}/")
            await_tier(store, user, tier)
        assert hub.count("GET /egress/challenge") == (user == "user-3")
    assert [said["state"] for said in opened.page.evaluate("states")] == ["checking", "granted"] * 3
    assert not any(key in url for url in opened.requests)


def test_key_gives_a_pass_to_pages_that_wait(site, make_key, tab):
    hub, key = make_key()
    opened = tab(site.page(CLIENTS["fetch"], script_tag(hub, key=key)))
    address = f"{hub.url}build/gh/o/cached/HEAD"
    opened.page.evaluate("async (address) => launch(await binderEgress.withEgress(address))", address)
    opened.page.wait_for_function("done === 1")
    assert opened.page.evaluate("binderEgress.getPass()")
    assert hub.builds[0].tier == "keyed" and hub.count("GET /egress/challenge") == 0


@pytest.mark.parametrize("wrong", ["binder_egress_0123456789abcdef_" + 40 * "0", "ü\n", "for other repositories"])
def test_wrong_key_counts_as_no_key(wrong, site, make_key, store, tab):
    hub, key = make_key("example.com/elsewhere/*")
    foreign = wrong == "for other repositories"
    opened = tab(site.page(CLIENTS["EventSource"], script_tag(hub, key=key if foreign else wrong)))
    opened.launch_granted(hub, store)
    assert store.known(Server("user-1")).tier == "verified"
    said = "The pass was issued for a key that is for other repositories." if foreign else "binder-egress: the key gives no pass: "
    assert any(said in text for text in opened.console)


# --- pages that wait --------------------------------------------------------------------------------------------------


def test_with_egress_and_get_pass_give_passes_for_a_launch(site, hub, tab):
    """A page may wait for as long as it takes, which is more than a browser's timers can count."""
    opened = tab(site.page(CLIENTS["fetch"], script_tag(hub)))
    address = f"{hub.url}build/gh/o/cached/HEAD"
    opened.page.evaluate(
        "async (address) => launch(await binderEgress.withEgress(address, { timeout: Infinity }))", f"{address}?labpath=%2Fa+b"
    )
    opened.page.wait_for_function("done === 1")
    opened.page.evaluate("async (address) => launch(`${address}?egress_token=${await binderEgress.getPass()}`)", address)
    opened.page.wait_for_function("done === 2")
    first, second = hub.builds
    assert first.tier == second.tier == "verified" and first.query["labpath"] == ["/a b"]
    assert hub.count("POST /egress/servers") == 0


def test_get_pass_says_why_there_is_none(site, start, tab):
    hub = start(allowed_origins=[site.origin], self_networks=["127.0.0.0/8"])
    opened = tab(site.page("", script_tag(hub)))
    said = opened.page.evaluate("binderEgress.getPass().catch(String)")
    assert said == f"Error: binder-egress: no pass: none: {REFUSALS[Rule.OWN_NETWORK]}"


def test_with_egress_changes_only_builds_of_this_binderhub(site, hub, tab):
    opened = tab(site.page("", script_tag(hub)))
    own = f"{hub.url}build/gh/o/r/HEAD"
    for address in ("https://other.example/build/gh/o/r/HEAD", own.replace("build/", "v2/"), f"{own}?egress_token=x"):
        assert opened.page.evaluate("(address) => binderEgress.withEgress(address)", address) == address
    assert hub.count("GET /egress/challenge") == 0


@pytest.mark.parametrize("fault", ["down", "hang", "garbage"])
def test_with_egress_returns_the_same_address_without_a_pass(fault, site, hub, tab):
    opened = tab(site.page("", script_tag(hub)), init=STILL)
    hub.fault = fault
    address = f"{hub.url}build/gh/o/r/HEAD"
    opened.page.evaluate("(address) => { globalThis.got = binderEgress.withEgress(address, { timeout: 3 }); }", address)
    if fault == "hang":
        assert min(opened.page.evaluate("timersLeft()")) == 3
        opened.page.evaluate("passTime(3)")
    assert opened.page.evaluate("got") == address
    if fault != "hang":
        assert "unanswered" in opened.page.evaluate("binderEgress.getPass().catch(String)")
