"""JSON and TOML from anywhere: depth, integers and numbers that JSON does not know."""

import pytest

from fedmed.base.parsing import DEPTH, Unparsable, parse_json, parse_toml


def test_json_keeps_what_is_ordinary() -> None:
    assert parse_json('{"a": [1, -2.5, null, true, "é"], "b": 18446744073709551615}') == {
        "a": [1, -2.5, None, True, "é"],
        "b": 2**64 - 1,
    }
    assert parse_json("[" * DEPTH + "]" * DEPTH)


def test_numbers_that_json_does_not_know_are_none() -> None:
    assert parse_json("[NaN, -Infinity, 1e400, 1e308]") == [None, None, None, 1e308]


def test_halves_of_surrogate_pairs_cannot_break_who_writes_them() -> None:
    assert parse_json('{"\\ud800": ["\\udfff", "\\ud83d\\ude00"]}') == {"?": ["?", "\U0001f600"]}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"more than {DEPTH} levels"),
        ('{"a":' * 200_000, f"more than {DEPTH} levels"),
        ('{"round": ' + "9" * 400 + "}", "400 digits"),
        ('{"round": ' + "9" * 5000 + "}", "5000 digits"),
        ('{"a": {"round": 18446744073709551616}}', "'a.round' is an integer of more than 64 bits"),
        ("{", "Expecting"),
        (b"\xff", "utf-8"),
        ("{}".encode("utf-16"), "utf-8"),
    ],
)
def test_json_that_would_fail_later_fails_here(text: str | bytes, word: str) -> None:
    with pytest.raises(Unparsable, match=word.replace("'", ".")):
        parse_json(text)


def test_toml_keeps_what_is_ordinary_and_a_byte_order_mark_is_no_matter() -> None:
    assert parse_toml(b"\xef\xbb\xbf[a]\nb = [1, 2.5]\n") == {"a": {"b": [1, 2.5]}}
    assert parse_toml(b"x = 9223372036854775807\n") == {"x": 2**63 - 1}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"a = " + b"[" * 3000, f"more than {DEPTH} levels"),
        (b"a = " + b"[" * 100 + b"]" * 100, f"'a' is nested more than {DEPTH} levels"),
        (".".join("a" * 5000).encode() + b" = 1", f"more than {DEPTH} levels"),
        (b"[" + ".".join("a" * 5000).encode() + b"]", f"more than {DEPTH} levels"),
        (b"a = " + b"9" * 5000, "more than 64 bits"),
        (b"[t]\na = 0x" + b"f" * 20, "'t.a' is an integer of more than 64 bits"),
        (b"#" + b"x" * 20_000, "a line has over"),
        (b"a = 1979-02-30", "date"),
        (b"\xff\xfea\0", "utf-8"),
        (b"a = 1\0", "Illegal|Invalid|invalid|Expected"),
    ],
)
@pytest.mark.timeout(20)
def test_toml_that_would_fail_later_fails_here(data: bytes, word: str) -> None:
    with pytest.raises(Unparsable, match=word.replace("'", ".")):
        parse_toml(data)
