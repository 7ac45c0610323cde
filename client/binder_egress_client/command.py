"""The command. Messages for people go to standard error. Standard output gets only the address, the pass or JSON."""

import dataclasses
import enum
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import click
import segno
from rich.console import Console
from rich.text import Text

from . import __version__
from .check import PersonNeeded, earn
from .launch import Launch, LaunchFailed
from .solving import Unsolvable
from .unlocking import UNVERIFIED, WATCHED, Outcome, only_watches
from .unlocking import keep as keep_server
from .unlocking import unlock as unlock_server
from .verifier import NoAnswer, NoGate, Refused, Server, Verifier

if TYPE_CHECKING:
    TextType = click.ParamType[str]
    ServerType = click.ParamType[Server]
else:
    # Click 8.1 has no generic types.
    TextType = ServerType = click.ParamType

WAIT = 300.0
"""Seconds to wait for a person to solve the check, if standard error is a terminal."""


class Exit(enum.IntEnum):
    """Exit codes. The README of the package explains them."""

    DONE = 0
    LAUNCH_FAILED = 1
    USAGE = 2  # click's
    NO_EGRESS = 3
    NO_ANSWER = 4
    NO_SERVER = 5
    NOT_RENEWED = 6
    INTERRUPTED = 130


err = Console(stderr=True, highlight=False, soft_wrap=True)


COLOUR = re.compile(r"(\x1b\[[0-9;:]*m)")
"""Escape sequences that are kept: colours."""

STEERING = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # strings: title, clipboard, link, …
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # cursor, screen, …
    r"|\x1b[ -/]*[0-~]?"  # character sets, reset, …
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # single control characters, except tab and newline
)
"""Escape sequences and control characters that are removed."""


def _harmless(text: str) -> Text:
    """Text from a build or a server, with its colours but no other escape sequences.

    Builds run strangers' code, and other sequences control the terminal. Rich would turn some of them into links with an unchecked
    target, so all text passes through here.
    """
    # Every second part is a colour. The parts between are cleaned one by one, so that their remains cannot form a new sequence.
    parts = COLOUR.split(text.replace("\r", "\n"))
    return Text.from_ansi("".join(part if at % 2 else STEERING.sub("", part) for at, part in enumerate(parts)))


def _say(text: str, style: str = "") -> None:
    line = _harmless(text)
    line.style = style
    err.print(line)


