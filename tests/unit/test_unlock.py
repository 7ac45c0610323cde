"""Unlocks of running servers, and the page of each server."""

import math
import re
import time

import pytest

from binder_egress.model.grants import Block
from binder_egress.model.records import KnownServer, Server
from binder_egress.model.serialization import read_origin
from binder_egress.web.problems import TYPE
from tests.support import apps

SECRET_WORDS = ("example.com/a/b", "valid-pass", "198.51.100.7", "uid-1")


def unlock(client, path="alice", **body):
    return client.post(f"/egress/servers/{path}", json=body)


def test_pass_unlocks_a_running_server(public, store):
    apps.run_pod(store)
    with apps.reconciler(store):
        answer = unlock(public, token=apps.get_pass(public))
    record = store.pending(Server("alice"), set()).unlock
    assert (record.uid, record.image, record.grant.rule) == ("uid-1", None, "unlock"), "it is for this pod and no successor"
    assert answer.status_code == 200
    assert answer.json == {
        "state": "granted", "user": "alice", "server": "", "tier": "verified", "access": "network",
        "reach": "", "why": "", "opens_in": 0, "contact": "",
        "until": None, "expires_in": None, "on_expiry": None,
        "unlockable": False, "larger": [], "renewable_in": None,
    }  # fmt: skip


def opening(grant, seconds=25.5):
    return KnownServer("uid-1", grant, opens_at=math.ceil(time.time() + seconds))


def test_tier_that_the_network_opens_late_is_not_called_open_before(public, store):
    store.publish(Server("alice"), opening(apps.carried("verified", "g")))
    shown = public.get("/egress/servers/alice", headers={"Accept": "application/json"}).json
    assert (shown["tier"], shown["access"], shown["unlockable"]) == ("verified", "none", False)
    assert 25 <= shown["opens_in"] <= 27
    assert shown["why"] == f"Access has been granted, and opens within {shown['opens_in']} s."
    for accept in ("text/plain", "text/html"):
        text = public.get("/egress/servers/alice", headers={"Accept": accept}).get_data(as_text=True)
        assert "Your server has no internet access. Access has been granted, and opens within" in text
    apps.run_pod(store)
    with apps.reconciler(store, late=25):
        for _ in "once", "again":
            answer = unlock(public, token=apps.get_pass(public))
            assert (answer.status_code, answer.json["state"], answer.json["tier"]) == (202, "pending", "verified")
    store.publish(Server("alice"), opening(apps.carried("verified", "g"), -1))
    shown = public.get("/egress/servers/alice", headers={"Accept": "application/json"}).json
    assert (shown["access"], shown["opens_in"], shown["why"]) == ("network", 0, "")
    assert unlock(public, token=apps.get_pass(public)).json["state"] == "granted"


def test_neither_the_egress_proxy_nor_a_block_waits_for_the_network(make_services, store):
    tiers = {"verified": {"internet": True, "hosts": ["python"], "description": {"en": "Everything."}}}
    public = apps.public_client(make_services(tiers=tiers))
    store.publish(Server("alice"), opening(apps.carried("verified", "g")))
    shown = public.get("/egress/servers/alice", headers={"Accept": "application/json"}).json
    assert (shown["access"], shown["reach"]) == ("packages", "What works: pip.")
    store.publish(Server("alice"), opening(apps.carried("unverified", "b", rule="blocked")))
    shown = public.get("/egress/servers/alice", headers={"Accept": "application/json"}).json
    assert shown["opens_in"] == 0 and "blocked it" in shown["why"]


class Waits:
    """The verifier's view of the module `time`: seconds pass while it sleeps, and only then."""

    def __init__(self, at=math.inf, then=lambda: None):
        self.now, self._at, self._then = 0.0, at, then
        self.time, self.monotonic = time.time, lambda: self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= self._at:
            self._then()


@pytest.mark.parametrize(
    ("confirmed", "waited", "said"),
    [(1.5, 1.5, (200, "granted", "verified")), (math.inf, 2, (202, "pending", "unverified"))],
    ids=["slow reconciler", "no reconciler"],
)
def test_unlock_waits_two_seconds_for_the_reconciler(public, store, monkeypatch, confirmed, waited, said):
    apps.run_pod(store)

    def confirm():
        grant = store.pending(Server("alice"), set()).unlock.grant
        store.publish(Server("alice"), KnownServer("uid-1", grant))

    waits = Waits(confirmed, confirm)
    monkeypatch.setattr("binder_egress.web.servers.time", waits)
    answer = unlock(public, token=apps.get_pass(public))
    assert waits.now == pytest.approx(waited, abs=0.03)
    assert (answer.status_code, answer.json["state"], answer.json["tier"]) == said


