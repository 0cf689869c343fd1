from dataclasses import dataclass, field

import pytest

from lgrpo_lightning.hyperparameters import coerced, keep_plain


@dataclass
class Settings:
    rate: float = 1.0
    names: list[str] = field(default_factory=list)


def test_plain_values_and_settings_are_kept_and_nothing_else():
    values = {
        "number": 3,
        "text": "a",
        "nothing": None,
        "list": [1, ["b"]],
        "mapping": {"a": {"b": 2.0}},
        "settings": Settings(names=["x"]),
        "function": print,
        "functions": ["path", print],
        "type": Settings,
        "nested": {"a": [print]},
    }
    keep_plain(values)
    assert values == {
        "number": 3,
        "text": "a",
        "nothing": None,
        "list": [1, ["b"]],
        "mapping": {"a": {"b": 2.0}},
        "settings": {"rate": 1.0, "names": ["x"]},
    }


def test_those_of_the_command_line_stay_as_they_are():
    values = {"_instantiator": "lightning.pytorch.cli.instantiate_module", "optimizer": {"a": 1}}
    before = dict(values)
    keep_plain(values)
    assert values == before


def test_settings_come_back_from_a_mapping():
    assert coerced(Settings, {"rate": 2.0}) == Settings(2.0)
    given = Settings()
    assert coerced(Settings, given) is given


@pytest.mark.parametrize("value", [None, 3, "a", [1]])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="expected Settings or a mapping of its fields, got"):
        coerced(Settings, value)
