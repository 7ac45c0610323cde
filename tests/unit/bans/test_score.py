"""The score distinguishes a miner with a script from a course, a class, a tutorial and a CI, over many random weeks."""

import pytest

from binder_egress.bans.reading import Repository, Traffic
from binder_egress.bans.score import MIN_REPOSITORIES, POINTS, PROPOSED_FROM, at_least, robust, scores
from tests.support import ban_traffic as made

TRAFFIC_PARTS = ("processor time", "no pass", "few networks", "new owner")
ALWAYS = {"decisions", "detections", "archive"}


def judged(week, *sources):
    found = Traffic(made.END - made.WEEK, made.END)
    for source in sources:
        if source != "seconds":
            found.read(getattr(week, source))
    for pod, seconds in week.seconds.items() if "seconds" in sources else ():
        found.use(pod, seconds)
    found.settle()
    ranking, left_out = scores(found)
    return {score.repository.name: score for score in ranking}, left_out


def test_traffic_alone_proposes_nothing():
    """Nor does any other part alone: a wrong rule hits a course, too."""
    assert sum(POINTS.values()) == 100
    assert sum(POINTS[part] for part in TRAFFIC_PARTS) < PROPOSED_FROM
    assert max(POINTS.values()) < PROPOSED_FROM


@pytest.mark.parametrize("seed", range(12))
def test_miner_by_script_is_proposed_and_the_innocent_are_not(seed):
    """With and without Prometheus."""
    week = made.week(seed)
    for sources, missing in (((*ALWAYS, "seconds"), set()), (ALWAYS, {"processor time"})):
        found, left_out = judged(week, *sources)
        assert found[made.SCRIPT].proposed and next(iter(found)) == made.SCRIPT
        assert set(left_out) == missing
        assert {name for name, score in found.items() if score.proposed} <= {made.SCRIPT, made.BY_HAND, made.FREE}


@pytest.mark.parametrize("seed", range(3))
def test_archive_alone_proposes_nothing(seed):
    found, left_out = judged(made.week(seed), "archive")
    assert not [name for name, score in found.items() if score.proposed]
    assert set(left_out) == {"detections", "revocations", "processor time", "no pass", "few networks"}


@pytest.mark.parametrize("seed", range(3))
def test_wrong_rule_that_hits_every_server_of_a_course_does_not_propose_it(seed):
    week = made.week(seed)
    course = [pod for pod in week.seconds if pod.startswith("jupyter-popular-2dcourse")]
    week.detections += [made.detection(pod, made.END - 60) for pod in course]
    # With `onMatch: revoke`, the reconciler revokes them all.
    cut_off = {"by": "detector cryptnono", "why": "execwhacker: xmrig", "server": "", "stop": False, "block": "b"}
    users = [pod.removeprefix("jupyter-").replace("-2d", "-") for pod in course]
    week.decisions += [made.decision("revoke", made.END - 59, user=user, **cut_off) for user in users]
    found, _ = judged(week, *ALWAYS, "seconds")
    assert found[made.INNOCENT[0]].parts["detections"].points == POINTS["detections"]
    assert not found[made.INNOCENT[0]].proposed


def test_parts_add_up_to_the_score_and_say_figures():
    found, _ = judged(made.week(1), *ALWAYS, "seconds")
    score = found[made.SCRIPT]
    assert score.points == pytest.approx(sum(part.points for part in score.parts.values()), abs=0.06)
    assert "servers" in score.parts["detections"].why and "at the median" in score.parts["processor time"].why
    assert all(0 <= part.points <= POINTS[name] for one in found.values() for name, part in one.parts.items())


def test_few_repositories_are_not_compared():
    found = Traffic(made.END - made.WEEK, made.END)
    for number in range(MIN_REPOSITORIES - 1):
        found.repositories[str(number)] = Repository(str(number), {"u"}, {"u"}, seconds=[1.0])
    assert set(scores(found)[1]) == set(POINTS)
    assert scores(Traffic(0, 1)) == ([], {part: why for part, why in scores(found)[1].items()})


def test_one_of_one_is_less_than_ten_of_ten():
    assert at_least(1, 1) == pytest.approx(0.131, abs=0.001) and at_least(3, 3) == pytest.approx(0.311, abs=0.001)
    assert at_least(0, 5) == pytest.approx(0) and 0.5 < at_least(10, 10) < at_least(900, 1000)


def test_a_few_that_are_far_away_move_neither_median_nor_spread():
    assert robust([*range(10), 10**6, 10**7]) == pytest.approx(robust([*range(10), 11, 12]))
    assert robust([1.0] * 10) == (1.0, 0.5)
