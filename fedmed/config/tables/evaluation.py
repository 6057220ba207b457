"""``evaluation``: who evaluates, and what hospitals may tell."""

from typing import Annotated, Literal

from pydantic import Field

from fedmed.config.names import Unit, within
from fedmed.config.tables.section import Section


class Evaluation(Section):
    """Who evaluates, on which images, and what hospitals may tell about theirs."""

    where: Literal["server", "hospitals", "both"] = "server"
    """`server`: on validation and test images that the server holds. `hospitals`: from their score
    histograms; the server reads no held-out image, so `train.selection` must be `last`. `both`: to
    compare the two in a simulation."""

    bins: Annotated[int, Field(ge=0, le=4096), Unit("bins")] = 0
    """Bins of a histogram, 2 or more. 0: 32 where they are noised, else 256. More bins narrow the
    binning bound and hold more noise."""

    binning: Literal["public", "equal-width"] = "public"
    """Where edges lie: close together where the model's scores of synthetic radiographs pile up, or
    even in the score."""

    epsilon: Annotated[float, within(0, 1e4), Unit("per evaluation patient")] = 0.0
    """Budget of all histograms of a run, 0.0001 or more. 0: `privacy.epsilon`. Not read where the
    arm protects nothing: counts are exact then."""

    delta: Annotated[float, within(0, 0.999)] = 0.0
    """Of that budget, 1e-12 or more; it must be below 1/evaluation patients of every hospital.
    0: `privacy.delta`."""

    images_per_patient: Annotated[int, Field(ge=0, le=64), Unit("images")] = 0
    """At most so many images of one patient are counted. 0: `privacy.images-per-patient`, else 1
    where counts are noised and all where not."""

    attributes: Annotated[
        str, Unit("`sex`, `age`, `sex_age`, `view`, `comorbidities`, comma separated")
    ] = "sex,age"
    """Histograms by these groups. Each further one adds noise to all. Groups by hospital cost
    nothing."""

    specificity: Annotated[float, within(1e-6, 1 - 1e-6)] = 0.9
    """The sensitivity is also given at the threshold that reaches this specificity on validation.
    """

    resamples: Annotated[int, Field(ge=100, le=100_000), Unit("draws")] = 2000
    """Resamples behind each interval."""

    redraw_threshold: bool = False
    """Intervals of numbers at a threshold hold its choice too: in every resample it is chosen anew,
    on validation patients drawn again. See [evaluation.md](evaluation.md#thresholds)."""

    train_metrics: bool = False
    """Simulation only: the final model is also scored on the training images, as they were trained
    on. No epsilon covers these numbers; a hospital with files of its own refuses such a run. See
    [evaluation.md](evaluation.md#training-images-and-noised-test-images)."""

    noised_test: bool = False
    """Arms that noise images: the test images are also scored under the same noise. It costs
    nothing: they are the server's, and stay there."""

    curves: bool = False
    """After every round, accuracy and AUROC on the test images and on those two sets. For figures:
    nothing is chosen by them."""

    @property
    def grouped_by(self) -> tuple[str, ...]:
        """The attributes as names."""
        return tuple(name.strip() for name in self.attributes.split(",") if name.strip())
