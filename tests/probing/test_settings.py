"""The settings as keywords agree with the probe's own."""

import dataclasses
import inspect
import typing

import pytest

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.settings import ProbeSettings
from fitb_callbacks.utils.validation import suggest_settings


def test_the_keywords_are_the_probes_fields_with_their_types():
    of_probe = typing.get_type_hints(FillInBlanks)
    assert typing.get_type_hints(ProbeSettings) == of_probe
    assert list(of_probe) == [field.name for field in dataclasses.fields(FillInBlanks)]
    assert ProbeSettings.__required_keys__ == frozenset()


def test_every_choice_is_taken():
    for name, hint in typing.get_type_hints(FillInBlanks).items():
        literals = [each for each in (hint, *typing.get_args(hint)) if typing.get_origin(each) is typing.Literal]
        for choice in (choice for literal in literals for choice in typing.get_args(literal)):
            assert getattr(FillInBlanks(**{name: choice}), name) == choice


def test_a_misspelt_setting_is_answered_with_the_nearest():
    with pytest.raises(TypeError, match=r"^unknown setting 'num_mask'; did you mean 'num_masks'\?$"):
        FillInBlanks(num_mask=3)
    with pytest.raises(TypeError, match=r"^unknown setting 'bfgs_step'; did you mean 'bfgs_steps'\?$"):
        dataclasses.replace(FillInBlanks(), bfgs_step=3)
    with pytest.raises(TypeError, match=r"^unknown setting 'x'; the settings are masking, mask_ratio, "):
        FillInBlanks(x=3)


def test_settings_can_still_be_seen():
    assert list(inspect.signature(FillInBlanks).parameters) == list(typing.get_type_hints(FillInBlanks))

    @suggest_settings
    @dataclasses.dataclass
    class Positional:
        first: int
        second: int = 2

    assert Positional(1, second=3) == Positional(first=1, second=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        Positional()
