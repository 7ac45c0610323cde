"""The real BinderHub as a process, with the chart's launch hook, and doubles of GitHub, the registry and the builder.

Any interpreter that has the package runs this file, so it imports nothing from the tests. Each line on standard input is a JSON
object, whose `do` is `start`, `set` or `stop`, and is answered by a line.
"""

import asyncio
import json
import os
import sys
import time
from contextvars import ContextVar

from binderhub.app import BinderHub
from binderhub.build import FakeBuild, ProgressEvent
from binderhub.registry import FakeRegistry
from binderhub.repoproviders import GitHubRepoProvider
from traitlets.config import Config

# The ingress reports the current build in this header.
HEADER = "X-Test-Build"
current: ContextVar[dict] = ContextVar("current")


class GitHub(GitHubRepoProvider):
    """The provider for GitHub, which has every repository."""

    async def get_resolved_ref(self):
        self.resolved_ref = "1a2b3c4d5e6f"
        return self.resolved_ref


class Registry(FakeRegistry):
    """A registry that has every image, except those whose builds a test makes fail."""

    async def get_image_manifest(self, image, tag):
        """The manifest; None: the image has to be built."""
        return None if current.get()["fails"] else {"image": image}


class Build(FakeBuild):
    """A build that fails with repo2docker's message."""

    def stream_logs(self):
        for phase, said in (("building", "Building\n"), ("failed", "Error during build: no such file\n")):
            self.progress(ProgressEvent.Kind.LOG_MESSAGE, json.dumps({"phase": phase, "message": said}))


def note_build(handler):
    """The setting `badge_base_url`. BinderHub calls it in each build request, so registry and launcher learn of the request."""
    told = handler.request.headers.get(HEADER)
    if told:
        current.set(json.loads(told))
    return f"{handler.request.protocol}://{handler.request.host}{handler.settings['base_url']}"


def start(port, base, edge, hub, token, hook, templates):
    c = Config()
    c.BinderHub.update(
        port=port,
        base_url=base,
        badge_base_url=note_build,
        builder_required=False,
        build_class=Build,
        use_registry=True,
        registry_class=Registry,
        repo_providers={"gh": GitHub},
        hub_url=hub,
        hub_url_local=f"{edge}/",
        hub_api_token="token",
        # The same as for members of mybinder.org: they share a secret, and one member's pages start builds at another.
        build_token_secret="0" * 64,
        build_token_check_origin=False,
        cors_allow_origin="*",
    )
    c.Launcher.retry_delay = 0
    if templates:
        c.BinderHub.template_path = templates
    os.environ |= {"BINDER_EGRESS_API": edge, "BINDER_EGRESS_API_TOKEN": token}
    with open(hook) as file:
        exec(compile(file.read(), hook, "exec"), {"c": c})
    BinderHub.clear_instance()
    app = BinderHub(config=c)
    app.initialize([])
    # Names that a test knows beforehand. The real ones are of a repository and eight random letters.
    app.launcher.unique_name_from_repo = lambda repo_url: current.get()["user"]
    app.start(run_loop=False)
    return app


async def main():
    apps = {}
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        what = command.pop("do")
        if what == "start":
            apps[command["port"]] = start(**command)
        elif what == "set":
            app = apps[command["port"]]
            app.tornado_app.settings["extra_header_html"] = command["header_html"]
            app.tornado_app.settings["traitlets_config"].GitHub.banned_specs = command["banned"]
        elif what == "stop":
            app = apps.pop(command["port"])
            app.http_server.stop()
            await app.http_server.close_all_connections()
            app.build_pool.shutdown(wait=False)
        print(json.dumps({"at": time.time()}), flush=True)


asyncio.run(main())
