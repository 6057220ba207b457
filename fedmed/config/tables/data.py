"""``data``: where images come from, how they are split, and which hospital holds which."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fedmed.config.names import Seed, Unit, within
from fedmed.config.sources import MappingName, SourceName
from fedmed.config.tables.section import Section

_Text = BeforeValidator(lambda value: str(value) if type(value) is int else value)
_Name = Annotated[str, Unit("a column's name")]


class Columns(Section):
    """Names of a table's own columns for each column of the schema (``table`` source)."""

    image: _Name = ""
    """`table`: the table's own column for the name of the image file. Empty: `image`."""

    label: _Name = ""
    """`table`: the table's own column for the label. Empty: `label`."""

    finding: _Name = ""
    """`table`: the table's own column for the finding. Empty: `finding`."""

    comorbidities: _Name = ""
    """`table`: the table's own column for the number of co-morbidities. Empty: `comorbidities`."""

    patient_id: _Name = ""
    """`table`: the table's own column for the patient. Empty: `patient_id`."""

    age: _Name = ""
    """`table`: the table's own column for the age in years. Empty: `age`."""

    sex: _Name = ""
    """`table`: the table's own column for the sex. Empty: `sex`."""

    view: _Name = ""
    """`table`: the table's own column for the view. Empty: `view`."""

    site: _Name = ""
    """`table`: the table's own column for the hospital. Empty: `site`."""

    split: _Name = ""
    """`table`: the table's own column for the split. Empty: `split`."""


