"""Rewards that can't be loaded are refused with a reason and a hint."""

import functools
import sys

import pytest

from lgrpo_lightning.rewards import (
    FormatReward,
    RewardRunner,
    RewardSpec,
    boxed_match_reward,
    math_reward,
)
from lgrpo_lightning.rewards.runner.loading import find
from lgrpo_lightning.rewards.runner.spec import resolve_rewards

SHIPPED = "lgrpo_lightning.rewards"


def refuses(reward, message, **options):
    with pytest.raises(ValueError, match=message):
        RewardRunner([reward], time_limit=5.0, **options)


def test_finds_functions_classes_and_attributes():
    assert find(f"{SHIPPED}.boxed_match_reward") is boxed_match_reward
    assert find("collections.OrderedDict.fromkeys")
    assert find("xml.etree.ElementTree.parse")  # a submodule that nobody has imported


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gsm8k_reward", "no module 'gsm8k_reward'.*did you mean '" + SHIPPED + ".gsm8k_reward'"),
        (SHIPPED + ".gsm8k_rewards", "has no 'gsm8k_rewards'; did you mean 'gsm8k_reward'"),
        (SHIPPED + ".nothing.at_all", "'lgrpo_lightning.rewards' has no 'nothing'"),
        ("lgrpo_lightnin.rewards.f", "no module 'lgrpo_lightnin'.*did you mean 'lgrpo_lightning'"),
        ("nowhere_to_be_found.f", "no module 'nowhere_to_be_found'"),
        ("my rewards.f", "neither a dotted path"),
        ("a..b", "neither a dotted path"),
        ("no/such/file.py:f", "no file .*no/such/file.py"),
        ("json", "is a module, which can't be called"),
    ],
)
def test_paths_that_lead_nowhere(path, message):
    refuses(path, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenghts", "has no 'lenghts'; did you mean 'lengths'"),
        ("not_a_function", "int, which can't be called"),
        ("NotCallable", "NotCallable, which can't be called"),
        ("positional", "positional-only"),
    ],
)
def test_samples_that_are_no_rewards(sample, name, message):
    refuses(sample(name), message)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Scaled", {}, "do not fit Scaled.*missing a required argument: 'factor'"),
        ("Scaled", {"factr": 2}, "factr.*did you mean 'factor'"),
        ("Scaled", {"factor": 0}, "Scaled can't be built: factor must not be 0"),
        ("Scaled", {"factor": 2, "offset": print}, None),
        ("Scaled", {"factor": sys.stdout}, "can't be sent to the worker"),
        ("lengths", {"factor": 2}, r"arguments \['factor'\] are for classes"),
    ],
)
def test_arguments(spec, name, arguments, message):
    if message is None:
        RewardRunner([spec(name, arguments=arguments)]).close()
    else:
        refuses(spec(name, arguments=arguments), message)


def test_module_that_fails_to_import_shows_its_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_rewards.py").write_text("import a_library_nobody_has\n")
    message = "(?s)importing 'broken_rewards' failed: ModuleNotFoundError.*a_library_nobody_has"
    refuses("broken_rewards.f", message)
    (tmp_path / "broken_rewards.py").write_text("1 / 0\n")
    refuses("broken_rewards.f", "(?s)ZeroDivisionError.*broken_rewards.py")
    refuses("broken_rewards.py:f", "(?s)importing .*broken_rewards.py failed.*ZeroDivisionError")


def test_working_directory_is_importable(tmp_path, monkeypatch, score):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_helpers.py").write_text("BONUS = 3\n")
    (tmp_path / "my_rewards.py").write_text(
        "from my_helpers import BONUS\n"
        "def bonus(prompts, completions, completion_ids, **columns):\n"
        "    return [BONUS] * len(completions)\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    specs = [
        RewardSpec("my_rewards.bonus", name="by module"),
        RewardSpec("my_rewards.py:bonus", name="by file"),
        RewardSpec(str(tmp_path / "my_rewards.py") + ":bonus", name="by full path"),
    ]
    with RewardRunner(specs) as runner:
        assert score(runner, ["x"]).total == [9.0]
    refuses("my_reward.bonus", "did you mean 'my_rewards'")


def test_file_elsewhere_finds_its_neighbours(tmp_path, score):
    (tmp_path / "neighbour_of_rewards.py").write_text("BONUS = 3\n")
    (tmp_path / "rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "import neighbour_of_rewards\n"
        "@dataclass\n"
        "class Bonus:\n"
        "    factor: float\n"
        "    def __call__(self, completions, **columns):\n"
        "        return [self.factor * neighbour_of_rewards.BONUS for _ in completions]\n"
    )
    spec = RewardSpec(f"{tmp_path}/rewards.py:Bonus", arguments={"factor": 2})
    with RewardRunner([spec]) as runner:
        assert score(runner, ["x"]).per_function == {"Bonus": [6.0]}


def test_functions_classes_and_instances_of_python():
    rewards = [
        boxed_match_reward,
        FormatReward("a+"),
        functools.partial(math_reward, answer=["5"]),
        RewardSpec(FormatReward, arguments={"pattern": "b+"}, name="b"),
    ]
    with RewardRunner(rewards) as runner:
        assert runner.names == ["boxed_match_reward", "FormatReward", "math_reward", "b"]
        table = runner.score(["?"], ["aa"], [[1]], {"answer": ["x"]})
    assert table.per_function["FormatReward"] == [1.0]
    assert table.per_function["b"] == [0.0]


def in_main(completions):
    """Stands in for a function of the user's script."""


def test_functions_no_other_process_can_import(monkeypatch):
    advice = "module level of an importable file"
    refuses(lambda completions: [1.0], f"'<lambda>'.*{advice}")

    def closure(completions):
        return [1.0]

    refuses(closure, f"'closure'.*{advice}")
    monkeypatch.setattr(in_main, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "in_main", in_main, raising=False)
    refuses(in_main, f"main script or notebook.*{advice}")


def test_instance_that_cannot_be_pickled():
    reward = FormatReward("a")
    reward.file = sys.stdout
    refuses(reward, "'FormatReward' can't be pickled.*worker processes")


@pytest.mark.parametrize("rewards", ["a.b", RewardSpec("a.b"), None, 5])
def test_rewards_must_be_a_list(rewards):
    with pytest.raises(ValueError, match="must be a list"):
        RewardRunner(rewards)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], "no rewards"),
        ([5], "got 5"),
        ([""], "must not be empty"),
        (["a.f", "b.f"], "2 rewards are called 'f'"),
        ([RewardSpec("a.f", name="")], "must not be empty"),
        ([RewardSpec("a.f", weight=float("nan"))], "weight .*got nan"),
        ([RewardSpec("a.f", weight=float("inf"))], "weight .*got inf"),
        ([RewardSpec("a.f", weight="1")], "weight .*got '1'"),
        ([RewardSpec("a.f", weight=True)], "weight .*got True"),
    ],
)
def test_mistakes_in_the_list(rewards, message):
    with pytest.raises(ValueError, match=message):
        resolve_rewards(rewards)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit": 0}, "time_limit .*got 0"),
        ({"time_limit": float("nan")}, "time_limit .*got nan"),
        ({"time_limit": True}, "time_limit .*got True"),
        ({"time_limit": float("inf")}, "time_limit .*got inf"),
        ({"on_error": "ignore"}, "on_error .*got 'ignore'"),
        ({"workers_per_function": 0}, "workers_per_function .*got 0"),
    ],
)
def test_mistakes_in_the_options(options, message):
    with pytest.raises(ValueError, match=message):
        RewardRunner([boxed_match_reward], **options)
