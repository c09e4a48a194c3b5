"""Import what a user names as ``package.module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from fitb_callbacks.utils.messages import one_line

__all__ = ["import_from_string"]


def import_from_string(path: str, *, argument: str) -> Any:
    """Return the object that ``package.module:name`` names.

    Modules of the current folder are found too, after all others: a ``yaml.py`` that lies there does not stand in for
    the installed one. The folder stays importable for what the object does later.

    Args:
        path: Such as ``"my_project.models:Classifier"``; the name may have dots.
        argument: What the user calls this argument, for errors.

    Raises:
        ValueError: If the path is not of this form, the module cannot be imported or does not hold the name.

    Example:
        >>> import_from_string("fitb_callbacks.probing.probe:FillInBlanks.probe", argument="--data").__name__
        'probe'
        >>> import_from_string("json", argument="--data")
        Traceback (most recent call last):
        ...
        ValueError: --data must be package.module:name; got 'json'
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{argument} must be package.module:name; got {path!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # user's code may raise anything
        if "/" in module_name or module_name.endswith(".py"):
            raise ValueError(f"{argument} must be package.module:name, not a file; got {path!r}") from error
        raise ValueError(f"{argument} {path!r} cannot be imported: {one_line(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{argument} must name something in {module_name}; there is no {name!r}")
        found = getattr(found, part)
    return found