class Address(TextType):
    """An http or https address without query or fragment."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parts = urlsplit(value)
        except ValueError:  # such as "http://[::1"
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            self.fail(f"{value!r} is not an address like https://hub.example.org", param, ctx)
        if "@" in parts.netloc:
            # Messages and links show the address.
            self.fail("leave user and password out of the address; they are read from ~/.netrc", param, ctx)
        return value


class ServerAddress(ServerType):
    """The value of a server's variable `BINDER_EGRESS_URL`."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Server:
        if isinstance(value, Server):
            return value
        try:
            return Server.of_unlock_address(value)
        except ValueError as error:
            # Not the value, which may have a password.
            self.fail(str(error), param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds within limits. `nan` is refused: it passes every comparison with a range, and would not give a
    deadline."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return found


class Spec(TextType):
    """A repository to launch, as in BinderHub's addresses."""

    name = "spec"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "://" in value or value.strip("/").count("/") < 1:
            self.fail(f"{value!r} is not like gh/owner/repo/ref", param, ctx)
        return value


class Key(TextType):
    """An API key. Error messages must not contain it."""

    name = "key"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        value = value.strip()
        if not value.isascii() or not value.isprintable() or " " in value:
            self.fail("the key has characters that no key has", param, ctx)
        return value


hub_option = click.option(
    "--binder",
    "hub",
    type=Address(),
    default="https://mybinder.org",
    envvar="BINDER_URL",
    show_default=True,
    show_envvar=True,
    help="BinderHub's address.",
)
verifier_option = click.option(
    "--egress", "verifier", type=Address(), help="The verifier's address.  [default: egress/ below BinderHub's]"
)
key_option = click.option(
    "--key",
    type=Key(),
    envvar="BINDER_EGRESS_KEY",
    show_envvar=True,
    help="An API key, used instead of a calculation. Better in the environment: others can see the arguments of commands.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON to standard output.")
browser_option = click.option(
    "--in-browser",
    is_flag=True,
    help="Do not calculate: show the link to the server's page, and wait until somebody solves the check there.",
)
wait_option = click.option(
    "--wait",
    metavar="SECONDS",
    type=Seconds(0, 86400),
    help=f"Seconds to wait for a person, if one is needed.  [default: {WAIT:.0f} on a terminal, else 0]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Launch BinderHub servers with network egress, from terminals and scripts.

    Exit codes: 0 done; 1 the launch failed; 2 wrong usage; 3 no egress; 4 no answer; 5 no such server; 6 egress, but its
    lease could not be renewed; 130 interrupted.
    """


@cli.command()
@click.argument("spec", type=Spec())
@hub_option
@verifier_option
@key_option
@browser_option
@wait_option
@click.option("--no-egress", is_flag=True, help="Launch without asking for egress.")
@json_option
def launch(
    spec: str,
    hub: str,
    verifier: str | None,
    key: str | None,
    in_browser: bool,
    wait: float | None,
    no_egress: bool,
    as_json: bool,
) -> Exit:
    """Launch SPEC (gh/owner/repo/ref), and print the server's address.

    With --json: BinderHub's events as they come, one a line, and then an object with the single key "binder_egress".
    """
    started = Launch(spec, hub, verifier=verifier, key=key, egress=not no_egress, calculate=not in_browser)
    with started, err.status(_harmless(f"Launching {spec}"), spinner="line") as status:
        try:
            for event in started:
                if as_json:
                    click.echo(event.text)
                else:
                    _progress(event.data)
                status.update(_harmless(f"{event.data.get('phase', 'launching')} {spec}"))
        except LaunchFailed as error:
            _say(f"The launch failed: {error}", "bold red")
            if as_json:
                click.echo(
                    json.dumps({"binder_egress": {"url": None, "egress": False, "kind": "launch-failed", "why": str(error)}})
                )
            return Exit.LAUNCH_FAILED
        if started.address and not as_json:
            # The outcome may take minutes, and a script that is interrupted then needs the address of its running server.
            status.stop()
            click.echo(started.address)
            status.start()
        status.update("Checking whether the server has egress")
        outcome = started.outcome(wait=_seconds(wait), on_link=_show_link(status.stop))
    if as_json:
        click.echo(json.dumps({"binder_egress": {"url": started.address, **_described(outcome)}}))
    _conclude(outcome)
    return Exit.NO_EGRESS if outcome.egress is False or outcome.kind == "no-answer" else Exit.DONE


@cli.command()
@click.argument("server", metavar="URL", type=ServerAddress())
@key_option
@browser_option
@wait_option
@click.option(
    "--keep",
    metavar="SECONDS",
    type=Seconds(1, 86400),  # D-167
    help="Renew the lease as often as needed, until it lasts this many seconds from now; a day at most.",
)
@json_option
def unlock(server: Server, key: str | None, in_browser: bool, wait: float | None, keep: float | None, as_json: bool) -> Exit:
    """Give a running server egress, or renew its lease if that is possible yet. URL is the value of the server's environment
    variable BINDER_EGRESS_URL.

    With --json: an object; with --keep one object a line, at each change.
    """
    with err.status("Unlocking", spinner="line") as status:
        how: dict[str, Any] = {
            "key": key,
            "calculate": not in_browser and not key,
            "wait": _seconds(wait),
            "on_link": _show_link(status.stop),
        }
        try:
            for outcome in keep_server(server, keep, **how) if keep else (unlock_server(server, **how),):
                _tell(outcome, as_json)
                status.update("Keeping the server's egress")
                status.start()
        except NoGate as error:
            outcome = Outcome(None, why=str(error), kind="no-answer")
            _tell(outcome, as_json)
    if outcome.egress:
        return Exit.NOT_RENEWED if outcome.renewed is False else Exit.DONE
    codes = {"no-answer": Exit.NO_ANSWER, "no-such-server": Exit.NO_SERVER, "no-gate": Exit.DONE}
    return codes.get(outcome.kind, Exit.NO_EGRESS)


def _tell(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_described(outcome)))
    _conclude(outcome)


@cli.command()
@click.argument("server", metavar="URL", type=ServerAddress())
@json_option
def status(server: Server, as_json: bool) -> Exit:
    """Say whether a server has egress. URL is the value of its environment variable BINDER_EGRESS_URL."""
    shown = _or_end(lambda: Verifier(server.verifier).show(server))
    if as_json:
        click.echo(json.dumps(shown))
    elif only_watches(shown):
        click.echo("egress: what the hub gives, because it only watches")
    elif shown["tier"] != UNVERIFIED:
        click.echo(f"egress: {shown['tier']}{_until(shown.get('expires_in'))}")
        if shown.get("renewable_in") == 0:
            _say(f"To renew it: binder-egress-client unlock {server.verifier}{server.path}\nor, in a browser: {server.link}")
        else:
            _say_renewable(shown.get("renewable_in"))
    else:
        click.echo(f"egress: none{_but(shown)}")
        if shown.get("unlockable", True):
            _say(f"To unlock it: binder-egress-client unlock {server.verifier}{server.path}\nor, in a browser: {server.link}")
    return Exit.NO_EGRESS if shown["tier"] == UNVERIFIED and not only_watches(shown) else Exit.DONE


@cli.command("pass")
@hub_option
@verifier_option
@key_option
@json_option
def get_pass(hub: str, verifier: str | None, key: str | None, as_json: bool) -> Exit:
    """Print a pass for another client's launch, which sends it as the query parameter egress_token. It is valid for minutes."""
    asked = Verifier(verifier or hub.rstrip("/") + "/egress/")

    def get() -> dict[str, Any]:
        with err.status("Solving", spinner="line"):
            return earn(asked, key)

    answer = _or_end(get)
    click.echo(json.dumps(answer) if as_json else answer["token"])
    return Exit.DONE


def _or_end(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The verifier's answer. If there is none, the command ends with a message and the matching exit code."""
    try:
        return ask()
    except (NoGate, NoAnswer) as error:
        _end(str(error), Exit.NO_ANSWER)
    except Refused as refusal:
        _end(
            f"refused: {refusal}{_when(refusal.retry_after)}",
            Exit.NO_SERVER if refusal.kind == "no-such-server" else Exit.NO_EGRESS,
        )
    except PersonNeeded as error:
        _end(f"this hub offers {error}, which a person has to solve; launch first, and then open the server's page", Exit.NO_EGRESS)
    except Unsolvable as error:
        _end(str(error), Exit.NO_EGRESS)


def _end(text: str, code: Exit) -> NoReturn:
    _say(text, "bold red")
    raise click.exceptions.Exit(code)


def _seconds(wait: float | None) -> float:
    """Seconds to wait for a person: none by default if standard error is not a terminal, since nobody would read the link there."""
    if wait is not None:
        return wait
    # Not `err.is_terminal`, which is also true if FORCE_COLOR is set, as in CI.
    return WAIT if sys.stderr.isatty() else 0


def _progress(event: dict[str, Any]) -> None:
    """Show a message from BinderHub."""
    if message := str(event.get("message") or "").rstrip():
        phase = _harmless(f"{event.get('phase', '')}: ")
        phase.stylize("dim")
        err.print(phase + _harmless(message))


def _show_link(before: Callable[[], object]) -> Callable[[str, float], None]:
    def show(link: str, seconds: float) -> None:
        before()
        _say(f"A person has to solve a check. Open this in any browser, on any device (waiting {seconds:.0f} s):\n\n  {link}\n")
        if sys.stderr.isatty():
            code = io.StringIO()
            segno.make_qr(link, error="l", boost_error=False).terminal(code, border=2, compact=True)
            if max(map(len, code.getvalue().splitlines())) <= err.width:
                # Dark on light in every colour scheme: scanners need that.
                err.print(Text(code.getvalue(), style="bright_white on black"))

    return show


def _described(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(outcome).items() if name == "egress" or value not in (None, "")}


def _clock(form: str, seconds: float) -> str:
    """The time of day in that many seconds, by this computer's clock, which may differ from the hub's."""
    return time.strftime(form, time.localtime(time.time() + seconds))


def _when(seconds: int | None) -> str:
    return f" Try again in {seconds} s, at {_clock('%H:%M', seconds)}." if seconds else ""


def _until(seconds: float | None) -> str:
    return "" if seconds is None else f", until {_clock('%F %T', seconds)}"


def _but(shown: dict[str, Any]) -> str:
    """What a server without a tier reaches through the hub's egress proxy; empty: nothing, or the verifier is older."""
    return {"packages": " but packages", "hosts": " but some hosts"}.get(str(shown.get("access")), "")


def _say_renewable(seconds: float | None) -> None:
    if seconds:
        _say(f"It can be renewed in {seconds:.0f} s, at {_clock('%T', seconds)}.")


def _conclude(outcome: Outcome) -> None:
    if outcome.egress and outcome.renewed is False:
        _say(
            f"The server has egress ({outcome.tier}){_until(outcome.expires_in)}, and could not be renewed: "
            f"{outcome.why}.{_when(outcome.retry_after)}".replace("..", "."),
            "bold yellow",
        )
        if outcome.link:
            _say(f"To renew it, open this in any browser: {outcome.link}")
    elif outcome.egress:
        renewed = "Renewed. " if outcome.renewed else ""
        _say(f"{renewed}The server has egress ({outcome.tier}){_until(outcome.expires_in)}.", "green")
        _say_renewable(outcome.renewable_in)
    elif outcome is WATCHED:
        _say("This hub only watches: the server has the network that the hub gives.")
    elif outcome.kind == "no-gate":
        _say(
            f"This hub has no egress gate that this client knows of ({outcome.why}): the server has the network that the hub gives."
        )
    elif outcome.kind == "no-answer":
        _say(f"It is not known whether the server has egress: {outcome.why}.", "bold yellow")
        if outcome.link:
            _say(f"Later, open this in any browser: {outcome.link}")
    elif outcome.kind != "not-wanted":
        _say(f"The server has no egress: {outcome.why}.{_when(outcome.retry_after)}".replace("..", "."), "bold yellow")
        if outcome.link:
            _say(f"To unlock it, open this in any browser: {outcome.link}")


def main() -> NoReturn:
    """Run the command."""
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.Abort:
        # Ctrl-C. Click has already ended the line.
        sys.exit(Exit.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
