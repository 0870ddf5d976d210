"""Escape text from outside (paths, metadata, names of classes) before it is shown."""

from __future__ import annotations

import re

# control characters, the halves of surrogate pairs (bytes of a path that is not UTF-8), separators of lines, and what
# reverses the direction of the text around it
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""The text on one line that a terminal only shows: `\x1b` for an escape, `\n` for a new line, `\udcff` for a byte
    of a path that is not UTF-8. All other characters stay as they are.
    """
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(text))
