"""Stands in for BinderHub if its Python package is not installed: has the documented launch, and nothing else.

Kept: the traits that configuration sets, the order of calls (badge_base_url in each build request; then, in each
attempt: create the user, pre_launch_hook, start the server, follow its progress), attempts under new user names, the
event stream with every error as an event, the client's address from X-Real-Ip or X-Forwarded-For, build_only, and the
refusal of crawlers. With auth_enabled: sign-in by JupyterHub, launches under the user's own name, named servers. Not here:
pages, build tokens, rate limits, quotas, a limit of named servers, builds.
"""

import asyncio
import base64
import inspect
import json
import logging
import random
import re
import string
import uuid
from http.client import responses
from urllib.parse import quote, urlparse

from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPError
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.log import app_log
from traitlets import Bool, Callable, Dict, Integer, List, Unicode, Union
from traitlets.config import Application, LoggingConfigurable


class RepoProvider(LoggingConfigurable):
    """Turns the `spec` of a build request into a repository. The configuration has the subclass."""

    spec = Unicode()


class Launcher(LoggingConfigurable):
    """Starts servers through JupyterHub's API."""

    hub_api_token = Unicode()
    hub_url = Unicode(help="Where users reach JupyterHub.")
    hub_url_local = Unicode(help="The same from inside.")
    retries = Integer(4, config=True, help="Attempts, for each call of the hub's API and for each launch.")
    retry_delay = Integer(4, config=True, help="Seconds before the second attempt; doubled for each one after it.")
    launch_timeout = Integer(600, config=True, help="Seconds until a server must be ready.")
    create_user = Bool(True, help="False: users have signed in, and exist.")
    allow_named_servers = Bool(False, config=True, help="Whether a user who signed in may have more servers than one.")
    pre_launch_hook = Callable(None, config=True, allow_none=True, help="launcher, image, user, server, repository.")

    async def api_request(self, path, **kwargs):
        """Send the hub a request, and again if it fails."""
        headers = {"Authorization": f"token {self.hub_api_token}"}
        delay = self.retry_delay
        for attempt in range(1, self.retries + 1):
            try:
                return await AsyncHTTPClient().fetch(f"{self.hub_url_local}hub/api/{path}", headers=headers, **kwargs)
            except (HTTPError, OSError) as error:
                code = getattr(error, "code", 599)
                if attempt > 1 and code == 409:
                    return error.response
                if code < 500 or attempt == self.retries:
                    raise
                app_log.error("Error accessing Hub API: %s", error)
            await asyncio.sleep(delay)
            delay *= 2

    def unique_name_from_repo(self, repo_url):
        """A user name for one launch: the repository's path and a random end."""
        prefix = urlparse(repo_url).path.strip("/").replace("/", "-").lower().removesuffix(".git")
        if len(prefix) > 32:
            prefix = f"{prefix[:15]}-{prefix[-15:]}"
        return f"{prefix}-{''.join(random.choices(string.ascii_lowercase + string.digits, k=8))}"

    async def launch(self, image, username, server_name, repo_url, extra_args, event_callback):
        """Create the user, call the hook, start the server and follow it. Returns the data of the `ready` event."""
        user = quote(username, safe="@~")
        if self.create_user:
            app_log.info("Creating user %s for image %s", username, image)
            try:
                await self.api_request(f"users/{user}", method="POST", body=b"")
            except (HTTPError, OSError) as error:
                raise web.HTTPError(500, f"Failed to create temporary user for {image}") from error
        elif not server_name and "" in json.loads((await self.api_request(f"users/{user}")).body)["servers"]:
            raise web.HTTPError(409, f"User {username} already has a running server.")
        if self.pre_launch_hook:
            result = self.pre_launch_hook(self, image, username, server_name, repo_url)
            if inspect.isawaitable(result):
                # A separate task, as in BinderHub: the hook sees a copy of the request's context.
                await asyncio.ensure_future(result)
        token = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=\n")
        data = {"image": image, "repo_url": repo_url, "token": token, **extra_args}
        app_log.info("Starting server for user %s with image %s", username, image)
        try:
            await self.api_request(f"users/{user}/servers/{server_name}", method="POST", body=json.dumps(data))
            await asyncio.wait_for(self.follow(user, server_name, event_callback), self.launch_timeout)
        except (HTTPError, OSError) as error:
            app_log.error("Error starting server for user %s: %s", username, error)
            raise web.HTTPError(500, f"Failed to launch image {image}") from error
        except TimeoutError as error:
            raise web.HTTPError(500, f"Image {image} for user {username} took too long to launch") from error
        return {**data, "url": f"{self.hub_url}user/{user}/" + (f"{server_name}/" if server_name else "")}

    async def follow(self, user, server_name, event_callback):
        """Pass the progress of a spawn on until it is ready; raises if it failed."""
        events, buffer = asyncio.Queue(), b""

        def chunk(data):
            nonlocal buffer
            *lines, buffer = (buffer + data).split(b"\n\n")
            for line in lines:
                if line.startswith(b"data:"):
                    events.put_nowait(json.loads(line[5:]))

        path, timeout = f"users/{user}/servers/{server_name}/progress", self.launch_timeout
        if not server_name:
            path = f"users/{user}/server/progress"
        stream = asyncio.ensure_future(self.api_request(path, streaming_callback=chunk, request_timeout=timeout))
        stream.add_done_callback(lambda _: events.put_nowait(None))
        while (event := await events.get()) is not None:
            await event_callback(event)
            if event.get("failed"):
                raise web.HTTPError(500, event.get("message", "unknown error"))
            if event.get("ready"):
                return
        await stream
        raise web.HTTPError(500, "Image failed to launch")


