"""wsipipe: from a few points clicked on a pathology slide to a mask of the whole slide.

The names below are the public Python interface. They are loaded when first used, so that `import wsipipe` is quick and
brings no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from wsipipe._version import __version__

if TYPE_CHECKING:
    from wsipipe.numerics.contrast import contrast_map
    from wsipipe.numerics.variational import CvmResult, VariationalSegmentation, solve_cvm, variational_segmentation
    from wsipipe.slides import open_slide
    from wsipipe.store.feature_map import FeatureMap

__all__ = [
    "CvmResult",
    "FeatureMap",
    "VariationalSegmentation",
    "__version__",
    "contrast_map",
    "open_slide",
    "solve_cvm",
    "variational_segmentation",
]

_HOME = {
    "CvmResult": "wsipipe.numerics.variational",
    "FeatureMap": "wsipipe.store.feature_map",
    "VariationalSegmentation": "wsipipe.numerics.variational",
    "contrast_map": "wsipipe.numerics.contrast",
    "open_slide": "wsipipe.slides",
    "solve_cvm": "wsipipe.numerics.variational",
    "variational_segmentation": "wsipipe.numerics.variational",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'wsipipe' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
