"""The examples of docs/bots.md, and its statements about the classes."""

import json
import os
import re
import subprocess

import promql_parser
import yaml

from binder_egress.web.claims import CLAIMS, CLIENTS, CRAWLERS
from binder_egress_client.verifier import USER_AGENT
from tests.support import TOP
from tests.support.doc_examples import section
from tests.support.metrics import samples

PAGE = (TOP / "docs/bots.md").read_text()
HEADING = "What launches claim to be"


def test_command_counts_what_crawlers_launch(tmp_path):
    """A `kubectl` that prints lines as the verifier writes them."""
    (command,) = section("docs/bots.md", "Which repositories crawlers launch")
    (example,) = re.findall(r"```json\n(.*?)```", (TOP / "docs/logs.md").read_text(), re.S)
    made = [("crawler", "a/often")] * 3 + [("crawler", "b/once"), ("browser", "c/by-people"), ("none", "a/often")]
    lines = [json.dumps(json.loads(example) | {"claim": claim, "repository": f"https://x/{name}"}) for claim, name in made]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat {tmp_path}/log\n")
    kubectl.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", command], env=environment, capture_output=True, text=True, check=True)
    assert re.findall(r'^ *(\d+) "\w+": "(.*)"$', done.stdout, re.M) == [("3", "https://x/a/often"), ("1", "https://x/b/once")]


def test_claims_and_words_are_those_of_the_code():
    text = PAGE[PAGE.index(f"## {HEADING}") : PAGE.index("The first row that fits counts.")]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.M))
    assert rows.keys() - {"claim"} == set(CLAIMS)
    assert tuple(re.findall(r"`([^`]+)`", rows["crawler"].removeprefix("has "))) == CRAWLERS
    assert {name.lower() for name in re.findall(r"`([^`]+)`", rows["client"])} <= set(CLIENTS)


def test_query_is_promql_about_an_existing_metric():
    (query,) = section("docs/bots.md", HEADING, "promql")
    promql_parser.parse(query)
    named = set(re.findall(r"binder_egress_\w+", PAGE))
    assert named == {"binder_egress_launches_by_claim_total", "binder_egress_launches_total"} <= samples()


def test_patterns_for_binderhub_refuse_what_is_counted_as_a_crawler():
    """BinderHub compares with `re.match`, in either case."""
    (values,) = section("docs/bots.md", "What to do", "yaml")
    patterns = yaml.safe_load(values)["config"]["BinderHub"]["block_build_user_agents"]
    crawlers = [f"Mozilla/5.0 (compatible; {word.title()})" for word in CRAWLERS]
    others = [USER_AGENT, "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "okhttp/4.12.0"]
    refused = [agent for agent in crawlers + others if any(re.match(pattern, agent, re.IGNORECASE) for pattern in patterns)]
    assert refused == crawlers
