"""The package: its algorithms, its requirements, and the examples in the documentation."""

import re
import threading

import altcha
import pytest

from binder_egress.decisions.refusals import REFUSALS
from binder_egress.model.grants import Rule
from binder_egress.model.records import Server
from binder_egress_client import command, solving
from tests.support.apps import reconciler, run_pod
from tests.support.client_command import HCAPTCHA, PACKAGE
from tests.support.doc_examples import examples, run_example

# -- solving


CHALLENGE = {
    "parameters": {
        "algorithm": "PBKDF2/SHA-256",
        "nonce": "00" * 16,
        "salt": "00" * 16,
        "cost": 1000,
        "keyLength": 32,
        "keyPrefix": "ff" * 16,
    },
    "signature": "00",
}


def test_calculation_stops_when_cancelled():
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(solving.Cancelled):
        solving.solve(CHALLENGE, cancelled)


def test_calculation_begins_at_0():
    challenge = altcha.create_challenge("PBKDF2/SHA-256", 1, counter=0).to_dict() | {"signature": "00"}
    payload = altcha.Payload.from_base64(solving.solve(challenge, threading.Event(), limit=10))
    assert payload.solution.counter == 0


def test_calculation_has_a_time_limit():
    with pytest.raises(solving.Unsolvable, match="not solved within"):
        solving.solve(CHALLENGE, threading.Event(), limit=0.1)


@pytest.mark.parametrize(
    "parameters",
    [
        {"cost": 10**12},
        {"cost": -1},
        {"cost": "1"},
        {"keyLength": 10**9},
        {"algorithm": "ROT13"},
        {"algorithm": "SCRYPT", "cost": 2**19, "memoryCost": 8},
        {"nonce": "xyz"},
        {"nonce": None},
        {"keyPrefix": 7},
    ],
)
def test_excessive_or_malformed_challenge_is_refused(parameters):
    changed = CHALLENGE | {"parameters": CHALLENGE["parameters"] | parameters}
    for challenge in (changed, None, {}, "x", {"parameters": None}, {"parameters": []}):
        with pytest.raises(solving.Unsolvable):
            solving.solve(challenge, threading.Event())


@pytest.mark.parametrize(
    "algorithm", [{"algorithm": "SHA-512"}, {"algorithm": "SCRYPT", "cost": 16}, {"algorithm": "ARGON2ID", "cost": 1}]
)
def test_each_algorithm_of_the_verifier_is_solved(serve, open_hub, run, algorithm):
    hub = open_hub(serve(captcha_providers={"altcha": {"cost": 1, "counterMax": 5} | algorithm}))
    assert run("pass", "--binder", hub.url)[0] == 0


# -- the package


def test_readme_lists_all_exit_codes_and_options():
    text = (PACKAGE.parent / "README.md").read_text()
    codes = set(map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE)))
    assert codes == {int(code) for code in command.Exit}
    for each in command.cli.commands.values():
        assert f"binder-egress-client {each.name}" in text
        for parameter in each.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[0] in text


@pytest.mark.parametrize(
    ("language", "code"),
    [*examples("docs/api-users.md"), *examples("docs/leases.md"), *examples("docs/unlock.md"), *examples("client/README.md")],
)
def test_documented_examples_work(hub, store, tmp_path, language, code):
    run_pod(store, "user-1")
    # The reconciler also unlocks the launched server if the machine is slow and the pass comes late.
    with reconciler(store, Server("user-1")):
        run_example(language, code, tmp_path, hub.url, BINDER_EGRESS_URL=f"{hub.url}egress/servers/user-1/")


WITH_PASS = [each for each in examples("docs/api-users.md") if "egress_token" in each.values[1]]
"""The examples that get a pass before they launch."""


@pytest.mark.parametrize(("language", "code"), WITH_PASS)
@pytest.mark.parametrize(("fault", "settings"), [("unrouted", {}), ("down", {}), ("", HCAPTCHA)], ids=range(3))
def test_documented_launch_goes_on_without_a_pass(serve, open_hub, tmp_path, fault, settings, language, code):
    hub = open_hub(serve(**settings))
    hub.fault = fault
    run_example(language, code, tmp_path, hub.url)
    assert [build.token for build in hub.builds] == [None]


def test_documented_script_launches_although_the_pass_is_refused(serve, open_hub, tmp_path):
    hub = open_hub(serve(self_networks=["127.0.0.0/8"]))
    (code,) = [code for language, code in (each.values for each in examples("docs/api-users.md")) if language == "python"]
    said = run_example("python", code, tmp_path, hub.url)
    assert f"no pass: {REFUSALS[Rule.OWN_NETWORK]}\n" in said and "\nready " in said
    assert (hub.builds[0].token, hub.builds[0].tier) == (None, "unverified")
