"""Launches: which decision BinderHub's hook gets."""

from conftest import get_pass, launch


def test_a_launch_without_a_pass_gets_nothing(internal):
    decision = launch(internal)
    assert (decision["tier"], decision["rule"], decision["pass_outcome"]) == ("unverified", "default", "none")


def test_a_launch_with_a_pass_gets_its_tier(public, internal):
    decision = launch(internal, token=get_pass(public))
    assert (decision["tier"], decision["rule"], decision["pass_outcome"]) == ("verified", "valid-pass", "free")