@pytest.mark.parametrize("same", [True, False])
def test_same_unlock_that_is_sent_again_meanwhile_waits_for_nothing(public, store, monkeypatch, in_redis, same):
    """Otherwise one stranger with one pass would keep all threads waiting, and write as many grants. Others are not held up."""
    apps.run_pod(store)
    token, grants, again = apps.get_pass(public), [], []
    second = token if same else apps.get_pass(public)

    def send():
        if not grants:
            grants.append(store.pending(Server("alice"), set()).unlock.grant.id)
            again.append(unlock(public, token=second))

    waits = Waits(1, send)
    monkeypatch.setattr("binder_egress.web.servers.time", waits)
    answers = [unlock(public, token=token), *again]
    assert [(answer.status_code, answer.json["state"]) for answer in answers] == [(202, "pending")] * 2
    assert (store.pending(Server("alice"), set()).unlock.grant.id == grants[0]) is same
    if same:
        assert waits.now == pytest.approx(2, abs=0.05), "the second one waited, too"
        assert in_redis.keys("binder-egress:withdrawn:*") == []
        # Nothing is lost: once the first has ended, the same pass is valid for its server again.
        assert unlock(public, token=token).status_code == 202 and waits.now == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("path", ["bob", "alice/other", "alice%2Fx", "alice/x/", "ALICE", "alice%20", "%00", "a" * 300])
def test_unknown_server_is_not_found(public, store, path, in_redis):
    apps.run_pod(store)
    token = apps.get_pass(public)
    for answer in (public.get(f"/egress/servers/{path}"), unlock(public, path, token=token)):
        assert answer.status_code == 404
        assert answer.json["type"] in (TYPE + "no-such-server", TYPE + "not-found")
    # The pass is not used up.
    assert in_redis.keys("binder-egress:pass:*") == []


def test_solution_unlocks_once(public, store, impatient):
    apps.run_pod(store)
    apps.run_pod(store, "bob", "uid-2")
    solution = apps.solve(public, "unlock")
    assert unlock(public, "nobody", provider="altcha", solution=solution).status_code == 404, "that does not spend it"
    assert unlock(public, provider="altcha", solution=solution).status_code == 202
    assert unlock(public, "bob", provider="altcha", solution=solution).status_code == 403
    assert unlock(public, provider="altcha", solution=solution).status_code == 403


def test_pass_of_a_launch_unlocks_the_same_server(public, internal, store, impatient):
    """The script of the page sends the pass again if it does not know whether the launch used it."""
    token = apps.get_pass(public)
    first = apps.launch(internal, "alice", token=token)
    apps.run_pod(store)
    assert unlock(public, token=token).status_code == 202
    pending = store.pending(Server("alice"), {first["grant"]})
    assert first["grant"] in pending.withdrawn
    assert pending.unlock.grant.id not in pending.withdrawn


def test_tier_of_a_server_is_not_replaced_by_another(make_services, store, impatient):
    """Neither a stranger who knows the address nor a late pass of the launch page can replace the tier."""
    services = make_services(captcha_providers={"altcha": {"cost": 1, "counterMax": 5, "tier": "small"}})
    public = apps.public_client(services)
    store.publish(Server("alice"), KnownServer("uid-1", apps.carried("verified", "g")))
    token, solution = apps.get_pass(public), apps.solve(public, "unlock")
    for body in ({"token": token}, {"provider": "altcha", "solution": solution}):
        answer = unlock(public, **body)
        assert (answer.status_code, answer.json["state"], answer.json["tier"]) == (200, "granted", "verified")
    assert store.pending(Server("alice"), set()).unlock is None
    # The refused unlock spends nothing: who gave the pass could move its use to their own server, and the tier would go with it.
    store.publish(Server("bob"), KnownServer("uid-2"))
    assert unlock(public, "bob", provider="altcha", solution=solution).status_code == 202
    assert apps.launch(apps.internal_client(services), "carol", token=token)["pass_outcome"] == "free"


def test_bad_token_unlocks_nothing_and_an_unlock_needs_it_or_a_solution(public, store):
    apps.run_pod(store)
    both = {"token": "x", "provider": "altcha", "solution": "x"}
    tokens = [{"token": token} for token in ("x" * 8193, "", None, 7)]
    for body in (*tokens, {}, {"provider": "altcha"}, {"solution": "x"}, both, {"token": "x", "more": 1}):
        answer = unlock(public, **body)
        assert (answer.status_code, answer.json["type"]) == (400, TYPE + "bad-request"), body
    for token in ("x", "x" * 1025):
        assert unlock(public, token=token).status_code == 403
    assert store.pending(Server("alice"), set()).unlock is None


