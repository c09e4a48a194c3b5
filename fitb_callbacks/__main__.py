"""The command ``fitb``, also as ``python -m fitb_callbacks``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        from fitb_callbacks.cli import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        print(f"fitb needs {error.name}: pip install 'fitb-callbacks[demo]'", file=sys.stderr)
        sys.exit(2)  # not 1, which is a model that fitb check refuses
    app()


if __name__ == "__main__":
    main()