class Data(Section):
    """Where images come from, how they are split, and which hospital holds which."""

    source: SourceName = "phantom"
    """Where the images come from. See [data.md](data.md)."""

    path: Annotated[str, Unit("path or name")] = ""
    """`medmnist`: an `.npz` file, or a set's name to download. `kermany`: the folder or its zip.
    `table`: a CSV or Parquet. `phantom`: not used."""

    images: Annotated[str, Unit("path")] = ""
    """`table`: the folder or zip that holds the images."""

    bits_stored: Annotated[str, _Text, Unit("bits, or `SITE=BITS`, comma separated")] = ""
    """`table`: how many bits the values of 16-bit PNG and TIFF files have (`"12"`), or those of
    each hospital (`"north=12, south=16"`). Empty: 16, and a file that uses fewer is refused. See
    [data.md](data.md#images)."""

    index: Annotated[str, Unit("path")] = ""
    """`medmnist`: a CSV with `split`, `row` and `patient_id`. `kermany`: a CSV with `image` and
    `split`, where there are no split folders."""

    mapping: MappingName = ""
    """`table`: a ready mapping from a public set's own table. Empty: the schema's names and
    `data.columns` count."""

    columns: Columns = Columns()
    target: Annotated[str, Unit("a label's name, or several split by '|'")] = ""
    """Which label of a set with several is trained on, or which ones together ([several
    labels](data.md#several-labels-at-once)). `medmnist` also takes class numbers."""

    positive: Annotated[str, Unit("text, split by '|'")] = ""
    """`table`: the values of the label column that mean disease: a cell is 1 where one of its parts
    is among them. Every other value means no disease, but for those that hold one of these words or
    say neither (`pending`, `?`), which are an error. Empty: the column holds 0 and 1."""

    negative: Annotated[str, Unit("text, split by '|'")] = ""
    """`table`: the values that mean no disease. With it every other value is an error. Empty: see
    `data.positive`."""

    separator: Literal["", "list", "|", ";", "/", ","] = ""
    """`table`: what splits the cells of the label column into values; `list` is a list as Python
    writes it. Empty: the one that finds `data.positive` in most cells, which a note names."""

    missing_images: Literal["refuse", "leave-out"] = "refuse"
    """`table`: whether a row whose image is not there is an error, or left out with a note."""

    uncertain: Literal["refuse", "negative", "positive", "ignore", "smooth"] = "refuse"
    """What an uncertain label (-1) becomes. `refuse` stops; `ignore` drops those rows, and rows
    with an empty label; `smooth` trains on `data.uncertain-label` and keeps those images out of
    validation and test."""

    uncertain_label: Annotated[float, within(1e-6, 1 - 1e-6)] = 0.5
    """`smooth`: what training aims at for an uncertain label. The same for every image, so that it
    reveals nothing."""

    patients: Annotated[int, Field(ge=20, le=1_000_000), Unit("patients")] = 900
    """`phantom`: how many patients to draw."""

    image_size: Annotated[int, Field(ge=16, le=1024), Unit("pixels")] = 32
    """Side of the square that images are cropped and resized to; of the cube (up to 256) with
    `data.dimensions = 3`."""

    dimensions: Literal[2, 3] = 2
    """3: volumes and models in three dimensions. See
    [data.md](data.md#ct-volumes-and-slices-of-them)."""

    slices: Annotated[int, Field(ge=0, le=64), Unit("slices")] = 0
    """Volumes for a 2D model: that many axial slices, at equal distances, as its channels.
    `model.channels` must say the same number. 0: none."""

    spacing: Annotated[float, within(0, 50), Unit("mm")] = 0.0
    """Volumes: distance of voxels after resampling; what is larger than the cube is cropped, what
    is smaller padded with air. 0: the whole volume is scaled to fit the cube."""

    window_centre: Annotated[float, within(-4096, 32767), Unit("HU")] = 40.0
    """Volumes in Hounsfield units: the middle of the window that is shown from black to white."""

    window_width: Annotated[float, within(1e-3, 65536), Unit("HU")] = 400.0
    """Width of that window. 40/400 is soft tissue; -600/1500 lung, 400/1800 bone."""

    hospitals: Annotated[int, Field(ge=1, le=1000), Unit("hospitals")] = 2
    """Number of hospitals; one Flower node each."""

    sites: Annotated[str, Unit("names, comma separated")] = ""
    """A deployed federation: the hospitals' names. The server then reads no image, and
    `data.hospitals` must be their number. At a site: its own name alone. See [scale.md](scale.md).
    """

    site_keys: Annotated[str, Unit("`NAME=SHA256:...`, comma separated")] = ""
    """A deployed federation: the fingerprint of each hospital's node key, as `ssh-keygen -lf
    node.pub` prints it. A node takes a name only with its key. Empty: whoever comes first in a run
    keeps the name."""

    partition: Literal["site", "even", "label-skew", "size-skew"] = "site"
    """How patients are dealt to hospitals, each drawn independently."""

    partition_alpha: Annotated[float, within(1e-3, 1e6)] = 0.5
    """Concentration of the Dirichlet draw of `label-skew` and `size-skew`. Smaller means more skew.
    """

    split: Literal["given", "given-test", "patient"] = "given"
    """Which splits are kept and which are drawn again."""

    validation_fraction: Annotated[float, within(1e-6, 0.499), Unit("share of patients")] = 0.15
    """Size of a drawn validation split."""

    test_fraction: Annotated[float, within(1e-6, 0.799), Unit("share of patients")] = 0.25
    """Size of a drawn test split."""

    unknown_patients: Literal["refuse", "separate", "leave-out"] = "refuse"
    """Whether an image without a patient is an error, a patient of its own, or left out of training
    and validation."""

    seed: Seed = 0
    """Fixes the phantom, the split and the hospitals. It does not touch training."""

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of a deployed federation's hospitals; empty in a simulation."""
        return tuple(name.strip() for name in self.sites.split(",") if name.strip())

    @property
    def fingerprints(self) -> dict[str, str]:
        """The node key's fingerprint of each hospital that ``site_keys`` lists."""
        pairs = (pair.partition("=") for pair in self.site_keys.split(",") if pair.strip())
        return {name.strip(): key.strip() for name, _, key in pairs}

    @property
    def depths(self) -> dict[str, str]:
        """Bits that ``bits_stored`` gives, as text, by site; "" is every site without its own."""
        pairs = (pair.rpartition("=") for pair in self.bits_stored.split(",") if pair.strip())
        return {name.strip(): bits.strip() for name, _, bits in pairs}

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels that are trained on, where there are several; empty for one."""
        names = tuple(name.strip() for name in self.target.split("|"))
        return names if len(names) > 1 else ()

    @property
    def outputs(self) -> int:
        """Logits of the model: one for each label."""
        return max(1, len(self.targets))
