"""The three settings: values files that each render as their page says, alone, as a release has them, and below a parent chart."""

import json
import shutil
import subprocess

import pytest
import yaml

from tests.support import TOP
from tests.support.charts import CHART, by_name

FOLDER = CHART / "settings"
SETTINGS = ["balanced", "open", "strict"]

CAPTCHA = (
    "--set=captcha.providers.turnstile.enabled=true",
    "--set=captcha.providers.turnstile.siteKey=0x4AAA",
    "--set=captcha.providers.turnstile.existingSecret=turnstile",
)
"""The values that an operator adds to *strict*."""

MORE = {"strict": CAPTCHA}

STABLE = (
    "--set=secret.existingSecret=binder-egress",
    "--set=ingress.enabled=true",
    "--set=ingress.hosts={hub.example.org}",
)
"""Makes two renderings the same: the chart creates no secrets."""


def hosts_by_tier(objects):
    tiers = json.loads(objects["ConfigMap", "binder-egress-proxy"]["data"]["tiers.json"])
    return {name: sorted(tier["hosts"]) for name, tier in tiers.items()}


def test_open_is_the_default_of_the_chart(render):
    assert render(*STABLE, f"--values={FOLDER}/open.yaml") == render(*STABLE)


@pytest.mark.parametrize("name", SETTINGS)
def test_released_file_for_a_sub_chart_does_the_same_below_a_parent(helm, tmp_path, name):
    release, parent = tmp_path / "release", tmp_path / "parent"
    subprocess.run([TOP / "ci/release-settings", release], check=True)
    assert (release / f"{name}.yaml").read_text() == (FOLDER / f"{name}.yaml").read_text()
    shutil.copytree(CHART, parent / "charts/binder-egress")
    dependency = {"name": "binder-egress", "version": ">=0.0.0-0"}
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about))
    alone = [*STABLE, *MORE.get(name, ())]
    below = [option.replace("--set=", "--set=binder-egress.") for option in alone]
    expected = by_name(helm("template", "r", CHART, "--namespace", "binder", *alone, f"--values={FOLDER}/{name}.yaml"))
    rendered = by_name(helm("template", "r", parent, "--namespace", "binder", *below, f"--values={release}/{name}-subchart.yaml"))
    # A parent imports these values.
    del expected["ConfigMap", "binder-egress-binderhub-values"]
    assert rendered == expected


@pytest.mark.parametrize("name", ["balanced", "strict"])
def test_every_server_has_packages_and_a_solution_opens_everything_for_an_hour(render, name):
    """No host of the packages takes data."""
    objects = render(*STABLE, *MORE.get(name, ()), f"--values={FOLDER}/{name}.yaml")
    packages = ["conda", "debian", "julia", "python", "r"]
    assert json.loads(objects["ConfigMap", "binder-egress"]["data"]["BINDER_EGRESS_UNVERIFIED_HOSTS"]) == packages
    assert sorted(hosts_by_tier(objects)["unverified"]) == packages
    tier = json.loads(objects["ConfigMap", "binder-egress"]["data"]["BINDER_EGRESS_TIERS"])["verified"]
    assert tier == {"internet": True, "hosts": ["*"], "lease": 3600, "on_expiry": "end"}
    assert hosts_by_tier(objects)["verified"] == ["*"]
    policy = objects["NetworkPolicy", "binder-egress-tier-verified"]["spec"]
    assert policy == render(*STABLE)["NetworkPolicy", "binder-egress-tier-verified"]["spec"]


def test_strict_without_a_captcha_says_what_is_missing(helm):
    refused = helm("template", "r", CHART, *STABLE, f"--values={FOLDER}/strict.yaml", check=False)
    assert refused.returncode != 0 and "no provider in captcha.providers is enabled" in refused.stderr


def test_strict_asks_for_a_captcha_or_a_login(render):
    objects = render(*STABLE, *CAPTCHA, f"--values={FOLDER}/strict.yaml")
    seen = objects["ConfigMap", "binder-egress"]["data"]
    assert list(json.loads(seen["BINDER_EGRESS_CAPTCHA_PROVIDERS"])) == ["turnstile"]
    assert seen["BINDER_EGRESS_CAPTCHA_ON_OUTAGE"] == "deny"
    assert json.loads(seen["BINDER_EGRESS_AUTHENTICATED_USERS"]) == {"*": "signed-in"}
    assert json.loads(seen["BINDER_EGRESS_TIERS"])["signed-in"] == {"internet": True, "hosts": ["*"]}
    assert hosts_by_tier(objects)["signed-in"] == ["*"]
    policies = [objects["NetworkPolicy", f"binder-egress-tier-{tier}"]["spec"]["egress"] for tier in ("verified", "signed-in")]
    assert policies[0] == policies[1]
