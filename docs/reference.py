"""The reference pages, made from their sources: values, HTTP, Redis' users, the checks of the commands, words."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from words import words_page

from binder_egress.gatecheck.checklist import CHECKS
from ci.openapi_documents import DOCUMENTS
from ci.value_comments import comments


def _default(path: tuple[str, ...], value: Any, known: Iterable[tuple[str, ...]]) -> str:
    """The default of a value in Markdown; "" for a map whose entries have explanations of their own."""
    if isinstance(value, dict) and any(other[: len(path)] == path and other != path for other in known):
        return ""
    if isinstance(value, (dict, list)) and value:
        return "```yaml\n" + yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120) + "```"
    if isinstance(value, str) and "\n" in value:
        return "A text of several lines."
    return f"Default: `{json.dumps(value, ensure_ascii=False)}`"


TOGETHER = """\
## Values that act on each other

| values | |
|---|---|
| `mode` and JupyterHub's `singleuser.networkPolicy.enabled` | `false`: the base policy takes its place; `observe`, `off`: `true` |
| `image` and `integration….startGuard.image` | one image: a parent chart sets both, or leaves both to a published chart |
| `fullnameOverride`, `ingress.path`, `publicUrl` and `integration` | BinderHub's values contain them: a parent chart repeats them |
| `trustedProxies` and `verifier.networkPolicy.publicFrom` | proxies are believed, so only they may reach the public port |
| `cidrs` of a tier, `except` and `bannedAddresses` | the narrowest of the first two wins; a banned address is closed in any case |
| `unverified.hosts`, `tiers.<name>.hosts`, `rules.repositories` and `proxy.enabled` | hosts need the proxy |
| `tiers.<name>.lease`, `onExpiry: stop`, `onMatch: stop` and `reconciler.mayStopPods` | only then may pods be deleted |
| `captcha.onOutage` and `captcha.providers.altcha` | its tier and its price count in an outage, even if it is not enabled |
| `captcha.providers.altcha`, `fairness` and `launchPage.hold` | what takes longer than `hold` is too late for the launch |
| `redis.maxmemory` and `redis.resources.limits.memory` | the limit leaves room beyond the data |
| `canary.readiness` and `mode: deny` | only with it does anything look at the gate in that mode |
"""


def values_page() -> str:
    """The page of values."""
    found = comments()
    out = ["# Values", "", "All values of the chart, from the comments in its `values.yaml`. The defaults are shown.", "", TOGETHER]
    group = None
    for path, (text, default) in found.items():
        if path[0] != group:
            group = path[0]
            out += [f"## {group}", ""]
        body = "\n\n".join(part for part in (text, _default(path, default, found)) if part).splitlines()
        out += [f"`{'.'.join(path)}`", f": {body[0]}", *(f"  {line}".rstrip() for line in body[1:]), ""]
    return "\n".join(out)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[key]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else kind


def _fields(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Rows of a table: the properties of a JSON schema, and of the objects in it."""
    for name, part in schema.get("properties", {}).items():
        needed = "yes" if name in schema.get("required", []) else ""
        note = part.get("description", "").replace("|", "\\|").replace("\n", " ")
        yield f"| `{prefix}{name}` | {_type(part)} | {needed} | {note} |"
        yield from _fields(part, f"{prefix}{name}.")
        yield from _fields(part.get("items", {}), f"{prefix}{name}[].")


def _table(schema: dict[str, Any]) -> list[str]:
    rows = [row for one in [schema, *schema.get("oneOf", []), *schema.get("anyOf", [])] for row in _fields(one)]
    return ["| field | type | always | |", "|---|---|---|---|", *dict.fromkeys(rows), ""] if rows else []


def _resolved(node: Any, document: dict[str, Any]) -> Any:
    """A part of an OpenAPI document with the schemas that it refers to in their places."""
    if isinstance(node, list):
        return [_resolved(part, document) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found = document["components"]["schemas"][node["$ref"].rpartition("/")[2]]
        return _resolved(found | {key: part for key, part in node.items() if key != "$ref"}, document)
    return {key: _resolved(part, document) for key, part in node.items()}


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {method.upper()} {path}", "", operation.get("summary", ""), "")
    if note := operation.get("description"):
        yield from (note, "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | |", "|---|---|---|---|")
        for one in parameters:
            yield f"| `{one['name']}` | {one['in']} | {_type(one.get('schema', {}))} | {one.get('description', '')} |"
        yield ""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Body, `{kind}`:", "", *_table(content.get("schema", {})))
    for status, answer in operation.get("responses", {}).items():
        yield from (f"**{status}**: {answer['description']}", "")
        for kind, content in answer.get("content", {}).items():
            if kind == "application/json":
                yield from _table(content.get("schema", {}))


def http_page() -> str:
    """The page of the HTTP interfaces."""
    out = ["# HTTP", "", "From the OpenAPI documents, which verifier and receiver have at `openapi.json` of each port.", ""]
    out += [
        "Errors are `application/problem+json` ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with a `type` that stays.",
        "",
    ]
    for title, document in (
        ("Public, below the ingress path", DOCUMENTS["public"]),
        ("In the cluster only", DOCUMENTS["in-cluster"]),
        ("In the cluster only, for detectors", DOCUMENTS["receiver"]),
    ):
        out += [f"## {title}", ""]
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if method in ("get", "post", "put", "delete", "patch"):
                    out += _operation(method, path, _resolved(operation, document))
    return "\n".join(out)


def redis_page() -> str:
    """The page of what each process may do in the chart's Redis, from the table in the script that starts it."""
    script = (Path(__file__).parents[1] / "chart/files/redis-users.sh").read_text()
    words = {"": "", "~": "read, write ", "%R~": "read ", "%W~": "write ", "&": "channel "}
    users = ("verifier", "reconciler", "receiver", "proxy")
    cells: dict[str, dict[str, str]] = {}
    for row in csv.reader(script.partition("rights='\n")[2].partition("\n'\n")[0].splitlines()):
        user, commands, right, keys = (*row, "", "")[:4]
        for key in [f"`{key}`" for key in keys.split()] or ["commands"]:
            of = cells.setdefault(key, dict.fromkeys(users, ""))
            of[user] += words[right] + " ".join(f"`{command.upper()}` ".replace("|", " ") for command in commands.split())
    out = ["# Redis' users", "", "What each process may do in the chart's Redis. [Privacy](../privacy.md) has what keys hold.", ""]
    out += [f"| key | {' | '.join(users)} |", "|---" * (len(users) + 1) + "|"]
    return "\n".join([*out, *(f"| {key} | {' | '.join(of.values())} |" for key, of in cells.items()), ""])


def checks_page() -> str:
    """The page of what `egress plan` and `egress doctor` look at."""
    out = ["# Checks", "", "What `egress plan` looks at before the installation, and `egress doctor` after it.", ""]
    out += ["| check | why | if it is not in order | command |", "|---|---|---|---|"]
    commands = {check.id: ", ".join(f"`{command}`" for command in check.by) for check in CHECKS.values()}
    return "\n".join(
        [*out, *(f"| {each.id} | {each.sentence} | {each.do} | {commands[each.id]} |" for each in CHECKS.values()), ""]
    )


def pages() -> dict[str, str]:
    """The pages, by name."""
    made = {"values": values_page(), "http": http_page(), "redis": redis_page(), "checks": checks_page()}
    return made | {"words": words_page()}
