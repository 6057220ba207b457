"""Settings: the defaults in one place, and one clear line for every wrong key or value."""

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import needed_by, refuses

from fedmed import config
from fedmed.base.errors import UserError
from fedmed.config import ARMS, Settings, from_flat, parse, parse_assignment, read_toml

PROJECT = Path(config.__file__).parents[2] / "pyproject.toml"


def test_the_run_config_of_the_flower_app_equals_the_defaults() -> None:
    app = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]
    written = config.flatten(app["config"])
    ours = Settings().to_flat()
    assert sorted(written) == sorted(ours)
    for key, value in ours.items():
        assert (type(written[key]), written[key]) == (type(value), value), key
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "clients.app:app"}


def test_flat_nested_and_typed_forms_agree() -> None:
    table = {"data.source": "table", "data.path": "films.csv", "data.images": "films"}
    settings = Settings().replaced(
        {**table, "data.columns.patient-id": "Patient ID", "train.rounds": 7}
    )
    assert settings.data.columns.patient_id == "Patient ID"
    assert from_flat(settings.to_flat()) == settings
    assert parse(settings.to_nested(), "x.toml") == settings
    assert hash(settings) == hash(from_flat(settings.to_flat()))


@pytest.mark.parametrize("section", ["data", "model", "train", "privacy", "evaluation", "run"])
def test_every_key_is_kebab_case(section: str) -> None:
    for key in Settings().to_flat():
        assert key == key.lower()
        assert "_" not in key
    assert any(key.startswith(section + ".") for key in Settings().to_flat())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.epochs", 3, ["unknown key 'train.epochs'; did you mean 'train.local-epochs'?"]),
        ("train.local_epochs", 3, ["'train.local_epochs'; did you mean 'train.local-epochs'?"]),
        ("train.epsilon", 3, ["'train.epsilon'; did you mean 'privacy.epsilon'?"]),
        ("data.columns.lable", "x", ["lable'; did you mean 'data.columns.label'?"]),
        ("colour", "red", ["unknown key 'colour'; correct the spelling (kebab case), or remove"]),
        ("data.columns.name", "x", ["unknown key 'data.columns.name'"]),
        ("privacy.arm", "magic", ["privacy.arm = 'magic'", "'dp-sgd'", "'pixel-laplace'"]),
        ("privacy.engine", "fast", ["privacy.engine = 'fast'", "'opacus'"]),
        ("privacy.unit", "pixel", ["privacy.unit", "'patient' or 'image'"]),
        ("privacy.epsilon", 0, ["privacy.epsilon = 0", "from 1e-06 to 1000000000"]),
        ("privacy.epsilon", -1.5, ["privacy.epsilon = -1.5", "from 1e-06 to 1000000000"]),
        ("privacy.epsilon", float("nan"), ["privacy.epsilon = nan"]),
        ("privacy.epsilon", float("inf"), ["privacy.epsilon = inf", "from 1e-06 to 1000000000"]),
        ("privacy.epsilon", "8", ["privacy.epsilon = '8'", "valid number"]),
        ("privacy.epsilon", True, ["privacy.epsilon = True", "valid number"]),
        ("privacy.delta", 0.0, ["privacy.delta = 0.0", "from 1e-12 to 0.999"]),
        ("privacy.delta", 1, ["privacy.delta = 1", "from 1e-12 to 0.999"]),
        ("privacy.clipping-norm", 0.0, ["privacy.clipping-norm", "from 1e-06 to 1000000"]),
        ("privacy.laplace-scale", -0.1, ["privacy.laplace-scale", "from 0 to 1e+15"]),
        ("privacy.noise-multiplier", -1.0, ["privacy.noise-multiplier = -1.0", "from 0 to 10000"]),
        ("privacy.noise-multiplier", float("nan"), ["privacy.noise-multiplier = nan"]),
        ("privacy.noise-multiplier", 1e6, ["privacy.noise-multiplier", "from 0 to 10000"]),
        ("privacy.epsilon", 1e10, ["privacy.epsilon", "from 1e-06 to 1000000000"]),
        ("privacy.images-per-patient", -1, ["privacy.images-per-patient = -1"]),
        ("privacy.public-size", 500, ["privacy.public-size = 500", "valid string"]),
        ("privacy.clip-quantile", 1.0, ["privacy.clip-quantile = 1.0", "from 0.001 to 0.999"]),
        ("privacy.clip-rate", 0.0, ["privacy.clip-rate = 0.0", "from 1e-06 to 10"]),
        ("privacy.clip-share", 1.0, ["privacy.clip-share = 1.0", "from 0.001 to 0.999"]),
        ("privacy.clip-share", 0.0, ["privacy.clip-share = 0.0", "from 0.001 to 0.999"]),
        ("privacy.maximum-noise-to-signal", -1.0, ["privacy.maximum-noise-to-signal = -1.0"]),
        ("privacy.image-mechanism", "blur", ["privacy.image-mechanism = 'blur'", "'dp-pix'"]),
        ("privacy.cell", 0, ["privacy.cell = 0", "from 1 to 1024"]),
        ("privacy.neighbourhood", 0, ["privacy.neighbourhood = 0"]),
        ("privacy.clip-released", "no", ["privacy.clip-released = 'no'", "boolean"]),
        ("privacy.reproducible-noise", "yes", ["privacy.reproducible-noise = 'yes'", "boolean"]),
        ("data.image-size", 3, ["data.image-size = 3", "from 16 to 1024"]),
        ("data.image-size", 32.0, ["data.image-size = 32.0", "valid integer"]),
        ("data.image-size", 5000, ["data.image-size", "from 16 to 1024"]),
        ("data.hospitals", 0, ["data.hospitals = 0", "from 1 to 1000"]),
        ("data.source", "web", ["data.source = 'web'", "'phantom'"]),
        ("data.partition", "random", ["data.partition = 'random'", "'label-skew'"]),
        ("data.test-fraction", 0.9, ["data.test-fraction = 0.9", "from 1e-06 to 0.799"]),
        ("data.seed", -1, ["data.seed = -1"]),
        ("run.seed", 2**31, ["run.seed", "less than 2147483648"]),
        ("model.channels", 2, ["model.channels = 2", "1 or 3"]),
        ("data.dimensions", 4, ["data.dimensions = 4", "2 or 3"]),
        ("data.slices", 3, ["model.channels: 1 is not data.slices = 3", "set both alike"]),
        ("data.slices", 65, ["data.slices = 65", "from 0 to 64"]),
        ("data.spacing", 1.5, ["data.spacing: only volumes", "data.dimensions = 3"]),
        ("data.window-centre", 50.0, ["data.window-centre: only volumes"]),
        ("data.window-width", 0.0, ["data.window-width = 0.0", "from 0.001 to 65536"]),
        ("data.uncertain-label", 0.7, ["data.uncertain-label", "'smooth' only"]),
        ("data.uncertain-label", 1.0, ["data.uncertain-label = 1.0", "from 1e-06 to 0.999999"]),
        ("train.rounds", 0, ["train.rounds = 0"]),
        ("train.rounds", "three", ["train.rounds = 'three'", "valid integer"]),
        ("train.batch-size", 1.5, ["train.batch-size = 1.5", "valid integer"]),
        ("train.local-epochs", 0, ["train.local-epochs = 0", "from 1e-06 to 1000"]),
        ("train.learning-rate", -0.1, ["train.learning-rate = -0.1"]),
        ("train.momentum", 1.0, ["train.momentum = 1.0", "from 0 to 0.99999"]),
        ("train.optimizer", "lion", ["train.optimizer = 'lion'", "'nadam'"]),
        ("evaluation.where", "cloud", ["evaluation.where = 'cloud'", "'hospitals'"]),
        ("evaluation.bins", -1, ["evaluation.bins = -1"]),
        ("evaluation.bins", 1, ["evaluation.bins", "2 or more, or 0"]),
        ("evaluation.bins", 5000, ["evaluation.bins", "from 0 to 4096"]),
        ("evaluation.binning", "even", ["evaluation.binning = 'even'", "'equal-width'"]),
        ("evaluation.epsilon", -1.0, ["evaluation.epsilon = -1.0"]),
        ("evaluation.delta", 1.0, ["evaluation.delta = 1.0", "from 0 to 0.999"]),
        ("evaluation.images-per-patient", 65, ["evaluation.images-per-patient = 65"]),
        ("evaluation.attributes", "sex, eyes", ["evaluation.attributes", "'eyes'", "view"]),
        ("evaluation.attributes", "sexe", ["evaluation.attributes", "did you mean 'sex'"]),
        ("evaluation.attributes", "sex,age,sex", ["'sex' is named twice"]),
        ("evaluation.specificity", 1.0, ["evaluation.specificity = 1.0", "from 1e-06 to 0.999999"]),
        ("evaluation.resamples", 10, ["evaluation.resamples = 10", "from 100 to 100000"]),
        ("train", 5, ["train = 5"]),
        ("train.rounds.first", 5, ["train.rounds"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_the_key(
    key: str, value: Any, words: list[str]
) -> None:
    refuses(lambda: Settings().replaced({key: value}), "--set", *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"evaluation.where": "hospitals", "train.selection": "best-validation"},
            ["train.selection: 'best-validation'", "evaluation.where = 'hospitals'", "'last'"],
        ),
        (
            {"evaluation.where": "both", "privacy.arm": "pixel-laplace", "privacy.epsilon": 1e5},
            ["evaluation.epsilon: 100000", "set it"],
        ),
        (
            {"train.weighting": "size", "privacy.arm": "central-fixed"},
            ["train.weighting", "'equal'"],
        ),
        (
            {"train.trim": 1, "privacy.arm": "central-adaptive", "data.hospitals": 5},
            ["train.trim", "central-adaptive", "remove it"],
        ),
        (
            {"train.trim": 1, "privacy.arm": "distributed-dp-sgd", "data.hospitals": 5},
            ["train.trim", "distributed-dp-sgd", "remove it"],
        ),
        ({"train.trim": 2, "data.hospitals": 4}, ["train.trim", "data.hospitals = 4", "use 1"]),
        (
            {"train.trim": 1, "data.hospitals": 5, "train.weighting": "size"},
            ["train.trim", "'equal'"],
        ),
        ({"train.scheme": "pooled", "privacy.arm": "local-update"}, ["train.scheme", "local-up"]),
        (
            {"train.scheme": "local-only", "privacy.arm": "central-fixed"},
            ["train.scheme", "central-fixed", "'federated'"],
        ),
        (
            {"data.dimensions": 3, "data.slices": 3},
            ["data.slices", "set data.dimensions = 2"],
        ),
        (
            {"data.dimensions": 3, "data.source": "kermany", "data.path": "x"},
            ["data.dimensions", "kermany has flat images"],
        ),
        (
            {
                "data.dimensions": 3,
                "data.source": "table",
                "data.path": "x",
                "data.images": "y",
                "data.mapping": "chexpert",
            },
            ["data.dimensions", "chexpert has flat images"],
        ),
        ({"data.dimensions": 3, "data.image-size": 512}, ["data.image-size", "256 or less"]),
        (
            {
                "data.dimensions": 3,
                "data.source": "medmnist",
                "data.path": "x",
                "data.window-width": 80.0,
            },
            ["data.window-width", "prepared already"],
        ),
        (
            {"train.weighting": "size", "privacy.arm": "dp-sgd"},
            ["train.weighting", "privacy.public-size", "'equal'"],
        ),
        (
            {"privacy.arm": "dp-sgd", "privacy.unit": "image"},
            ["privacy.images-per-patient", "declared cap", "set it"],
        ),
        (
            {"privacy.arm": "pixel-laplace", "privacy.image-mechanism": "dp-pix"},
            ["privacy.image-mechanism", "pixel-laplace", "remove it"],
        ),
        (
            {"privacy.arm": "dp-sgd", "privacy.image-mechanism": "dp-pix"},
            ["privacy.laplace-scale", "set it"],
        ),
        (
            {"privacy.arm": "dp-pix", "privacy.cell": 5},
            ["privacy.cell: 5", "data.image-size = 32", "divisor"],
        ),
        (
            {"privacy.arm": "dp-pix", "privacy.neighbourhood": 1025},
            ["privacy.neighbourhood: 1025", "1024 pixels", "lower it"],
        ),
        ({"train.minimum-hospitals": 9, "data.hospitals": 2}, ["train.minimum-hospitals", "9"]),
        (
            {
                "train.precision": "bfloat16",
                "privacy.arm": "dp-sgd",
                "privacy.engine": "opacus",
            },
            ["train.precision", "'opacus'", "privacy.engine = 'fedmed'"],
        ),
        ({"model.norm": "frozen-batch"}, ["model.norm", "model.weights"]),
        (
            {
                "model.norm": "frozen-batch",
                "model.weights": "imagenet",
                "model.weight-standardisation": True,
            },
            ["model.weight-standardisation", "'group'"],
        ),
        ({"train.views": 4}, ["train.views: 4", "train.augment"]),
        ({"data.source": "table"}, ["data.path", "table"]),
        ({"data.source": "table", "data.path": "t.csv"}, ["data.images"]),
        ({"data.source": "medmnist"}, ["data.path", "medmnist"]),
        ({"data.source": "kermany"}, ["data.path", "kermany"]),
    ],
)
def test_settings_that_contradict_each_other_name_key_and_remedy(
    changes: dict[str, Any], words: list[str]
) -> None:
    refuses(lambda: Settings().replaced(changes), *words)


