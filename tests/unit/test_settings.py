"""Settings: a wrong one stops the start with one sentence, which names the chart value and never shows a secret."""

import os
import subprocess
import sys

import pytest

from binder_egress.settings import InvalidSettings, ReconcilerSettings, VerifierSettings, load
from binder_egress.web.app import create_internal_app, create_public_app, create_services
from tests.support.apps import API_TOKEN, KEYS

GOOD = {"SIGNING_KEYS": KEYS, "API_TOKEN": API_TOKEN}
SECRET = "s3cret-text"


@pytest.fixture
def environment(monkeypatch):
    """Returns a function that sets the environment to the given settings only."""

    def change(**values):
        for name in list(os.environ):
            if name.startswith("BINDER_EGRESS_"):
                monkeypatch.delenv(name)
        for name, value in (GOOD | values).items():
            if value is not None:
                monkeypatch.setenv(f"BINDER_EGRESS_{name}", value)

    return change


def sentences(kind=VerifierSettings):
    with pytest.raises(InvalidSettings) as caught:
        settings = load(kind)
        if kind is VerifierSettings:
            create_services(settings)
    return str(caught.value).splitlines()


def test_defaults_are_complete_except_for_the_secrets(environment):
    environment()
    settings = load(VerifierSettings)
    assert (settings.mode, settings.base_path, settings.public_port, settings.internal_port) == ("captcha", "/egress/", 8080, 8081)
    assert (settings.pass_lifetime, settings.pass_servers, settings.launch_timeout, settings.trusted_proxies) == (300, 1, 600, 1)
    assert load(ReconcilerSettings).user_pod_labels == {"component": "singleuser-server"}


OF_VERIFIER = [
    ("MODE", "off", "mode"),
    ("TIERS", "{", "tiers"),
    ("BASE_PATH", "egress", "ingress.path"),
    ("PUBLIC_PORT", "0", "verifier"),
    ("THREADS", "0", "verifier.threads"),
    ("REDIS_URL", "localhost", "redis or externalRedis"),
    ("REDIS_URL", f"redis://user:{SECRET}@host:port/0", "redis or externalRedis"),
    ("SIGNING_KEYS", None, "secret.signingKeys, or signing-keys in the Secret"),
    ("SIGNING_KEYS", " \n\n ", "secret.signingKeys, or signing-keys in the Secret"),
    ("SIGNING_KEYS", SECRET, "secret.signingKeys, or signing-keys in the Secret"),
    ("SIGNING_KEYS", f"{KEYS}\n{SECRET}", "secret.signingKeys, or signing-keys in the Secret"),
    ("API_TOKEN", None, "secret.apiToken, or api-token in the Secret"),
    ("API_TOKEN", SECRET, "secret.apiToken, or api-token in the Secret"),
    ("API_TOKEN", "short" + "\n" * 40, "secret.apiToken, or api-token in the Secret"),
    ("PASS_LIFETIME", "301", "passes.lifetime"),
    ("PASS_SERVERS", "0", "passes.servers"),
    ("LAUNCH_TIMEOUT", "-1", "launch.timeout"),
    ("LAUNCH_HOLD", "61", "launchPage.hold"),
    ("FAIRNESS_WINDOW", "59", "fairness.window"),
    ("CLIENT_IPV4_PREFIX", "33", "clientNetwork.ipv4Prefix"),
    ("CAPTCHA_PROVIDERS", "{}", "captcha.providers"),
    ("CAPTCHA_PROVIDERS", '{"nobody": {}}', "captcha.providers.nobody"),
    ("CAPTCHA_PROVIDERS", f'{{"altcha": {{"secret": "{SECRET}"}}}}', "captcha.providers.altcha.secret"),
    ("ALLOWED_ORIGINS", '["https://example.com/"]', "allowedOrigins"),
    ("TRUSTED_PROXIES", "-1", "trustedProxies"),
    ("TRUSTED_PROXIES", '["10.0.0.0/33"]', "trustedProxies"),
    ("PUBLIC_URL", "https://hub.example.org/", "publicUrl"),
]
OF_RECONCILER = [
    ("NAMESPACE", "", "the release's namespace"),
    ("USER_POD_LABELS", "{}", "userPods.labels"),
    ("BLOCKED_REPOSITORIES", '["https://github.com/a/b"]', "rules.blockedRepositories: "),
    ("BLOCKED_REPOSITORIES", '["github.com/*"]', "rules.blockedRepositories: "),
    ("BLOCKED_REPOSITORIES", "{", "rules.blockedRepositories: "),
    ("SELF_NETWORKS", '["pods"]', "rules.selfNetworks: "),
    ("TRUSTED_REPOSITORIES", '{"github.com/a/*": "verified"}', "rules.trustedRepositories: "),
    ("MAY_STOP_PODS", "perhaps", "reconciler.mayStopPods: "),
    ("REDIS_SENTINELS", '["http://a:1"]', "externalRedis.sentinel.hosts: "),
    ("REDIS_SENTINELS", '["a"]', "externalRedis.sentinel.hosts: "),
    ("LOG_LEVEL", "loud", "logLevel"),
]
WRONG = [(VerifierSettings, *row) for row in OF_VERIFIER] + [(ReconcilerSettings, *row) for row in OF_RECONCILER]


