"""A hospital's own rules: what they allow, and what a file that says it wrongly is told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import goes_red, refuses

from fedmed.config import ARMS
from fedmed.privacy.ledger.filtering import Limit
from fedmed.privacy.ledger.policy import SIMULATION, Policy, load_policy, read_policy


def written(folder: Path, text: str, name: str = "hospital-1") -> Path:
    """A policy file."""
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    written(
        tmp_path,
        'account = "chest trial"\nunit = "patient"\nmaximum-epsilon = 8\ndelta = 1e-6\n'
        'arms = ["dp-sgd", "none"]\nminimum-cohort = 50\npublic-size = 1000\n'
        "allow-reproducible-noise = true\n",
    )
    policy = load_policy(str(tmp_path), "hospital-1")
    assert policy == Policy(
        account="chest trial",
        unit="patient",
        maximum_epsilon=8.0,
        delta=1e-6,
        arms=["dp-sgd", "none"],
        minimum_cohort=50,
        public_size=1000,
        allow_reproducible_noise=True,
    )
    assert policy.limit == Limit(8.0, 1e-6)
    assert policy.account_for("hospital-1", "image") == ("chest trial", "patient")


@pytest.mark.parametrize(
    ("key", "fine", "beyond"),
    [
        ("maximum-epsilon", (1e-3, 1e9), (-1e-9, 1.0001e9)),
        ("delta", (1e-12, 0.01), (0.9e-12, 0.0101)),
        ("minimum-cohort", (0, 1, 10**9), (-1, 10**9 + 1)),
        ("public-size", (0, 1, 10**9 - 1), (-1, 10**9)),
    ],
)
def test_numbers_have_exactly_the_range_in_which_they_mean_something(
    tmp_path: Path, key: str, fine: tuple[float, ...], beyond: tuple[float, ...]
) -> None:
    for value in fine:
        read = read_policy(written(tmp_path, f"{key} = {value!r}"))
        assert getattr(read, key.replace("-", "_")) == value
    for value in beyond:
        path = written(tmp_path, f"{key} = {value!r}")
        refuses(lambda path=path: read_policy(path), key)


def test_a_policy_that_says_nothing_limits_nothing_and_trusts_no_seed() -> None:
    silent = Policy()
    assert (silent.maximum_epsilon, silent.delta) == (0.0, 1e-5)
    assert (silent.minimum_cohort, silent.public_size) == (0, 0)
    assert not silent.allow_reproducible_noise
    assert (silent.account, silent.unit, silent.arms, silent.apps) == ("", "", [], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("maximum-epsilom = 8", ("'maximum-epsilom'", "did you mean 'maximum-epsilon'?")),
        ("maximum_epsilon = 8", ("'maximum_epsilon'", "did you mean 'maximum-epsilon'?")),
        ("color = 1", ("'color'", "use account, unit")),
        ('"a\\nb" = 1', ("unknown key",)),
        ("[limit]\nepsilon = 8", ("'limit'",)),
        ('maximum-epsilon = "8"', ("maximum-epsilon = '8'",)),
        ("maximum-epsilon = true", ("maximum-epsilon = True",)),
        ("maximum-epsilon = [8]", ("maximum-epsilon",)),
        ("maximum-epsilon = -1", ("maximum-epsilon = -1",)),
        ("maximum-epsilon = nan", ("maximum-epsilon = nan",)),
        ("maximum-epsilon = inf", ("maximum-epsilon = inf",)),
        ("maximum-epsilon = 1e10", ("maximum-epsilon = 1", "1000000000")),
        (f"maximum-epsilon = 1{'0' * 400}", ("maximum-epsilon",)),
        ("maximum-epsilon = 0", ("maximum-epsilon = 0", "remove it for no limit")),
        ("maximum-epsilon = -0.0", ("remove it for no limit",)),
        ("delta = 0", ("delta = 0",)),
        ("delta = 1", ("delta = 1",)),
        ("delta = -1e-5", ("delta = -1e-05",)),
        ("delta = nan", ("delta = nan",)),
        ('delta = "1e-5"', ("delta = '1e-5'",)),
        ('arms = "dp-sgd"', ("arms = 'dp-sgd'",)),
        ("arms = [1]", ("arms",)),
        ('arms = ["dpsgd"]', ("'dpsgd'", "did you mean 'dp-sgd'?")),
        ('arms = ["a\\nb"]', ("arms",)),
        ('unit = "person"', ("'person'", "use patient, image, pixels, hospital")),
        ('account = "trial"', ("unit: a named account needs it",)),
        ("minimum-cohort = -1", ("minimum-cohort = -1",)),
        ("minimum-cohort = 1.5", ("minimum-cohort = 1.5",)),
        ("public-size = true", ("public-size = True",)),
        ('allow-reproducible-noise = "no"', ("allow-reproducible-noise = 'no'",)),
        ("maximum-epsilon = 8\nmaximum-epsilon = 9", ("not valid TOML",)),
        ("maximum-epsilon", ("not valid TOML",)),
    ],
)
def test_a_wrong_file_is_one_line_with_its_name_and_key(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = written(tmp_path, text)
    refuses(lambda: read_policy(path), str(path), *words)
    refuses(lambda: load_policy(str(tmp_path), "hospital-1"), *words)


def test_what_is_no_text_and_no_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "hospital-1.toml"
    path.write_bytes(b"account = '\xff'")
    refuses(lambda: load_policy(str(tmp_path), "hospital-1"), str(path), "not valid TOML")
    path.unlink()
    path.mkdir()
    refuses(lambda: load_policy(str(tmp_path), "hospital-1"), str(path), "folder")
    refuses(lambda: load_policy(str(tmp_path / "absent"), "h"), "run.policies", "no such folder")


def check_not_a_simulation(load: Callable[[str, str], Policy], folder: Path) -> None:
    os.symlink(folder / "nowhere.toml", folder / "hospital-1.toml")
    refuses(lambda: load(str(folder), "hospital-1"), "no such file")


def test_a_link_that_leads_nowhere_is_no_missing_policy(tmp_path: Path) -> None:
    check_not_a_simulation(load_policy, tmp_path)
    (tmp_path / "b").mkdir()

    def careless(folder: str, name: str) -> Policy:
        path = Path(folder) / f"{name}.toml"
        return read_policy(path) if path.exists() else SIMULATION

    goes_red(check_not_a_simulation, careless, tmp_path / "b")


def test_a_hospitals_name_leads_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    written(tmp_path, "maximum-epsilon = 1", "outside")
    assert load_policy(str(tmp_path / "policies"), "../outside") == SIMULATION


def test_without_a_file_it_is_a_simulation(tmp_path: Path) -> None:
    for policy in (load_policy("", "h"), load_policy(str(tmp_path), "h")):
        assert policy.limit is None
        assert policy.allow_reproducible_noise
        assert all(policy.allows(arm) for arm in ARMS)
    assert not Policy().allow_reproducible_noise  # a file has to say it


def check_arms(allows: Callable[[Policy, str], bool]) -> None:
    limited = Policy(maximum_epsilon=8.0)
    assert allows(limited, "dp-sgd")
    for arm in ("none", "brightness-shift", "central-fixed", "central-adaptive"):
        assert not allows(limited, arm)
        assert allows(Policy(maximum_epsilon=8.0, arms=[arm]), arm)
        assert allows(Policy(), arm)
    only = Policy(arms=["dp-sgd"])
    assert [arm for arm in ARMS if allows(only, arm)] == ["dp-sgd"]


def test_under_a_limit_what_claims_nothing_has_to_be_named() -> None:
    check_arms(Policy.allows)
    goes_red(check_arms, lambda policy, arm: True)
    goes_red(check_arms, lambda policy, arm: not policy.arms or arm in policy.arms)


def test_each_hospital_has_an_account_of_its_own_unless_named() -> None:
    free = Policy()
    assert free.account_for("a", "image") == ("a/image", "image")
    assert free.account_for("b", "image") != free.account_for("a", "image")
    named = Policy(account="trial", unit="patient")
    assert named.account_for("a", "image") == named.account_for("b", "hospital")
    assert named.account_for("a", "image")[1] == "patient"
