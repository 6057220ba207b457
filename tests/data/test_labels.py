"""Words of label columns: right, or refused; none becomes healthy by its spelling."""

import pandas as pd
import pytest

from fedmed.base.errors import UserError
from fedmed.data.sources.labels import Words, zero_or_one


def labels(
    cells: list[str | None], positive: str, negative: str = "", separator: str = ""
) -> tuple[list[int | None], list[str]]:
    """Labels (None where empty) and the notes."""
    words = Words.of(positive, negative, separator)
    values, notes = zero_or_one(pd.Series(cells, dtype="string"), words, "t.csv")
    return [None if pd.isna(value) else int(value) for value in values], notes


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["['viral', 'effusion']", "['normal']", "['effusion', 'viral']", "[]"], "list"),
        (['["viral"]', '["normal"]', '["effusion", "viral"]', "[]"], "list"),
        (["['viral' 'effusion']", "['normal']", "['effusion'\n 'viral']", "[]"], "list"),
        (["[viral, effusion]", "[normal]", "[effusion, viral]", "[]"], "list"),
        (["viral|effusion", "normal", "effusion|viral", "effusion"], "|"),
        (["viral/effusion", "normal", "effusion/viral", "effusion"], "/"),
        (["viral, effusion", "normal", "effusion, viral", "effusion"], ","),
        (["viral;effusion", "normal", "effusion; viral", "effusion"], ";"),
    ],
)
def test_pitfall_list_cells_count_as_healthy(cells: list[str | None], separator: str) -> None:
    found, notes = labels(cells, "viral")
    assert found == [1, 0, 1, 0]
    assert "(data.separator)" in notes[0]
    assert ("list" if separator == "list" else f"'{separator}'") in notes[0]
    assert labels(cells, "viral", separator=separator)[0] == found


def test_whole_cells_need_no_separator_and_are_counted() -> None:
    found, notes = labels(["Viral", "Normal", "Bacterial", "Normal", None], "Viral|Bacterial")
    assert found == [1, 0, 1, 0, None]
    assert notes == [
        "label 1 is 'Viral' (1), 'Bacterial' (1)",
        "label 0 is 'Normal' (2)",
    ]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("PNEUMONIA", "holds 'pneumonia'"),
        ("no pneumonia", "holds 'pneumonia'"),
        ("pneumonia?", "holds 'pneumonia'"),
        ("aspiration pneumonia (left)", "holds 'pneumonia'"),
        ("pending", "says neither"),
        ("?", "says neither"),
        ("Unknown", "says neither"),
    ],
)
def test_pitfall_doubtful_words_count_as_healthy(cell: str, words: str) -> None:
    cells: list[str | None] = ["normal", "pneumonia", cell]
    with pytest.raises(UserError, match=rf"t\.csv, row 3: label .*{words.replace('?', '[?]')}"):
        labels(cells, "pneumonia")
    assert labels(cells, f"pneumonia|{cell}")[0] == [0, 1, 1]
    assert labels(cells, "pneumonia", f"normal|{cell}")[0] == [0, 1, 0]


def test_a_word_within_another_is_another_word() -> None:
    assert labels(["mass", "massive heart", "biomass"], "mass")[0] == [1, 0, 0]


def test_a_closed_list_refuses_every_other_value() -> None:
    assert labels(["ill", "well", "well|ill"], "ill", "well")[0] == [1, 0, 1]
    with pytest.raises(UserError, match=r"row 2: .*'wel', in neither data"):
        labels(["ill", "wel"], "ill", "well")


def test_a_positive_value_that_no_cell_has_is_spelt_out() -> None:
    with pytest.raises(UserError, match=r"no row has the label 'viral'.*the table writes 'Viral'"):
        labels(["Viral", "Normal"], "viral")


def test_empty_words_stay_empty_unless_they_are_named() -> None:
    found, notes = labels(["ill", "None", "NA", "well"], "ill")
    assert found == [1, None, None, 0]
    assert "'NA', 'None' count as empty" in notes[-1]
    assert labels(["ill", "None", "well"], "ill", "None|well")[0] == [1, 0, 0]


def test_rows_are_numbered_as_in_the_file() -> None:
    cells = pd.Series(["ill", "well", "pending"], index=[0, 4, 7])
    with pytest.raises(UserError, match="row 8: label 'pending'"):
        zero_or_one(cells, Words(("ill",)), "t.csv")


def test_a_note_shows_no_more_than_the_beginnings_of_a_few_values() -> None:
    many: list[str | None] = ["ill", *(f"{n} " + "x" * 100 for n in range(20))]
    notes = labels(many, "ill")[1]
    assert "and 12 other values (12)" in notes[1]
    assert max(map(len, notes)) < 500


def test_pitfall_a_negated_item_of_a_list_is_split_at_its_blanks() -> None:
    for cell in ("[no pneumonia]", "['no pneumonia', nan]"):
        with pytest.raises(UserError, match=r"row 2: .*holds 'pneumonia'"):
            labels(["['pneumonia']", cell], "pneumonia")
    with pytest.raises(UserError, match=r"row 2: .*says neither"):
        labels(["['pneumonia']", "[nan]"], "pneumonia")


def test_blanks_and_the_typing_of_letters_make_no_other_word() -> None:
    apart = "o\u0308dem links"  # "ö" as macOS writes it
    assert labels(["ödem  links", apart, "normal"], "ödem links")[0] == [1, 1, 0]
