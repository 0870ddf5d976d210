"""UserError, the exception for wrong input, and hints for its message."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A file, recipe, model or data set cannot be used; the message is one sentence saying what was expected and found.

    The command line prints that sentence and exits with status 2. Misuse of the Python interface raises the ordinary
    ValueError, TypeError or RuntimeError instead.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at the known word most similar to this one, in upper or lower case; empty if none is similar."""
    words = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(word.casefold(), words, n=1)
    return f" (did you mean {words[close[0]]!r}?)" if close else ""
