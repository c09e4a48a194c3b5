"""Rules on a model's scores, from the command line or a reviewed file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fitb_callbacks.data.sources import Standardization
from fitb_callbacks.scoring.catalogue import METRICS, RESAMPLED
from fitb_callbacks.utils.messages import on_one_line
from fitb_callbacks.utils.validation import check_number

__all__ = [
    "LOST_CLASSES",
    "PEER_ACCURACY",
    "PEER_AGREEMENT",
    "RED_IN_TRAINING",
    "Rule",
    "Rules",
    "default_rules",
    "parse_values",
]

PEER_AGREEMENT = "peer_agreement"
"""Whether candidate and champion go by the same things, from -1 to 1: to which image they lean where a picture is made
of two, see `fitb_callbacks.gate.agreement`. Only there with a champion."""

PEER_ACCURACY = "peer_accuracy"
"""Share of all probe images whose prototype the champion classifies as their label; an image without a prototype counts
as wrong. Only there with a champion."""

LOST_CLASSES = "lost_classes"
"""Number of classes that the champion covers for the most part and the candidate nowhere, of those with at least four
probe images. Only there with a champion."""

RED_IN_TRAINING = "red_in_training"
"""1 if the last verdict of the candidate's own training run is red, otherwise 0. Only there for a registered model."""

_OF_BOTH = (PEER_AGREEMENT, PEER_ACCURACY, LOST_CLASSES)

_AT_MOST = {RED_IN_TRAINING: "0 or 1", LOST_CLASSES: "better the lower it is, and of the two models together"}

_LARGEST_FILE = 2**20  # bytes
_KINDS = {
    "min": "at least",
    "max": "at most",
    "max_drop": "lower than the champion's by at most",
    "max_rise": "higher than the champion's by at most",
}
_AGAINST_CHAMPION = ("max_drop", "max_rise")


@dataclass(frozen=True)
class Rule:
    """One bound on one score.

    Args:
        kind: "min" and "max" bound the score itself, "max_drop" and "max_rise" how much lower or higher it is than the
            champion's.
        key: Name of the score, with or without the prefix ``fitb/``: see `fitb_callbacks.scoring.catalogue.METRICS`,
            `PEER_AGREEMENT`, `PEER_ACCURACY`, `LOST_CLASSES` and `RED_IN_TRAINING`.
        bound: Any finite number; at least 0 for "max_drop" and "max_rise".

    Raises:
        ValueError: If there is no such score, it cannot be bounded so, or the bound is not a number.

    Example:
        >>> print(Rule("max_drop", "fitb/structure", 0.02))
        structure lower than the champion's by at most 0.02
        >>> Rule("min", "structur", 0.5)
        Traceback (most recent call last):
        ...
        ValueError: min: there is no score 'structur'; did you mean structure?
    """

    kind: str
    key: str
    bound: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key.removeprefix("fitb/"))
        if self.key in METRICS and METRICS[self.key].scope != "model":
            raise ValueError(f"{self.kind}: {self.key} describes a training run, not a model; no rule can bound it")
        allowed = [name for name, metric in METRICS.items() if metric.scope == "model"] + [*_OF_BOTH, RED_IN_TRAINING]
        if self.key not in allowed:
            near = get_close_matches(self.key, allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed)}"
            raise ValueError(f"{self.kind}: there is no score {self.key!r}; {hint}")
        if self.kind == "max_rise" and self.key in _OF_BOTH:
            raise ValueError(f"max_rise goes with scores that both models have; got {self.key!r}")
        if self.key in _AT_MOST and self.kind != "max":
            raise ValueError(f"{self.kind}: {self.key} is {_AT_MOST[self.key]}; use max")
        if self.kind == "max_drop" and self.key not in RESAMPLED:
            hint = ", as it is of the two models together; use min" if self.key in _OF_BOTH else ""
            raise ValueError(f"max_drop goes with {', '.join(RESAMPLED)}; got {self.key!r}{hint}")
        check_number(f"{self.kind} of {self.key}", self.bound)
        if self.kind in _AGAINST_CHAMPION and self.bound < 0:
            raise ValueError(f"{self.kind} of {self.key} must be at least 0; got {self.bound}")

    @property
    def needs_judge(self) -> bool:
        """Whether the score is there only with a judge."""
        return self.key in METRICS and METRICS[self.key].needs_judge

    @property
    def needs_champion(self) -> bool:
        """Whether the rule can be judged only with a champion."""
        return self.kind in _AGAINST_CHAMPION or self.key in _OF_BOTH

    @property
    def says_what_it_goes_by(self) -> bool:
        """Whether the rule refuses a model for what it goes by, and not for how well it does."""
        if self.key == PEER_AGREEMENT:
            return self.kind == "min"
        return self.kind == "max" and (self.key == "shortcut" or self.key.startswith("cue_"))

    def __str__(self) -> str:
        return f"{self.key} {_KINDS[self.kind]} {self.bound:g}"


