"""Damage by chance, the same for the same seed."""

import random
from collections.abc import Iterator

# What stands in texts where nobody expects it.
_WORDS = (
    *("nan", "inf", "-1", "1e308", "1e999", "1_0", "0x10", "27.5", "99999999999999999"),
    *("true", "null", "{}", "[]", '""', "\t", "\n", "\r\n", "\0", '"', "\\", ",", "'"),
    *("é", "\u202e", "\x1b[2J", "٣", "=1+1", "<script>", "../../x", "[" * 2000),
)


def damaged(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Truncated, flipped, blanked, lengthened, exchanged: never the content itself."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        changed = bytearray(content)
        where, other = rng.randrange(len(content)), rng.randrange(len(content))
        length = rng.choice((1, 8, 64, 512))
        kind = made % 6
        if kind == 0:
            del changed[where:]
        elif kind == 1:
            changed[where] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[where : where + length] = bytes(
                len(changed[where : where + length])
            )
        elif kind == 3:
            changed[where:where] = rng.randbytes(length)
        elif kind == 4:
            del changed[where : where + length]
        else:
            changed[where : where + length] = content[other : other + length]
        if changed != content:
            made += 1
            yield bytes(changed)


def edited(text: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """A text with one or a few changes, as editors, merges and disks make them."""
    rng = random.Random(seed)
    made = 0
    while made < count:
        changed = text
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            changed = _edit(changed, rng)
        if changed != text:
            made += 1
            yield changed


def _edit(text: bytes, rng: random.Random) -> bytes:
    if not text:
        return text
    kind = rng.randrange(8)
    where = rng.randrange(len(text))
    lines = text.split(b"\n")
    if kind == 0:
        return text[:where]
    if kind == 1:
        return (
            text[:where]
            + bytes([text[where] ^ (1 << rng.randrange(8))])
            + text[where + 1 :]
        )
    if kind == 2:
        digits = [i for i, byte in enumerate(text) if 48 <= byte <= 57]
        if not digits:
            return text
        at = rng.choice(digits)
        return text[:at] + str(rng.randrange(10)).encode() + text[at + 1 :]
    word = rng.choice(_WORDS).encode("utf-8", "surrogatepass")
    if kind == 3:
        return text[:where] + word + text[where:]
    if kind == 4:
        # A cell, a key or a value.
        end = where + 1
        while end < len(text) and text[end : end + 1] not in (b"\t", b"\n", b",", b":"):
            end += 1
        return text[:where] + word + text[end:]
    if kind == 5:
        del lines[rng.randrange(len(lines))]
    elif kind == 6:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    else:
        one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
    return b"\n".join(lines)