class BuildHandler(web.RequestHandler):
    """GET build/<provider>/<spec>: the event stream of one build and launch."""

    def set_default_headers(self):
        """An event stream that no proxy buffers."""
        self.set_header("content-type", "text/event-stream")
        self.set_header("cache-control", "no-cache")
        if origin := self.settings["cors_allow_origin"]:
            self.set_header("Access-Control-Allow-Origin", origin)

    async def emit(self, **event):
        """Send one event."""
        try:
            self.write(f"data: {json.dumps(event)}\n\n")
            await self.flush()
        except StreamClosedError as error:
            raise web.Finish() from error

    def get_current_user(self):
        """Any visitor, unless `signed_in` says otherwise."""
        return "anonymous"

    def redirect(self, *args, **kwargs):
        """Nobody is redirected to sign in, because an event stream cannot follow."""
        raise web.HTTPError(403)

    def send_error(self, status_code=500, **kwargs):
        """A stream has no status code, so an error is an event."""
        message = getattr(kwargs.get("exc_info", [None, None])[1], "log_message", None)
        message = message or responses.get(status_code, "Unknown HTTP Error")
        event = {"phase": "failed", "status_code": status_code, "message": f"{message}\n"}
        self.write(f"data: {json.dumps(event)}\n\n")
        self.finish()

    def prepare(self):
        """Accept only event streams, and refuse clients that say they are crawlers."""
        agent = self.request.headers.get("User-Agent", "")
        if any(re.match(pattern, agent, re.IGNORECASE) for pattern in self.settings["block_build_user_agents"]):
            raise web.HTTPError(403, "Bots not allowed")
        if "text/event-stream" not in {part.strip().lower() for part in self.request.headers.get("Accept", "").split(";")}:
            raise web.HTTPError(400, "Missing Accept header: text/event-stream")

    def get_badge_base_url(self):
        """The address of this BinderHub. If it is a function, it gets the request, which shows configuration the request."""
        url = self.settings["badge_base_url"]
        if callable(url):
            url = url(self).removesuffix("/") + "/"
        return url or f"{self.request.protocol}://{self.request.host}{self.settings['base_url']}"

    @web.authenticated
    async def get(self, prefix, spec):
        """Build if needed, and launch."""
        if prefix not in self.settings["repo_providers"]:
            return await self.emit(phase="failed", message=f"No provider found for prefix {prefix}\n")
        provider = self.settings["repo_providers"][prefix](spec=spec.rstrip("/"))
        repo_url = provider.get_repo_url()
        ref = await provider.get_resolved_ref()
        extra_args = {
            "binder_ref_url": await provider.get_resolved_ref_url(),
            "binder_launch_host": self.get_badge_base_url(),
            "binder_request": f"v2/{prefix}/{spec}",
            "binder_persistent_request": f"v2/{prefix}/{await provider.get_resolved_spec()}",
            "binder_client_ip": self.request.remote_ip,
        }
        image = f"{self.settings['image_prefix']}{provider.get_build_slug()}:{ref}"
        build_only = self.get_query_argument("build_only", "").lower() == "true"
        if build_only and not self.settings["enable_api_only_mode"]:
            raise web.HTTPError(400, "Building but not launching is not permitted without enable_api_only_mode")
        if self.settings["build_seconds"]:
            await self.emit(phase="building", message="Building\n")
            await asyncio.sleep(self.settings["build_seconds"])
        if build_only:
            return await self.emit(phase="ready", imageName=image, message="Done! Found built image\n")
        await self.emit(phase="built", imageName=image, message="Found built image, launching...\n")
        await self.launch(image, repo_url, extra_args)

    async def launch(self, image, repo_url, extra_args):
        """Launch in up to `retries` attempts, each for a new user, or for the user who signed in."""
        await self.emit(phase="launching", message="Launching server...\n")
        launcher = self.settings["launcher"]
        delay = launcher.retry_delay

        async def progress(event):
            await self.emit(phase="launching", message=f"{event['message']}\n")

        for attempt in range(1, launcher.retries + 1):
            user, server = launcher.unique_name_from_repo(repo_url), ""
            if not launcher.create_user:
                user, server = self.current_user["name"], user if launcher.allow_named_servers else ""
            try:
                info = await launcher.launch(image, user, server, repo_url, extra_args, progress)
                break
            except Exception as error:
                if attempt == launcher.retries:
                    raise
                app_log.error("Retrying launch of %s after error (attempt=%s): %r", repo_url, attempt, error)
            await self.emit(phase="launching", message=f"Launch attempt {attempt} failed, retrying...\n")
            await asyncio.sleep(delay)
            delay *= 2
        await self.emit(phase="ready", message=f"server running at {info['url']}\n", **info)