def default_rules(*, champion: bool, trusted: bool) -> tuple[Rule, ...]:
    """Rules that hold for any data: for a team that has not written its own.

    - No update is NaN or infinite.
    - The model is right, under some mask, on half of the probe images.
    - No single cue of the image, such as its rim, its shading or fine detail without what is in the middle, explains
      most of its answers. A model of which that is true follows something that is everywhere. Classes that do differ in
      such a cue, as fruit does in colour, need rules of their own.
    - With a champion: it is not right on clearly fewer of them than the champion, has lost no class that the champion
      knows, and goes by the same things. Two healthy models lean to the same image where a picture is made of two; one
      that follows a mark leans to where the mark is from, whatever its accuracy. docs/registry.md has measurements.
    - With trusted images: a judge of these sees the classes in the prototypes.

    Args:
        champion: Whether there is a champion.
        trusted: Whether there are trusted images.

    Example:
        >>> print(*default_rules(champion=False, trusted=False)[:2], sep="; ")
        nonfinite at most 0; coverage at least 0.5
    """
    rules = [Rule("max", "nonfinite", 0.0), Rule("min", "coverage", 0.5), Rule("max", "shortcut", 0.5)]
    if champion:
        rules += [Rule("max_drop", "coverage", 0.1), Rule("max", LOST_CLASSES, 0.0), Rule("min", PEER_AGREEMENT, 0.35)]
    if trusted:
        rules += [Rule("max_drop", "structure", 0.2) if champion else Rule("min", "structure", 0.3)]
    return tuple(rules)


