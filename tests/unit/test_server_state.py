"""What the page of a server knows, as a function of its state and of an event, without a browser."""

import json
import subprocess

from tests.support import TOP

SCRIPT = """
import { again, GONE, guess, next, purpose, useful } from "./frontend/src/server-state.js";
let text = "";
for await (const chunk of process.stdin) text += chunk;
const play = (events, state = GONE) => events.map((event) => {
  state = Object.freeze(next(state, Object.freeze(event)));
  const purposes = Object.fromEntries(["small", "large"].map((tier) => [tier, purpose(state, tier)]));
  return { ...state, again: again(state), useful: useful(state), guess: guess(state), ...purposes };
});
console.log(JSON.stringify(JSON.parse(text).map((events) => play(events))));
"""

LOCKED = {"tier": "unverified", "access": "none", "unlockable": True, "why": "", "larger": [], "until": None, "renewable_in": None}
SMALL = {**LOCKED, "tier": "small", "access": "network", "unlockable": False}
LEASED = {**SMALL, "until": 10_000, "expires_in": 600, "renewable_in": 300}


def played(stories):
    """The states of each story after its events, of which each is a report, a time in seconds, or both with more."""
    command = ["node", "--input-type=module", "--eval", SCRIPT]
    timed = [[event if isinstance(event, dict) else {"_at": event * 1000} for event in events] for events in stories]
    made = [[event if "_at" in event else {"_at": 0, "_report": event} for event in events] for events in timed]
    done = subprocess.run(command, cwd=TOP, input=json.dumps(made), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def states(*events):
    (found,) = played([events])
    return found


def at(seconds, report, **more):
    return {"_at": seconds * 1000, "_report": report, **more}


CHANGES = [
    (LOCKED, LOCKED, ""),
    (LOCKED, at(0, LOCKED, _live=True), "server"),
    (LOCKED, SMALL, "server"),
    (LOCKED, {**LOCKED, "access": "packages"}, "server"),
    (LOCKED, {**LOCKED, "unlockable": False}, "server"),
    (LOCKED, {**LOCKED, "until": 20, "expires_in": 20}, "details"),
    ({**LOCKED, "until": 20, "expires_in": 20}, {**LOCKED, "until": 30, "expires_in": 30}, "details"),
    (SMALL, {**SMALL, "larger": ["large"]}, "details"),
    (LEASED, {**LEASED, "until": 10_300, "expires_in": 900}, "renewed"),
    (LEASED, {**LEASED, "until": 9_000}, "details"),
    (LEASED, {**LEASED, "tier": "large", "until": 10_300}, "server"),
    (SMALL, LEASED, "details"),
    (LEASED, {**LEASED, "renewable_in": 0}, "details"),
    (LEASED, LOCKED, "server"),
    (LOCKED, at(0, None), "server"),
    (LEASED, 299, ""),
    (LEASED, 300, "details"),
]
"""What was, an event, and the change that it is."""


def test_change_is_told():
    found = played([events for *events, _ in CHANGES])
    assert [states[-1]["_change"] for states in found] == [change for *_, change in CHANGES]


def test_renewal_is_told_by_its_answer_too():
    """A report may come before the answer. The answer's words then replace the report's."""
    renewed = {**LEASED, "until": 10_300, "expires_in": 900}
    told = states(LEASED, {"_at": 0, "_sent": True}, renewed, at(0, renewed, _live=True))
    assert [one["_change"] for one in told[2:]] == ["renewed", "renewed"]
    assert states(LEASED, {"_at": 0, "_sent": True}, at(0, LEASED, _live=True))[-1]["_change"] == "server"


def test_answer_from_before_a_change_or_a_solution_is_outdated():
    assert [one["_changes"] for one in states(LOCKED, LOCKED, 1, {"_at": 0, "_sent": True}, SMALL, at(0, None), at(0, None))] == [
        1, 1, 1, 2, 3, 4, 4
    ]  # fmt: skip


PURPOSES = [
    (LOCKED, True, "unlock", "unlock", "unlock"),
    ({**LOCKED, "unlockable": False}, False, "unlock", "unlock", "unlock"),
    (SMALL, False, "raise", None, None),
    ({**SMALL, "larger": ["large"]}, True, "raise", None, "raise"),
    (LEASED, False, "raise", None, None),
    ({**LEASED, "renewable_in": 0}, True, "renew", "renew", None),
    ({**LEASED, "renewable_in": 0, "larger": ["large"]}, True, "renew", "renew", "raise"),
    ({**LEASED, "renewable_in": None}, False, "raise", None, None),
    ({**LOCKED, "until": 9, "expires_in": 9, "renewable_in": 0}, True, "unlock", "unlock", "unlock"),
]
"""A report, whether a solution is useful, the guess of its purpose, and its purpose with each of two tiers."""


def test_purpose_of_a_solution_follows_from_the_report():
    found = [states[0] for states in played([[report] for report, *_ in PURPOSES])]
    told = [(state["useful"], state["guess"], state["small"], state["large"]) for state in found]
    assert told == [tuple(said) for _, *said in PURPOSES]


def test_server_that_is_gone_has_nothing_left_and_access_is_given_back_if_there_was_some():
    state = states({**LEASED, "larger": ["large"], "renewable_in": 0}, at(1, None))[-1]
    assert (state["tier"], state["useful"], state["until"], state["_renewable"]) == (None, False, None, False)
    lost = {**LOCKED, "why": "The time ran out."}
    assert [one["again"] for one in states(LOCKED, lost, {**lost, "unlockable": False})] == [False, True, False]


def test_time_counts_from_the_report():
    assert [one["_seconds"] for one in states(at(50, LEASED), 50.5, 100, 649.5, 650, 700)] == [600, 600, 550, 1, 0, 0]
    assert [one["_renewable"] for one in states(at(50, LEASED), 349, 350)] == [False, False, True]


def test_near_end_is_announced_once_and_not_while_the_page_solves():
    busy = {"_at": 301_000, "_busy": True}
    assert [one["_warned"] for one in states(LEASED, 299, busy, 302, 303)] == [False, False, False, True, True]
    # A renewal begins anew, and a lease that cannot be renewed has no warning.
    assert [one["_warned"] for one in states(LEASED, 302, at(303, {**LEASED, "until": 10_300}))] == [False, True, False]
    assert not states({**LEASED, "renewable_in": None}, 599)[-1]["_warned"]


def test_end_is_reached_once_for_each_lease():
    later = {**LEASED, "until": 10_700}
    assert [one.get("_over") for one in states(LEASED, 600, 601, at(602, later), 1202)] == [None, 10_000, 10_000, 10_000, 10_700]
    assert "_over" not in states(SMALL, 600)[-1]
