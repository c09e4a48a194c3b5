"""Fill in the blanks: see what an image classifier learned, at every epoch of its training."""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from fitb_callbacks._version import __version__

if TYPE_CHECKING:
    from fitb_callbacks.callback.callback import FillInBlanksCallback
    from fitb_callbacks.probing.probe import FillInBlanks
    from fitb_callbacks.probing.result import FillInBlanksResult
    from fitb_callbacks.scoring.judges.base import Judge
    from fitb_callbacks.scoring.judges.centroid import CentroidJudge
    from fitb_callbacks.scoring.judges.module import ModuleJudge
    from fitb_callbacks.scoring.judges.ridge import RidgeJudge

__all__ = [
    "CentroidJudge",
    "FillInBlanks",
    "FillInBlanksCallback",
    "FillInBlanksResult",
    "Judge",
    "ModuleJudge",
    "RidgeJudge",
    "__version__",
]

# Python started in the checkout finds this folder first, and integrations/ lies beside it: take the installed one
__path__ = extend_path(__path__, __name__)

# Each is imported when it is first asked for: the probe needs no Lightning, and `fitb --help` no torch.
_HOMES = {
    "CentroidJudge": "scoring.judges.centroid",
    "FillInBlanks": "probing.probe",
    "FillInBlanksCallback": "callback.callback",
    "FillInBlanksResult": "probing.result",
    "Judge": "scoring.judges.base",
    "ModuleJudge": "scoring.judges.module",
    "RidgeJudge": "scoring.judges.ridge",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