def test_every_arm_has_settings() -> None:
    for arm in ARMS:
        given = {"privacy.arm": arm, **needed_by(arm)}
        assert Settings().replaced(given).privacy.arm == arm


def test_whole_numbers_stand_for_fractions_and_not_the_other_way() -> None:
    settings = Settings().replaced({"privacy.epsilon": 2, "train.local-epochs": 3})
    assert (settings.privacy.epsilon, type(settings.privacy.epsilon)) == (2.0, float)
    assert type(settings.train.local_epochs) is float


def test_pooled_is_one_member() -> None:
    settings = Settings().replaced({"data.hospitals": 5})
    assert settings.nodes == 5
    assert settings.replaced({"train.scheme": "pooled"}).nodes == 1
    assert settings.replaced({"train.scheme": "local-only"}).nodes == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.rounds=3", ("train.rounds", 3)),
        (" train.rounds = 3 ", ("train.rounds", 3)),
        ("privacy.epsilon=1e-1", ("privacy.epsilon", 0.1)),
        ("privacy.reproducible-noise=true", ("privacy.reproducible-noise", True)),
        ("privacy.arm=dp-sgd", ("privacy.arm", "dp-sgd")),
        ('data.path="2020-01-01"', ("data.path", "2020-01-01")),
        ("data.path=a=b.csv", ("data.path", "a=b.csv")),
        ("data.path=", ("data.path", "")),
        ("data.positive=Pneumonia|Effusion", ("data.positive", "Pneumonia|Effusion")),
    ],
)
def test_assignments_are_read_as_toml_or_text(text: str, expected: tuple[str, Any]) -> None:
    found = parse_assignment(text)
    assert found == expected
    assert type(found[1]) is type(expected[1])


