# binder-egress: announces each launch to the verifier, which decides whether the new pod may use the network. It
# fails no launch and delays none by more than a second: without a decision the pod starts without egress, and its
# user can unlock it later. It does nothing unless BINDER_EGRESS_API and BINDER_EGRESS_API_TOKEN are set.
def _binder_egress(c):
    # ci/embed-integration writes this file into chart/values.yaml, without comments such as this one.
    import asyncio
    import concurrent.futures
    import inspect
    import json
    import os
    import re
    import time
    from contextvars import ContextVar

    from tornado.log import app_log
    from tornado.simple_httpclient import SimpleAsyncHTTPClient

    api = os.environ.get("BINDER_EGRESS_API", "").strip().rstrip("/")
    api_token = os.environ.get("BINDER_EGRESS_API_TOKEN", "").strip()
    if not (api and api_token):
        # An empty variable means that it is switched off on purpose.
        if "BINDER_EGRESS_API" not in os.environ:
            hint = "If extraEnv is a list in your values, let `egress plan` write it anew"
            app_log.error("binder-egress: BINDER_EGRESS_API is missing. %s", hint)
        app_log.warning("binder-egress: idle, BINDER_EGRESS_API or BINDER_EGRESS_API_TOKEN is not set")
        return

    # Seconds that all attempts of one launch request may wait together, or one attempt if its request was not seen.
    limit_seconds = 1.0
    # After this many failures in a row, the verifier is not called for this many seconds (D-087).
    rest_after, rest_seconds = 3, 30.0
    # Launches that were not announced in time wait, so many at most and for so many seconds, and are announced in the
    # background, where an answer may take so many seconds (D-520, D-521).
    most_waiting, waiting_seconds, patient_seconds = 500, 300.0, 5.0
    # These concern a single launch, and a visitor may be able to cause them, 500 by a fault of the verifier. Other
    # launches go on. 409: the launch is decided.
    refusals = (400, 409, 413, 422, 500)
    request_seen: ContextVar = ContextVar("binder_egress_request", default=None)
    state: dict = {"client": None, "failures": 0, "rest_until": 0.0, "background": None}
    waiting: dict = {}  # user and server → launch, and when its hook began; the next one comes first
    previous_url = c.BinderHub.get("badge_base_url")
    previous_hook = c.Launcher.get("pre_launch_hook")

    def badge_base_url(handler):
        # BinderHub calls this in each build request, and the hook below runs in a copy of that request's context. No
        # other documented setting sees the request: BinderHub does not pass it to the hook (binderhub#1121).
        try:
            request = handler.request
            user = getattr(handler, "current_user", None)
            # The address that connected, and X-Forwarded-For: the verifier decides by trustedProxies (D-213).
            # BinderHub's own `remote_ip` believes every X-Real-Ip.
            address = getattr(getattr(request.connection, "context", None), "address", None)
            # JupyterHub's model of the user, if BinderHub has auth_enabled; otherwise the word "anonymous".
            groups = [str(name)[:255] for name in user.get("groups") or []][:1000] if isinstance(user, dict) else []
            token = request.query_arguments.get("egress_token", [b""])[-1].decode("utf-8", "replace").strip()
            origin = request.headers.get("Origin", "")
            told = {
                # A pass is far shorter. A longer token is cut: it stays invalid, but the request is readable.
                "token": token[:4096] or None,
                "client_address": address[0] if isinstance(address, tuple) else request.remote_ip,
                # Proxies add to the end, so a forged header is cut at its beginning.
                "forwarded_for": ",".join(request.headers.get_list("X-Forwarded-For"))[-2048:] or None,
                # The time of arrival, because a build may take longer than a pass is valid.
                "requested_at": time.time() - request.request_time(),
                "groups": groups,
                # The verifier counts what the request claims to be, and keeps only the word for that (D-345).
                "user_agent": request.headers.get("User-Agent", "")[:512] or None,
                # Browsers send an Origin with requests from other sites.
                "elsewhere": bool(origin) and origin.partition("://")[2] != request.host,
            }
            # Each attempt of this request has a copy of the context, but all share this dict, and so share `left`.
            request_seen.set({"told": told, "left": limit_seconds})
            # BinderHub logs this URL when a launch fails or its visitor leaves.
            request.uri = re.sub(r"(egress(?:_|%5[Ff])token=)[^&]*", r"\1[secret]", request.uri)
        except Exception as error:
            app_log.warning("binder-egress: build request not read: %s", type(error).__name__)
        url = previous_url(handler) if callable(previous_url) else previous_url
        if isinstance(url, str) and url:
            return url
        # BinderHub's own default. It replaces an empty setting with this, but an empty result of a function with "/".
        return f"{handler.request.protocol}://{handler.request.host}{handler.settings['base_url']}"

    async def announce(launch, seconds):
        # A separate client: in BinderHub's shared one, requests queue behind the progress streams of other launches.
        if state["client"] is None:
            state["client"] = SimpleAsyncHTTPClient(force_instance=True, max_clients=500, max_buffer_size=65536)
        response = await state["client"].fetch(
            f"{api}/api/launches",
            method="POST",
            headers={"Authorization": f"Bearer {api_token}", "Content-Type": "application/json"},
            body=json.dumps(launch),
            # Below the limit, so that the client closes the connection before the caller stops waiting.
            connect_timeout=seconds * 0.9,
            request_timeout=seconds * 0.9,
            follow_redirects=False,
            decompress_response=False,
        )
        answer = json.loads(response.body)
        return answer["tier"], answer["rule"]

    def announce_later(launch, began):
        if len(waiting) >= most_waiting:
            del waiting[next(iter(waiting))]
        # The verifier gives a late decision only to a pod that was created about then.
        launch["launched_at"] = time.time() - (time.monotonic() - began)
        waiting[launch["user"], launch["server"]] = (launch, began)
        if state["background"] is None or state["background"].done():
            state["background"] = asyncio.ensure_future(announce_waiting())

    async def announce_waiting():
        while waiting:
            (user, server), entry = next(iter(waiting.items()))
            launch, began = entry
            sent = time.monotonic()
            late = sent - began
            if late > waiting_seconds:
                del waiting[user, server]
                app_log.warning("binder-egress: %s/%s was not announced within %d s", user, server, waiting_seconds)
                continue
            try:
                tier, rule = await announce(launch, patient_seconds)
                again = False
                app_log.info("binder-egress: %s/%s tier=%.40s rule=%.40s, %d s late", user, server, tier, rule, late)
                # If it took longer, the hook would get no answer in time.
                if time.monotonic() - sent < limit_seconds:
                    state.update(failures=0, rest_until=0.0)
            except Exception as error:
                code = getattr(error, "code", "")
                again = code not in refusals
                if not again:
                    app_log.warning("binder-egress: %s/%s: %s(%s)", user, server, type(error).__name__, code)
            # A later launch may have removed it meanwhile, or taken its place.
            if waiting.get((user, server)) is entry:
                del waiting[user, server]
                if again:
                    waiting[user, server] = entry
            if again:
                await asyncio.sleep(1)

    async def pre_launch_hook(launcher, image, username, server_name, repo_url, *more, **named):
        # No request was seen: another snippet replaced badge_base_url. `context` says so; the verifier counts it.
        unknown = ("token", "client_address", "forwarded_for", "requested_at", "user_agent")
        nothing: dict = {"groups": [], "elsewhere": False} | dict.fromkeys(unknown)
        seen: dict = request_seen.get() or {"told": nothing, "left": limit_seconds}
        # An earlier launch of this server, or attempt of this request, is over.
        waiting.pop((username, server_name), None)
        waiting.pop(seen.get("attempt"), None)
        seen["attempt"] = (username, server_name)
        if callable(previous_hook):
            # First and outside any `try`: this hook may refuse the launch, and its errors must reach BinderHub.
            result = previous_hook(launcher, image, username, server_name, repo_url, *more, **named)
            if isinstance(result, concurrent.futures.Future):
                result = asyncio.wrap_future(result)
            if inspect.isawaitable(result):
                await result
        began = time.monotonic()
        launch: dict = {"user": username, "server": server_name, "image": image, "repository": repo_url}
        launch |= {**seen["told"], "context": seen["told"] is not nothing}
        try:
            # JupyterHub's address for browsers: the verifier's pages lead back there (D-370).
            hub_url = getattr(launcher, "hub_url", None)
            launch["hub_url"] = hub_url if isinstance(hub_url, str) and len(hub_url) <= 1024 else None
            # BinderHub creates the user itself, unless the visitor has logged in.
            launch["authenticated"] = getattr(launcher, "create_user", True) is False
            if began < state["rest_until"] or seen["left"] < limit_seconds / 2:
                reason = "not announced, the verifier failed or was slow"
                app_log.info("binder-egress: %s/%s %s", username, server_name, reason)
                announce_later(launch, began)
                return
            tier, rule = await asyncio.wait_for(announce(launch, seen["left"]), seen["left"])
            state.update(failures=0, rest_until=0.0)
            app_log.info("binder-egress: %s/%s tier=%.40s rule=%.40s", username, server_name, tier, rule)
        except Exception as error:
            # Only the type of the error: its text could quote the request, and with it the pass.
            code = getattr(error, "code", "")
            app_log.warning("binder-egress: %s/%s: %s(%s)", username, server_name, type(error).__name__, code)
            if code not in refusals:
                state["failures"] += 1
                announce_later(launch, began)
            if state["failures"] >= rest_after:
                state["rest_until"] = time.monotonic() + rest_seconds
                text = "binder-egress: the verifier fails, launches do not wait for it for %d s"
                app_log.error(text, rest_seconds)
        finally:
            seen["left"] -= time.monotonic() - began

    c.BinderHub.badge_base_url = badge_base_url
    c.Launcher.pre_launch_hook = pre_launch_hook


_binder_egress(c)  # type: ignore[name-defined]
del _binder_egress
