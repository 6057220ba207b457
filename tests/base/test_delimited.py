"""CSV as people have it: in the right columns, or refused with the row."""

import gzip
from pathlib import Path

import pytest

from fedmed.base.delimited import read_csv
from fedmed.base.errors import UserError


def read(path: Path, content: str | bytes) -> dict[str, list[object]]:
    """Columns of a file with this content, None for an empty entry."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    table = read_csv(path).astype(object)
    return {name: table[name].where(table[name].notna(), None).tolist() for name in table}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def test_entries_are_text_and_only_an_empty_one_is_missing(path: Path) -> None:
    told = read(path, 'image,site\n007,NA\n"a,b",None\n"q""r",""\n1e5,\n')
    assert told == {"image": ["007", "a,b", 'q"r', "1e5"], "site": ["NA", "None", None, None]}


@pytest.mark.parametrize(
    "content",
    [
        "image;label\na;1\n",
        "image\tlabel\r\na\t1\r\n",
        "image|label\na|1\n",
        "sep=;\r\nimage;label\r\na;1\r\n",
        "\ufeffimage,label\na,1\n",
        "image,label\na,1\n".encode("utf-16"),
        b"\xfe\xff" + "image,label\na,1\n".encode("utf-16-be"),
        gzip.compress(b"image,label\na,1\n", mtime=0),  # whatever its name
        " image , label \na,1\n",
        "\n\nimage,label\n\na,1\n\n",
        "image,label\ra,1\r",
        ",image,label\n0,a,1\n",  # as pandas writes its index
        '"image","label"\n"1","a",1\n',  # as R's write.table writes its row names
        "image,label\n1,a,1\n",
        '"image","label"\n"12","a",1\n',  # of a subset
        "image,label,,\na,1,,\n",
    ],
)
def test_one_table_in_the_forms_that_programs_write(path: Path, content: str | bytes) -> None:
    assert read(path, content) == {"image": ["a"], "label": ["1"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("label,score\n1,0.9,\n0,0.2,\n", "row 1: 3 fields where the header has 2"),
        ("label,score\n1,0.9\n0,0.2,x\n", "row 2: 3 fields where the header has 2"),
        ("label,score\n1,0.9\n\n0\n", "row 2: 1 field where the header has 2"),
        ("\n\nlabel,score\n1,0.9\n0\n", "row 2: 1 field"),
        ('"la\nbel",score\n1,0.9\n0\n', "row 2: 1 field"),
        ("name,label\nDoe, J,1\nRoe, K,0\n", "row 1: 3 fields"),
        ("id,label,score\n7,1,0,93\n9,0,0,12\n", "row 1: 4 fields"),  # decimal commas
        ("image,label\n1,a,1\n2,b,0\n3,c\n", "row 1: 3 fields"),
        ('image,label\n"0.png,0\n', "row 1: a quote that is not closed"),
        ('a,b\n1,"V.a. Pneumonie\n2,x\n3,"Z.n. OP\n4,y\n', "row 1: a quote that is not closed"),
        ('a,b\n1,x\n2,"open\n3,y\n4,z\n', "row 2: a quote that is not closed"),
        ('a,b\n1,x\n2,"done" and more\n', "row 2: a quote that is not closed, or text behind"),
        ("age,age\n1,2\n", "two columns 'age'"),
        ("age, age\n1,2\n", "two columns 'age'"),
        ("", "no header"),
        (",,\n1,2,3\n", "no header"),
        ("image,label\na,1\né,0\n".encode("latin-1"), "line 3: not in UTF-8"),
        ("imagé,label\na,1\n".encode("latin-1"), "line 1: not in UTF-8"),
        ("image,label\na,1\n".encode("utf-16-le"), "UTF-16 without its mark"),
        (b"PK\x03\x04\x14", "is an Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old Excel workbook"),
        (b"PAR1", "is a Parquet file"),
    ],
)
def test_what_would_shift_or_be_misread_is_refused(
    path: Path, content: str | bytes, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(path, content)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_header_alone_is_a_table_without_rows(path: Path) -> None:
    assert read(path, "image,label") == {"image": [], "label": []}
    assert read(path, "image,label\n") == {"image": [], "label": []}


def test_a_long_entry_and_many_rows_keep_their_places(path: Path) -> None:
    long = "x" * 3_000_000  # more than a parser's usual block
    told = read(path, "a,b\n" + f'"{long}\n",1\n' + "y,2\n" * 100_000)
    assert told["a"][0] == long + "\n"
    assert len(told["b"]) == 100_001
    assert told["b"][-1] == "2"
