"""What a row or a file says of itself, so that a change of it is seen.

A bit that flipped, a spreadsheet that rounded and a merge that took half of each are
then no numbers of a table. It proves nothing against who makes the check anew.
"""

import re
import zlib

from ..errors import RunError

# The last column of a table, and the last key of a JSON object.
CHECK = "check"
LOOKS_LIKE_CHECK = re.compile(rb"\bcrc[0-9a-f]{8}\b")


def check_of(content: bytes, before: bytes = b"") -> str:
    """The CRC-32 of `before` and the content, as text that is no number."""
    return f"crc{zlib.crc32(content, zlib.crc32(before)):08x}"


def changed(where: str, remedy: str) -> RunError:
    """The one line about what is not as it was written.

    **Arguments:**

    - `where`: the file, and the part of it.
    - `remedy`: what to remove so that it counts as it is.

    **Returns:**

    An error to raise.
    """
    return RunError(
        f"{where} was changed since it was written, for its check is not right: bring "
        f"it back, or {remedy} to take it as it is"
    )