@dataclass(frozen=True)
class Rules:
    """All rules of a check, with what they are to be judged on.

    Attributes:
        rules: The bounds; none for `default_rules`.
        champion: The model to compare with: an alias, a version or a model's address; None without one.
        data: Probe images, see `fitb_callbacks.data.sources.open_images`; None for those that a training run recorded.
        trusted: Trusted images that the judge learns from, in the same way.
        mean: What the model's training subtracts from pixels in [0, 1], one value a channel or one for all; of both
            ``data`` and ``trusted``.
        std: What it then divides them by.
        images_per_class: Probe images of each class.
        certain: Whether every rule is decided by the whole 95% interval of its score.
        settings: Settings of the probe, see `fitb_callbacks.FillInBlanks`.
    """

    rules: tuple[Rule, ...] = ()
    champion: str | None = None
    data: str | None = None
    trusted: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    images_per_class: int | None = None
    certain: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def standardization(self) -> Standardization | None:
        """What is done to pixels; None for nothing.

        Raises:
            ValueError: If only one of mean and std is given, or one is no number.
        """
        if self.mean is None and self.std is None:
            return None
        if self.mean is None or self.std is None:
            raise ValueError("mean and std go together; only one was given")
        return Standardization(self.mean, self.std)

    @property
    def digest(self) -> str:
        """SHA-256 of all entries; the same for the same rules, wherever they were written.

        Example:
            >>> Rules(data="mnist").digest == Rules(data="mnist").digest != Rules(data="mnist", certain=True).digest
            True
        """
        content = json.dumps(asdict(self), sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_code: bool = False) -> Rules:
        r"""Read rules from a YAML file; docs/registry.md has an example.

        Args:
            path: The file.
            allow_code: Whether ``data`` and ``trusted`` may be a ``package.module:function``, which is then called.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not YAML, or holds what is not a rule; the error names the file and the entry.

        Example:
            >>> import pathlib, tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = pathlib.Path(folder, "rules.yaml")
            ...     _ = path.write_text("champion: champion\nmin: {coverage: 0.8}\nmax_drop: {area: 0.02}\n")
            ...     print(*Rules.load(path).rules, sep="; ")
            coverage at least 0.8; area lower than the champion's by at most 0.02
        """
        import yaml

        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file of rules {os.fspath(path)}")
        try:
            with Path(path).open("rb") as file:
                text = file.read(_LARGEST_FILE + 1)
            if len(text) > _LARGEST_FILE or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
                raise ValueError(f"rules must be plain YAML of at most {_LARGEST_FILE} bytes, without aliases")
            rules = cls.from_mapping(yaml.safe_load(text))
            for name in ("data", "trusted"):
                if not allow_code and _names_code(getattr(rules, name)):
                    raise ValueError(
                        f"{name} names the function {getattr(rules, name)}, which would be run; if you trust the file, "
                        "add --allow-code"
                    )
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)}: {on_one_line(str(error))}") from error
        return rules

    @classmethod
    def from_mapping(cls, content: Any) -> Rules:
        """Rules from what a YAML file holds: ``min``, ``max`` and ``max_drop`` by score, and the other attributes.

        Raises:
            ValueError: If an entry is unknown.
            TypeError: If a value is of the wrong type.
        """
        kinds: dict[str, Any] = {kind: {} for kind in _KINDS}
        others: dict[str, tuple[type, ...]] = {
            "champion": (str, int),
            "data": (str,),
            "trusted": (str,),
            "mean": (list, float, int),
            "std": (list, float, int),
            "images_per_class": (int,),
            "certain": (bool,),
            "settings": (dict,),
        }
        if not isinstance(content, dict):
            raise TypeError(f"rules must be a mapping of {', '.join([*kinds, *others])}; got {content!r}")
        if unknown := [str(name) for name in content if name not in (*kinds, *others)]:
            raise ValueError(f"there is no {', '.join(unknown)}; there are {', '.join([*kinds, *others])}")
        for name, value in content.items():
            types = others.get(name, (dict,))
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise TypeError(f"{name} must be of type {types[0].__name__}; got {value!r}")
        rules = [Rule(kind, key, _number(bound)) for kind in kinds for key, bound in content.get(kind, {}).items()]
        values = {name: content[name] for name in others if name in content}
        if "champion" in values:
            values["champion"] = str(values["champion"])
        for name in values.keys() & {"mean", "std"}:
            values[name] = tuple(values[name]) if isinstance(values[name], list) else (values[name],)
        return cls(rules=tuple(rules), **values)


def _names_code(source: str | None) -> bool:
    return source is not None and ":" in source and not source.endswith(".npz") and not Path(source).is_dir()


def parse_values(texts: Iterable[str], *, argument: str) -> dict[str, Any]:
    """``KEY=VALUE`` texts as a dictionary; values are read as YAML, so ``0.5`` is a number and ``null`` is None.

    Raises:
        ValueError: If a text is not of this form; the error names the argument.

    Example:
        >>> parse_values(["num_masks=64", "binarize=null"], argument="--set")
        {'num_masks': 64, 'binarize': None}
    """
    import yaml

    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ValueError(f"{argument} must be KEY=VALUE; got {text!r}")
        try:
            values[key.strip()] = _number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ValueError(f"{argument} must be KEY=VALUE with a value in YAML; got {text!r}") from error
    return values


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