class MainHandler(web.RequestHandler):
    """GET /: in place of BinderHub's home page, for users who have signed in."""

    @web.authenticated
    def get(self):
        """Say who the user is. Reading the token of the cookie `_xsrf` sets the cookie, as BinderHub's template does."""
        self.write({"user": self.current_user["name"], "xsrf": self.xsrf_token.decode()})


def signed_in(handler):
    """The handler for JupyterHub's users only, with a token of the hub or the cookie of a sign-in."""
    # Only the image has this package, and it is needed only here.
    from jupyterhub.services.auth import HubOAuth, HubOAuthenticated

    class SignedIn(HubOAuthenticated, handler):
        def initialize(self):
            super().initialize()
            self.hub_auth = HubOAuth.instance(config=self.settings["config"])

    return SignedIn


class VersionsHandler(web.RequestHandler):
    """GET versions: for probes."""

    def get(self):
        """Say which of the two runs here."""
        self.write({"binderhub": "stand-in"})


class BinderHub(Application):
    """The stand-in's server."""

    classes = [Launcher]  # noqa: RUF012
    config_file = Unicode("binderhub_config.py", config=True)
    aliases = {"config": "BinderHub.config_file"}  # noqa: RUF012
    base_url = Unicode("/", config=True)
    badge_base_url = Union([Unicode(), Callable()], default_value="", config=True)
    block_build_user_agents = List(Unicode(), default_value=[".*bot.*", ".*gpt.*", ".*crawler.*", ".*spider.*"], config=True)
    cors_allow_origin = Unicode("", config=True)
    hub_url = Unicode(config=True)
    hub_url_local = Unicode(config=True)
    hub_api_token = Unicode(config=True)
    image_prefix = Unicode("", config=True)
    port = Integer(8585, config=True)
    repo_providers = Dict(config=True)
    build_seconds = Integer(0, config=True, help="0: every image is there already.")
    enable_api_only_mode = Bool(False, config=True, help="Allows build_only. There are no pages in any case.")
    auth_enabled = Bool(False, config=True, help="Only users of JupyterHub launch, under their own names.")

    def initialize(self, argv=None):
        """Read the configuration."""
        self.parse_command_line(argv)
        self.load_config_file(self.config_file)

    def start(self):
        """Serve until the process ends."""
        asyncio.run(self.serve())

    async def serve(self):
        """Listen, and never return."""
        AsyncHTTPClient.configure(None, max_clients=200)
        urls = {"hub_url": self.hub_url, "hub_url_local": self.hub_url_local or self.hub_url}
        launcher = Launcher(parent=self, hub_api_token=self.hub_api_token, create_user=not self.auth_enabled, **urls)
        # No access log: the query may hold a token.
        settings = {"launcher": launcher, "log_function": lambda handler: None, "config": self.config}
        for trait in (
            "badge_base_url",
            "base_url",
            "block_build_user_agents",
            "build_seconds",
            "cors_allow_origin",
            "enable_api_only_mode",
            "image_prefix",
            "repo_providers",
        ):
            settings[trait] = getattr(self, trait)
        build = signed_in(BuildHandler) if self.auth_enabled else BuildHandler
        routes = [
            (rf"{self.base_url}build/([^/]+)/(.+)", build),
            (rf"{self.base_url}versions", VersionsHandler),
        ]
        if self.auth_enabled:
            from jupyterhub.services.auth import HubOAuthCallbackHandler

            settings["cookie_secret"] = uuid.uuid4().bytes
            routes += [(self.base_url, signed_in(MainHandler)), (rf"{self.base_url}oauth_callback", HubOAuthCallbackHandler)]
        self.http_server = HTTPServer(web.Application(routes, **settings), xheaders=True)
        self.http_server.listen(self.port)
        app_log.info("BinderHub's stand-in listens on port %d", self.port)
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    BinderHub.launch_instance()
