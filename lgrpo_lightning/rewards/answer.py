r"""The answer of a completion as text, in a form in which equal answers are equal texts."""

import re
from fractions import Fraction

from lgrpo_lightning.rewards.boxed import find_last_boxed

_MARK = "####"
_PHRASE = re.compile(
    r"answer(?:\s+is\b|\s*:)[:*\s]*(?:\$+([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|((?:(?!\.\s)[^\n])+))",
    re.IGNORECASE,
)
_DELIMITED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_STYLED = re.compile(r"\\(?:text|math)(?:bf|rm|it|sf|)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\s+|\\[,;:! ]|~|\\(?:left|right|displaystyle)(?![A-Za-z])")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:/(\d+))?")
_FRACTION = re.compile(r"([+-]?)\\frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))")
_LONGEST_NUMBER = 50  # characters; what is longer is compared as it is


def final_answer(completion: str) -> str | None:
    r"""The answer that a completion gives, in its normal form; None if it gives none.

    It is what stands in the last ``\boxed{…}`` or after the last ``####``, whichever comes later;
    where there is neither, what follows the last "answer is" or "answer:". A bare number in prose
    is no answer.

    Example::

        >>> final_answer(r"First \boxed{3}. No, it is \boxed{1{,}080.0}.")
        '1080'
        >>> final_answer("I give up at 42")
    """
    boxed, mark = find_last_boxed(completion), completion.rfind(_MARK)
    if boxed is not None and boxed.start > mark:
        answer = boxed.content
    elif mark >= 0:
        answer = completion[mark + len(_MARK) :].strip().partition("\n")[0]
    else:
        phrases = _PHRASE.findall(completion)
        answer = next(filter(None, phrases[-1])) if phrases else ""
    return normal_form(answer) or None


def normal_form(answer: str) -> str:
    r"""An answer without what does not change its meaning.

    Spaces, LaTeX's delimiters, styles and spacing, separators of thousands and a full stop at the
    end go; numbers, also as ``\frac``, become a fraction in lowest terms. Answers of one form are
    equal; answers of different forms may be, as only a computer algebra system can tell.

    Example::

        >>> [normal_form(text) for text in (r"$\dfrac{2}{4}$", "0.50", " 1/2.", r"\text{A or B}")]
        ['1/2', '1/2', '1/2', 'AorB']
    """
    text = answer.strip().strip("*").strip()
    delimited = _DELIMITED.fullmatch(text.rstrip("."))
    if delimited:
        text = next(group for group in delimited.groups() if group is not None)
    text = text.replace("{,}", ",").replace("−", "-").replace(r"\$", "")
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text)
    text = _SPACES.sub("", _STYLED.sub(r"\1", text)).strip("$*").rstrip(".")
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        sign, *parts = (part for part in fraction.groups() if part is not None)
        text = sign + "/".join(parts)
    number = _NUMBER.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
    if number is None or (number[2] is not None and int(number[2]) == 0):
        return text
    return str(Fraction(number[1]) / int(number[2] or 1))
