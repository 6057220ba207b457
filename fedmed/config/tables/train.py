"""``train``: the recipe that every arm shares."""

from typing import Annotated, Literal

from pydantic import Field

from fedmed.config.names import Scheme, Unit, count, within
from fedmed.config.tables.section import Section


class Train(Section):
    """The recipe every arm shares."""

    scheme: Scheme = "federated"
    """Training together, all data in one place, or each hospital alone."""

    rounds: Annotated[int, count(100_000), Unit("rounds")] = 4
    """Rounds of training."""

    local_epochs: Annotated[float, within(1e-6, 1000), Unit("passes over the shard")] = 2.0
    """How long a hospital trains in a round. A fraction is allowed."""

    batch_size: Annotated[int, count(1_000_000), Unit("images (`dp-sgd`: units)")] = 16
    """Images in a step. Under `dp-sgd`: the expected number of patients (or images) in a Poisson
    batch."""

    sampling_rate: Annotated[float, within(1e-6, 1), Unit("probability")] = 0.1
    """`central-dp-sgd` and `distributed-dp-sgd`: with which probability each patient (or image) is
    in a step's batch, the same at every hospital. A round is one step of all of them."""

    optimizer: Literal["sgd", "adam", "adamw", "nadam"] = "sgd"
    """The hospital's optimiser. Its state never outlives a round. `central-dp-sgd` and
    `distributed-dp-sgd`: the server's, on the noised sum; its state is that of the run."""

    learning_rate: Annotated[float, within(1e-12, 1e3)] = 0.01
    """The hospital's learning rate."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls over all steps of the run, to 0. It depends on round and step
    alone."""

    warmup: Annotated[float, within(0, 0.999), Unit("share of the run")] = 0.0
    """The rate rises linearly to its full value over this share first."""

    momentum: Annotated[float, within(0, 0.99999)] = 0.9
    """Momentum of `sgd`."""

    weight_decay: Annotated[float, within(0, 1e3)] = 0.0
    """Weight decay; with `adamw` apart from the gradient."""

    proximal: Annotated[float, within(0, 1e3)] = 0.0
    """FedProx' mu: pulls towards the model that the round began with. Under `dp-sgd` it is added
    after the noise."""

    augment: Literal["none", "flip", "shift", "flip-shift"] = "none"
    """Random views in training: left-right mirror images, moves by up to an eighth of the side."""

    views: Annotated[int, Field(ge=1, le=64), Unit("views")] = 1
    """`dp-sgd`: views of an image whose gradients are averaged before clipping. A step costs that
    many times more; a patient still counts once. Needs `train.augment`. Other arms draw one
    view."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass in training (autocast); parameters, clipping norms, sums and
    noise stay float32, and models are scored in float32. Faster on GPUs and CPUs with bfloat16
    units. Not with `privacy.engine = "opacus"`."""

    ema: Annotated[float, within(0, 0.99999)] = 0.0
    """Decay of an average of the parameters over the steps of a round; the average is what a
    hospital hands on. 0: the parameters of the last step. It spends no budget."""

    round_average: Annotated[float, within(0, 0.99999)] = 0.0
    """Decay of an average of the global model over rounds. The average is what is scored, selected
    and handed over; hospitals go on from the last model. 0: the last model. It spends no
    budget."""

    weighting: Literal["equal", "size"] = "equal"
    """Weight of the hospitals in the average. `equal` tells no size, and is what the noise of the
    central arms is calibrated for: they need it. `size` is FedAvg's by images, for arms that
    protect nothing; another arm with noise needs sizes declared in `privacy.public-size` for it.
    See [recipe.md](recipe.md#equal-weights-or-sizes)."""

    largest_share: Annotated[float, Field(ge=0, le=1), Unit("share of the weight")] = 0.0
    """The largest share of a round's weight that one hospital gets with `weighting = "size"`. 0: a
    half where hospitals declare their sizes themselves (`data.sites`), all in a simulation."""

    update_bound: Annotated[float, Field(ge=1, le=1e6), Unit("times")] = 10.0
    """An update longer than so many times the median norm of the other hospitals' is cut to that,
    and the history [says whose](deploy.md#what-one-hospital-cannot-do-to-the-others); one longer
    than its plan allows, to that. 1 clips to the median norm."""

    trim: Annotated[int, Field(ge=0, le=499), Unit("hospitals")] = 0
    """Hospitals that a trimmed mean leaves out: in every coordinate the so many smallest and the so
    many largest numbers (Yin et al. 2018). As many may send what they like, and the others' numbers
    bound it. 0: the mean. See
    [deploy.md](deploy.md#what-one-hospital-cannot-do-to-the-others)."""

    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    """What the server makes of the averaged update: FedAvg, server momentum, or FedAdam. It comes
    after any noise."""

    server_learning_rate: Annotated[float, within(1e-12, 1e3)] = 1.0
    """Factor on the averaged update, or on the server optimiser's step."""

    server_momentum: Annotated[float, within(0, 0.99999)] = 0.9
    """`momentum` and `adam`: decay of the first moment."""

    server_second_moment: Annotated[float, within(0, 0.99999)] = 0.99
    """`adam`: decay of the second moment."""

    server_tau: Annotated[float, within(1e-12, 1e3)] = 1e-3
    """`adam`: added to the root of the second moment."""

    selection: Literal["last", "best-validation"] = "last"
    """Which round's model is the result. Never chosen by test."""

    on_failure: Literal["stop", "continue"] = "stop"
    """What happens when a hospital fails in a round."""

    minimum_hospitals: Annotated[int, count(1000), Unit("hospitals")] = 1
    """With `continue`: the fewest updates that complete a round."""

    timeout: Annotated[float, within(1e-3, 1e7), Unit("seconds")] = 3600.0
    """How long the server waits for a round's updates. The inline engine cannot interrupt a
    hospital."""

    join_timeout: Annotated[float, within(1e-3, 1e7), Unit("seconds")] = 600.0
    """How long the server waits for hospitals before the first round. A deployed federation goes on
    without those that miss it under `continue`."""