def test_default_server_has_two_equal_addresses_and_a_named_one_its_own(public, store, impatient):
    apps.run_pod(store)
    assert public.get("/egress/servers/alice/").status_code == 200
    assert unlock(public, "alice/", token=apps.get_pass(public)).status_code == 202
    store.publish(Server("alice", "lab 2 ü"), KnownServer("uid-2", apps.carried("verified")))
    found = public.get("/egress/servers/alice/lab%202%20%C3%BC", headers={"Accept": "application/json"})
    assert (found.status_code, found.json["server"], found.json["tier"]) == (200, "lab 2 ü", "verified")


# -- content of the page


@pytest.mark.parametrize("accept", ["text/plain", "text/html", "application/json"])
@pytest.mark.parametrize("tier", ["unverified", "verified"])
def test_page_reveals_nothing_about_the_launch(public, store, accept, tier):
    grant = apps.carried(tier, "a-grant-id" if tier == "verified" else "")
    store.publish(Server("alice"), KnownServer("uid-1", grant, "https://example.com/a/b"))
    answer = public.get("/egress/servers/alice", headers={"Accept": accept})
    assert not [word for word in (*SECRET_WORDS, "a-grant-id") if word in answer.text]


def test_answer_to_an_unlock_reveals_nothing_about_the_launch(public, internal, store, impatient):
    apps.run_pod(store)
    token = apps.get_pass(public)
    answers = [unlock(public, token=token)]
    apps.launch(internal, "bob", token=token, repository="https://example.com/other", client_address="203.0.113.77")
    apps.run_pod(store, "carol", "uid-3")
    for _ in range(12):
        answers.append(unlock(public, "carol", token=token))
        answers.append(unlock(public, "alice", token=token))
    answers.append(unlock(public, token="forged"))
    assert {answer.status_code for answer in answers} == {202, 403}
    text = "".join(answer.text for answer in answers)
    assert not [word for word in (*SECRET_WORDS, "uid-3", "bob", token) if word in text]


@pytest.mark.parametrize(
    ("block", "tier", "access"),
    [
        (("network", f"{apps.CLIENT}/32"), "unverified", "packages"),
        (("network", f"{apps.CLIENT}/32"), "verified", "network"),
        (("network", "203.0.113.9/32"), "unverified", "none"),
        (("repository", "example.com/a/*"), "unverified", "none"),
        (("server", "alice/"), "unverified", "none"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_access_is_that_of_the_server_whatever_keeps_its_viewer_from_an_unlock(make_services, store, block, tier, access):
    """The server was launched by another client, and has a lease if it has a tier."""
    grant = apps.carried(tier, until=int(time.time()) + 600 if tier == "verified" else None)
    store.publish(Server("alice"), KnownServer("uid-1", grant, "https://example.com/a/b", "203.0.113.9"))
    store.add_block(Block("block", *block, read_origin("eve"), "w", 0, uid="uid-1"), [])
    public = apps.public_client(make_services(unverified_hosts=["python"]))

    def show(accept):
        return public.get("/egress/servers/alice", headers={"Accept": accept})

    answer = show("application/json").json
    assert (answer["access"], answer["unlockable"], answer["renewable_in"]) == (access, False, None)
    assert f'data-look="{access}"' in show("text/html").text
    assert ("no internet access" in show("text/plain").text) == (access == "none")
    assert unlock(public, provider="altcha", solution=apps.solve(public, "unlock")).status_code == 403


def test_server_name_is_escaped_in_every_format(public, store):
    apps.run_pod(store, "<script>x")
    for accept in ("text/html", "text/plain"):
        answer = public.get("/egress/servers/%3Cscript%3Ex", headers={"Accept": accept})
        assert answer.status_code == 200
        assert "<script>x" not in answer.text


@pytest.mark.parametrize("tier", ["unverified", "verified"])
def test_html_page_has_no_inline_script_and_loads_only_own_files(public, store, tier):
    store.publish(Server("alice"), KnownServer("uid-1", apps.carried(tier)))
    answer = public.get("/egress/servers/alice", headers={"Accept": "text/html"})
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\bstyle=|<style|javascript:", answer.text)
    loaded = re.findall(r'<(?!a\b)[^>]*(?:src|href)="([^"]+)"', answer.text)
    assert loaded
    for address in loaded:
        found = public.get(address)
        assert (address.startswith("/egress/static/"), found.status_code) == (True, 200)


@pytest.mark.parametrize("path", ["..%2fweb.py", "../web.py", "%2e%2e/web.py", "", "nothing.js", "..%2f..%2f..%2fetc%2fpasswd"])
def test_other_files_are_not_served(public, path):
    assert public.get(f"/egress/static/{path}").status_code == 404
