"""How many of Cilium's identities servers take: the simulation of docs/scale.md, minute by minute, with the defaults of Cilium 1.20
(operator/identitygc).

An identity that no pod has had for half an hour is marked at the operator's next round and deleted at the one after that, 2,500 a
minute at most. Without a filter each server has one identity before its tier, and another with it.
"""

from collections import deque

IDENTITIES = 65_280
"""From 256 to 65,535."""

HEARTBEAT_MINUTES, ROUND_MINUTES, DELETED_PER_MINUTE = 30, 15, 2_500

SESSION_MINUTES = 60


def minutes_until_used_up(launches: int, deleted: int = DELETED_PER_MINUTE, minutes: int = 24 * 60) -> tuple[int | None, int]:
    """After how many minutes no identity is left for a launch; None: never. And the most that there were.

    Args:
        launches: launches per minute, each with a tier.
        deleted: how many identities the operator deletes per minute.
        minutes: how long to look.
    """
    there = most = 0
    unused: deque[tuple[int, int]] = deque()  # when, and how many
    running: deque[tuple[int, int]] = deque()
    marked = waiting = 0
    for now in range(minutes):
        there += 2 * launches
        most = max(most, there)
        if there > IDENTITIES:
            return now, most
        unused.append((now, launches))  # the identity from before the tier
        running.append((now + SESSION_MINUTES, launches))
        while running[0][0] <= now:
            unused.append((now, running.popleft()[1]))
        if now % ROUND_MINUTES == 0:
            waiting, marked = waiting + marked, 0
            while unused and unused[0][0] <= now - HEARTBEAT_MINUTES:
                marked += unused.popleft()[1]
        gone = min(deleted, waiting)
        there, waiting = there - gone, waiting - gone
    return None, most


if __name__ == "__main__":
    for deleted in (DELETED_PER_MINUTE, 300):
        print(deleted, {launches: minutes_until_used_up(launches, deleted) for launches in (54, 150, 300, 600)})
        print("most launches a minute", max(n for n in range(1, 700) if minutes_until_used_up(n, deleted)[0] is None))
