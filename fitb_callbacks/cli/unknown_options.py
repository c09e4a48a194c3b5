"""An option that a command does not have: say which one may be meant."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["SuggestingCommand"]


class SuggestingCommand(TyperCommand):
    """A command that suggests options which share a word with an unknown one, or else are spelled nearly the same."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As for any command."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # which class it is depends on typer's version
            if hasattr(error, "possibilities"):
                error.possibilities = self._sharing_a_word(error.option_name, ctx) or error.possibilities  # type: ignore[attr-defined]
            raise

    def _sharing_a_word(self, unknown: str, ctx: Any) -> list[str]:
        words = set(unknown.strip("-").split("-"))
        names = [name for param in self.get_params(ctx) for name in param.opts if name.startswith("--")]
        return [name for name in names if words & set(name.strip("-").split("-"))]
