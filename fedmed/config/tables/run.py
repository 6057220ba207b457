"""``run``: one run's seed, place and machine."""

from typing import Annotated, Literal

from pydantic import Field

from fedmed.config.names import Seed, Unit, count
from fedmed.config.tables.section import Section


class Run(Section):
    """This run: its seed, its place and its machine."""

    seed: Seed = 0
    """Starts the model and orders the data. `fedmed run` sets it from `seeds`."""

    ledgers: Annotated[str, Unit("folder")] = ""
    """Where the ledgers lie. Empty: in `ledgers/` of the comparison's folder (of the run's own
    folder under `flwr run`). Name one folder to let spend of several experiments add up. See
    [ledger.md](ledger.md)."""

    policies: Annotated[str, Unit("folder")] = ""
    """Where the hospitals' policies lie, NAME.toml each. Empty: everything is allowed. See
    [ledger.md](ledger.md#the-policy-file)."""

    sites: Annotated[str, Unit("folder")] = ""
    """Simulation: the hospitals' own settings, NAME.toml each, with dotted keys such as
    `"privacy.epsilon" = 2.0`. Empty: none has any. A deployed site has its own file for that."""

    pretrained: Annotated[str, Unit("path")] = ""
    """The file that `model.weights = "pretrain"` stands for. An experiment sets it."""

    out: Annotated[str, Unit("path")] = ""
    """Run directory. `fedmed run` sets it. Empty under `flwr run`: `runs/flwr-<run id>` in fedmed's
    home."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models compute. `auto`: the GPU where there is one."""

    hospitals_per_gpu: Annotated[int, count(1000), Unit("hospitals")] = 1
    """Ray engine: how many simulated hospitals share one GPU."""

    threads: Annotated[int, Field(ge=0, le=4096), Unit("threads")] = 0
    """CPU threads of torch in each process. 0: torch's choice."""

    wire: Literal["float32", "bfloat16"] = "float32"
    """How a hospital's update travels. `bfloat16` halves its bytes and rounds each number to 8 bits
    of mantissa (a relative error of up to 2^-8), after clipping and noise: post-processing, which
    costs no privacy."""

    trackers: Annotated[str, Unit("`tensorboard`, `mlflow`, comma separated")] = ""
    """What `fedmed run` logs to, beside its files. See [trackers.md](trackers.md)."""

    @property
    def tracked_by(self) -> tuple[str, ...]:
        """The trackers as names."""
        return tuple(name.strip() for name in self.trackers.split(",") if name.strip())
