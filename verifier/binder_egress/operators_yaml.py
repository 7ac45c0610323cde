"""YAML that operators hand over: it may have secrets in it, and no error shows any of its text (D-512)."""

import warnings
from typing import Any

from ruamel.yaml import YAML


class NotYaml(Exception):
    """The text is no YAML. The message is the line, `, line 3`; it is empty if that is not known."""


def load(yaml: YAML, text: str) -> Any:
    """What a text says.

    Args:
        yaml: how to read it.
        text: the text.

    Raises:
        NotYaml: it is no YAML.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They show the text around an anchor too.
        try:
            return yaml.load(text)
        except Exception as error:  # ruamel.yaml raises KeyError and others too, with the text in them.
            mark = getattr(error, "problem_mark", None)
            raise NotYaml(f", line {mark.line + 1}" if mark else "") from None
