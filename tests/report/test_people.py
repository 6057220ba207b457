"""Groups of patients have words, and what is no group of people keeps its name."""

import pytest

from fedmed.report import people


@pytest.mark.parametrize(
    ("attribute", "name", "words"),
    [
        ("sex", "F", "women"),
        ("sex", "M", "men"),
        ("age", "0-29", "patients of 0 to 29"),
        ("age", "80+", "patients of 80 and over"),
        ("sex_age", "F 0-29", "women of 0 to 29"),
        ("sex_age", "M 80+", "men of 80 and over"),
        ("sex_age", "unknown", "unknown"),
        ("hospital", "F", "F"),
        ("sex", "O", "O"),
    ],
)
def test_a_group_in_words(attribute: str, name: str, words: str) -> None:
    assert people.named(attribute, name) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "sex_age: F 0-29 is not compared: too few (3 positive; 10 needed)",
            "women of 0 to 29 are not compared: too few (3 positive; 10 needed)",
        ),
        ("sex_age: unknown is not compared: x", "unknown sex or age is not compared: x"),
        ("sex: unknown is not compared: x", "unknown sex is not compared: x"),
        ("hospital: a is not compared: x", "hospital: a is not compared: x"),
        ("no DeLong test: ties", "no DeLong test: ties"),
    ],
)
def test_a_note_in_words(text: str, words: str) -> None:
    assert people.note(text) == words


def test_a_note_of_a_table_of_ages() -> None:
    assert people.note("80+ is not compared: x", "age") == (
        "patients of 80 and over are not compared: x"
    )