@pytest.mark.parametrize("text", ["train.rounds", "=3", "  =3", "a=[1, 2]", "a={b = 1}", ""])
def test_an_assignment_of_another_form_shows_how(text: str) -> None:
    refuses(lambda: parse_assignment(text), f"--set {text}")


@given(st.text(min_size=1), st.text())
def test_any_assignment_gives_settings_or_a_users_error(key: str, value: str) -> None:
    with contextlib.suppress(UserError):
        Settings().replaced(dict([parse_assignment(f"{key}={value}")]))


@pytest.mark.parametrize("value", [10**400, 10**30], ids=["beyond", "large"])
def test_a_number_beyond_every_range_is_one_line(value: int) -> None:
    refuses(lambda: Settings().replaced({"train.learning-rate": -abs(value)}), "learning-rate")


def test_a_toml_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[train]\nrounds = \n")
    refuses(lambda: read_toml(wrong), str(wrong), "line 2")
    refuses(lambda: read_toml(tmp_path / "no.toml"), "no.toml", "no such file")
    refuses(lambda: read_toml(tmp_path), str(tmp_path), "folder")
    wrong.write_bytes(b"\xff\xfe\x00")
    refuses(lambda: read_toml(wrong), str(wrong), "not valid TOML")


def test_what_evaluation_asks_for_is_checked_only_where_hospitals_are_asked() -> None:
    given = Settings().replaced({"privacy.arm": "pixel-laplace", "privacy.epsilon": 1e5})
    assert given.evaluation.where == "server"
    chosen = given.replaced({"evaluation.where": "both", "evaluation.epsilon": 2})
    assert chosen.evaluation.epsilon == 2.0
    assert Settings().evaluation.grouped_by == ("sex", "age")
    assert given.replaced({"evaluation.attributes": " view "}).evaluation.grouped_by == ("view",)
    assert given.replaced({"evaluation.attributes": ""}).evaluation.grouped_by == ()
    both = {"evaluation.where": "both", "train.selection": "best-validation"}
    assert Settings().replaced(both).train.selection == "best-validation"