@pytest.mark.parametrize(("kind", "name", "value", "named"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_setting_is_one_sentence_that_names_the_chart_value(environment, kind, name, value, named):
    environment(**{name: value})
    (sentence,) = sentences(kind)
    assert sentence.startswith(named) and sentence.endswith(".")
    assert not [secret for secret in (SECRET, API_TOKEN, *KEYS.splitlines()) if secret in sentence]


def test_each_wrong_setting_has_its_own_sentence(environment):
    environment(MODE="x", THREADS="x", SIGNING_KEYS=None)
    named = [sentence.partition(":")[0] for sentence in sentences()]
    assert named == ["mode", "verifier.threads", "secret.signingKeys, or signing-keys in the Secret"]


def test_settings_object_shows_no_secrets(environment):
    environment(REDIS_PASSWORD=SECRET)
    text = repr(load(VerifierSettings)) + str(load(VerifierSettings))
    assert not [secret for secret in (SECRET, API_TOKEN, *KEYS.splitlines()) if secret in text]


def test_keys_are_lines_and_empty_lines_are_ignored(environment):
    environment(SIGNING_KEYS=f"\n  {KEYS}\r\n\n")
    assert load(VerifierSettings).plain_signing_keys == KEYS.splitlines()


@pytest.mark.parametrize("written", ["{}\r\n", " {} "])
def test_bearer_token_of_a_secret_made_from_a_file_is_the_one_that_clients_send(environment, redis_server, written):
    """A file ends with a newline, and a header cannot."""
    environment(API_TOKEN=written.format(API_TOKEN), REDIS_URL=redis_server.url)
    client = create_internal_app(create_services(load(VerifierSettings))).test_client()
    assert client.get("/api/blocks", headers={"Authorization": f"Bearer {API_TOKEN}"}).status_code == 200


@pytest.mark.parametrize(("path", "expected"), [("/", "/"), ("/a", "/a/"), ("/a/b/", "/a/b/")])
def test_base_path_ends_with_a_slash(environment, redis_server, path, expected):
    environment(BASE_PATH=path, REDIS_URL=redis_server.url)
    settings = load(VerifierSettings)
    assert settings.base_path == expected
    client = create_public_app(create_services(settings)).test_client()
    assert client.get(f"{expected}challenge").status_code == 200


@pytest.mark.parametrize("command", ["verifier", "reconciler"])
def test_command_exits_with_2_and_prints_only_the_sentence(command):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BINDER_EGRESS_")}
    environment |= {"BINDER_EGRESS_MODE": "off", "BINDER_EGRESS_SIGNING_KEYS": KEYS, "BINDER_EGRESS_API_TOKEN": API_TOKEN}
    program = [sys.executable, "-c", "from binder_egress.commands.processes import main; main()", command]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("mode: ")
    assert len(run.stderr.splitlines()) == 1


def test_command_loads_neither_the_kubernetes_client_nor_flask():
    code = "import sys, binder_egress.commands.processes; sys.exit(bool({'kubernetes', 'flask'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=100, check=False).returncode == 0


def test_names_and_networks_are_written_as_requests_have_them(environment):
    environment(
        CAPTCHA_HOSTNAMES='["Hub.Example.org"]',
        BLOCKED_REPOSITORIES='["github.com/A/*", "10.5281/zenodo.1"]',
        SELF_NETWORKS='["10.1.2.3/8", "2001:db8::/32"]',
        TRUSTED_REPOSITORIES='{"github.com/A/b": "verified", "git.example.org/A/b": "verified"}',
    )
    settings = load(ReconcilerSettings)
    assert load(VerifierSettings).captcha_hostnames == {"hub.example.org"}
    assert list(map(str, settings.self_networks)) == ["10.0.0.0/8", "2001:db8::/32"]
    assert set(settings.trusted_repositories) == {"github.com/a/b", "git.example.org/A/b"}


def test_policies_can_be_read_from_a_file(environment, tmp_path):
    """An environment variable may have 128 KiB, and thousands of blocked addresses need more."""
    file = tmp_path / "policies.json"
    environment(POLICIES=str(file))
    assert sentences(ReconcilerSettings)[0].startswith("base and tiers: the file cannot be read: No such file or directory")
    file.write_text("{")
    assert sentences(ReconcilerSettings)[0].startswith("base and tiers: is not JSON")
    file.write_text('{"base": {"egress": []}}')
    assert load(ReconcilerSettings).policies == {"base": {"egress": []}}
