"""The server's Flower app."""

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmed import config
from fedmed.base import files
from fedmed.base.errors import RunError, UserError
from fedmed.base.opening import expanded
from fedmed.coordinator.coordinator import coordinate
from fedmed.privacy.gradients.memory import return_freed_memory

log = logging.getLogger("fedmed.server")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one arm with the settings of the run config and leave its run directory."""
    _log_to_stream()
    try:
        settings = config.from_flat(dict(context.run_config))
        _check_paths(settings)
        if settings.data.site_names:  # else this process evaluates, which fresh pages make slow
            return_freed_memory()
        folder = files.run_folder(settings.run.out, context.run_id)
        result = coordinate(grid, settings, folder, on_round=_log_round)
    except (UserError, RunError) as error:
        log.error("%s", error)
        # Flower marks a run as failed only where its app raises; it prints its own frames then.
        raise type(error)(str(error)) from None
    log.info("test AUROC %.4f; results in %s", result["metrics"]["auroc"] or float("nan"), folder)


def _check_paths(settings: config.Settings) -> None:
    """Refuse relative paths: Flower runs the app from a folder that the user never sees."""
    data = settings.data
    given = {"data.images": data.images, "data.index": data.index, "run.out": settings.run.out}
    if data.source != "medmnist" or Path(data.path).suffix:
        given["data.path"] = data.path
    if settings.model.weights not in ("none", "imagenet", "pretrain"):
        given["model.weights"] = settings.model.weights
    for key, value in given.items():
        if value and not expanded(value).is_absolute():
            raise UserError(f"{key} = '{value}': flwr run needs an absolute path; give one")


def _log_to_stream() -> None:
    """Show fedmed's own lines, and no library's, in the stream that ``flwr run`` follows."""
    ours = logging.getLogger("fedmed")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False


def _log_round(round_number: int, rounds: int, auroc: float | None) -> None:
    shown = "AUROC not known" if auroc is None else f"AUROC {auroc:.4f}"
    log.info("round %d/%d %s", round_number, rounds, shown)
