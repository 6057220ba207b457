"""A simulation on a machine with a proxy and a deep folder for temporary files."""

import json
from pathlib import Path

import pytest

from fedmed.config import Settings
from fedmed.launch import RaySimulation

pytestmark = pytest.mark.usefixtures("no_other_ray")


@pytest.mark.slow
def test_a_proxy_and_a_deep_tmpdir_do_not_stop_a_run(
    fedmed_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without help the first is met after 90 s, and the second ends with an address of Ray's."""
    deep = tmp_path / ("jobs" * 20)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    settings = Settings().replaced(
        {
            "data.patients": 40,
            "data.hospitals": 2,
            "data.image-size": 16,
            "model.name": "resnet9",
            "train.rounds": 1,
            "train.local-epochs": 1.0,
            "train.batch-size": 8,
            "evaluation.resamples": 100,
            "run.device": "cpu",
        }
    )
    with RaySimulation() as simulation:
        simulation.run(settings, tmp_path / "run", "on ray", lambda *_: None)
        folder = Path(simulation.environment["RAY_TMPDIR"])
        assert (folder / "ray").is_dir()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["rounds"] == 1
    assert not folder.exists()
