"""The page of words has every text that a person may see."""

import ast
import json
import re
import sys

import pytest

from tests.support import TOP

sys.path.append(str(TOP / "docs"))

import words


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_text_of_a_catalogue_is_in_the_table(language):
    """Each catalogue has the texts and the placeholders of the English one."""
    told = [text[language] for texts in words.catalogues().values() for text in texts.values()]
    for folder in words.MESSAGES.iterdir():
        texts, english = (json.loads((folder / f"{name}.json").read_text()) for name in (language, "en"))
        assert list(texts) == list(english) and not set(texts.values()) - set(told), folder
        for key, text in texts.items():
            assert text.strip() == text != "", (folder, key)
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), (folder, key)


def test_texts_in_english_alone_are_in_the_table():
    """Some of each kind, and the sentence of each `Problem` that the verifier raises, unless the sentence comes from elsewhere."""
    told = {text for texts in words.spoken().values() for text in texts}
    assert told >= {
        "The operators of this site have blocked this.",
        "Your network sent too many wrong solutions",
        "The pass has expired. Solve a challenge to get a new one.",
        "No internet access: open the address in BINDER_EGRESS_URL",
        "The egress proxy does not know this server yet, try again",
        "This server may have no internet access, or only packages. To see, and to get it, open:",
        "there is no server",
    }
    for path in (TOP / "verifier/binder_egress/web").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem" and isinstance(node.args[1], ast.Constant):
                assert node.args[1].value in told, path
