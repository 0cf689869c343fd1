"""The parser of the command line; a mistake is answered in one line that says what to write."""

import difflib
import importlib
import inspect
import re
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from lightning import __version__ as lightning_version
from lightning.pytorch.cli import LightningArgumentParser

from lgrpo_lightning import __version__

# jsonargparse's words → shorter ones, one after the other.
_WORDING = (
    (r"Type typing\.Callable\S* \S+ expects a function or a callable class: ", ""),
    (r"^- Expected a path but .* either not accessible or invalid - ", ""),  # a list's file
    (r"[.,] Got value: Namespace\(.*\)", ""),
    (r'Parser key "([^"]+)"', r"\1"),
    (
        r"Problem with given class_path '([^']+)': Option ('\w+') is not accepted",
        r"\2 is no argument of \1",
    ),
    (r"<class '([\w.]+)'>", r"\1"),
    (r"typing\.Literal(\[[^]]*\])", r"one of \1"),
    (r"collections\.abc\.Sequence", "list"),
    (r"Expected a ", "expected "),
    (r"\. Got (?:value: )?", ", got "),
)
# Forms of a value that jsonargparse always tries too.
_OTHER_FORMS = ("Not a valid subclass", "Expected a path")


def parser_settings(commands: list[str]) -> dict[str, Any]:
    """What the parsers of ``lgrpo`` and of its commands say about themselves."""
    versions = [f"lgrpo-lightning=={__version__}", f"lightning=={lightning_version}"]
    return {
        "prog": "lgrpo",
        "version": __version__,
        "description": "Fine-tune a causal language model with λ-GRPO. "
        "`lgrpo report RUN_DIR` shows a run as an HTML page, `lgrpo memory -c CONFIG` tells what "
        "one will take.",
        **{
            command: {
                "usage": f"lgrpo {command} -c CONFIG [-c CONFIG …] [--option VALUE …]",
                "dump_header": versions,  # of config.yaml
            }
            for command in commands
        },
    }


class ConfigFile(ActionConfigFile):
    """``-c``: a later file's options replace those of an earlier one, but its sets are added.

    So files with an evaluation set each make an evaluation of several sets.
    """

    # jsonargparse does not declare its types, and they are not argparse's.
    def __call__(self, parser, cfg, values, option_string=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        """Take up one file."""
        before = cfg.get("data.eval_sets")
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]
        after = cfg.get("data.eval_sets")
        if before and after:
            cfg["data.eval_sets"] = {**before, **after}


class RunParser(LightningArgumentParser):
    """LightningArgumentParser that answers mistakes shortly, without the list of all options."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - jsonargparse's
        """Add an option; config files are merged by :class:`ConfigFile`."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the process with exit code 2 and one line about the mistake."""
        if not self.exit_on_error:  # this parser works for another, which will say more
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        options = [action.dest for action in parser._actions]
        program = parser.prog.replace(" [options]", "")
        self.exit(2, f"lgrpo: {explain(message, options, program)}\n")


def explain(message: str, options: list[str], program: str) -> str:
    """What jsonargparse says about a mistake, as one line with a suggestion.

    Args:
        message: jsonargparse's, of one line or several.
        options: names of all options, with dots.
        program: such as "lgrpo fit", whose ``--help`` lists them.
    """
    missing = re.search(r"the following arguments are required: (.+)", message)
    if missing:
        names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", missing[1])
        return f"{names} must be given; start from a config: -c configs/quickstart.yaml"
    unknown = re.search(
        r"unrecognized arguments: --?([^\s=]+)|does not accept option '([^']+)'"
        r"|[Kk]ey '([^']+)' is not expected",
        message,
    )
    if unknown:
        name = next(group for group in unknown.groups() if group)
        hint = _nearest(name, options) or f"; {program} --help lists the options"
        return f"there is no option {name!r}{hint}"
    key = re.match(r'Parser key "([^"]+)":\s*', message)
    text = message[key.end() :] if key else message
    return (f"{key[1]}: " if key else "") + in_one_line(text)


def in_one_line(text: str) -> str:
    """What jsonargparse says of a value, as one line with a suggestion."""
    return _in_words(_relevant(text) + _suggestion(text))


def _relevant(text: str) -> str:
    """Of an error that lists all types a value might have had, what is not about none at all."""
    if "Errors:" not in text:
        return text
    listed, _, given = text.partition("Errors:")[2].partition("Given value type:")
    indent = listed[: listed.index("- ")]  # entries can hold lists of their own, further in
    entries = [" ".join(entry.split()) for entry in listed.split(f"{indent}- ")]
    errors = [entry for entry in entries if entry and not entry.startswith(_OTHER_FORMS)]
    telling = [entry for entry in errors if not entry.startswith("Expected a")]
    if telling:
        return telling[0]
    expected = [entry for entry in errors if "NoneType" not in entry] or errors
    return "; ".join(expected) + f". Got {given.partition('Given value:')[2].strip()}"


def _suggestion(text: str) -> str:
    """The nearest name where a class, or an argument of a class, is not known."""
    attribute = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if attribute:
        return _nearest(attribute[2], dir(importlib.import_module(attribute[1])))
    path = re.search(r"class_path[= ]'([\w.]+)'", text)
    option = re.search(r"Option '(\w+)' is not accepted", text)
    if path and option:
        module, _, name = path[1].rpartition(".")
        found = getattr(importlib.import_module(module), name)
        return _nearest(option[1], list(inspect.signature(found).parameters))
    if re.search(r"No module named", text):
        return "; is its file in the working directory, or its package installed?"
    return ""


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _in_words(text: str) -> str:
    """One line, without Python's way to print types."""
    line = " ".join(text.split())
    for pattern, words in _WORDING:
        line = re.sub(pattern, words, line)
    return line
