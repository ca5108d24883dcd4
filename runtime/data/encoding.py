"""Text that is not UTF-8: which encoding it probably has, and the command that converts it."""

import lzma
import re
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from planner.units import shorten
from runtime.data.compression import READ_BYTES, Compression, open_content, piped
from runtime.data.naming import Naming, shell_path

# Python's name: what iconv calls it.
NAMES = {
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32-le": "UTF-32LE",
    "utf-32-be": "UTF-32BE",
    "cp1252": "CP1252",
    "cp1251": "CP1251",
    "koi8-r": "KOI8-R",
    "gb18030": "GB18030",
    "big5": "BIG5",
    "cp932": "CP932",
    "euc-jp": "EUC-JP",
    "cp949": "CP949",
}
WORD = re.compile(rb"[A-Za-z\x80-\xff]+")
DENSE = 0.6  # of the bytes of words that are not ASCII alone: more are of another alphabet than Latin
MIN_ZEROS = 0.2  # for each four bytes: of the white space and digits of any alphabet
MAX_ZEROS = 0.15  # of the other bytes: frequent Chinese and Korean characters have one
MIN_SHARE = 0.8  # of the characters beyond ASCII that have to be of the encoding's script
# Among the most frequent characters of Chinese: the first of both scripts or simplified, then traditional.
FREQUENT = frozenset(
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生"
    "這為來個們說國時於會學對發經"
)
CYRILLIC = ("cp1251", "koi8-r")
MAX_LATIN = 0.1  # of the letters of words in Cyrillic
SYMBOLS = "€£¢¥§©®™°±µ·•…–—‘’“”«»¡¿½¼¾²³ªº"  # of CP1252 that stand in a text of ASCII
ADJACENT = re.compile(rb"[\x80-\xff]{2}")
FEW_LETTERS = 3  # different ones beyond ASCII
# Chinese characters, Hangul, and the symbols and half-width forms between such.
WIDE = (("\u3400", "\u9fff"), ("\uac00", "\ud7ff"), ("\ud800", "\udfff"), ("\uff00", "\uffef"))
FEW_BLOCKS = 4
SAMPLE_CHARACTERS = 40
SAMPLE_BYTES = READ_BYTES // 8  # before the damaged line, and after it


class EncodingFault(NamedTuple):
    """What was found, the fix, and whether all of the text has another encoding (not a few damaged bytes)."""

    found: str
    fix: str
    is_another: bool


def find_encoding_fault(compression: Compression | None, naming: Naming) -> EncodingFault:
    """Why the file is not UTF-8, from the text around the first byte that is not."""
    file = naming.file
    offset, sample = _sample(file, compression)
    suffix = "" if compression is None else Path(file.suffix).suffix
    plain = file.with_name(file.name.removesuffix(file.suffix)) if compression and file.suffix else file
    new = plain.with_name(f"{plain.stem}.utf8{plain.suffix}{suffix}")
    to = f"> {shell_path(new)}"
    where = f"not UTF-8 near byte {offset}"
    if _is_mostly_utf8(sample):
        command = _command(file, compression, "iconv -c -f UTF-8 -t UTF-8")
        return EncodingFault(
            f"{where}, although most of the text is",
            f"leave the damaged bytes out: {naming.then_write(f'{command} {to}', new)}",
            False,
        )
    encodings = _guess_encodings(sample)
    if not encodings:
        command = _command(file, compression, "iconv -f ENCODING -t UTF-8")
        then = naming.then_write(f"{command} {to}", new)
        fix = f"convert it, with the name of its encoding (iconv -l lists them): {then}"
        return EncodingFault(f"{where}, in an encoding that is not recognized", fix, True)
    readings = [f"{NAMES[each]}, which reads {_shown(sample, each)!r}" for each in encodings]
    found = f"{where}; it looks like {', or like '.join(readings)}"
    command = _command(file, compression, f"iconv -f {NAMES[encodings[0]]} -t UTF-8")
    doing = (
        "convert it" if len(encodings) == 1 else f"convert it, with -f {NAMES[encodings[1]]} if that is right"
    )
    return EncodingFault(found, f"{doing}: {naming.then_write(f'{command} {to}', new)}", True)


def guess_encoding(text: bytes) -> str | None:
    """Python's name of the encoding of a text that is not UTF-8; None if none of NAMES fits."""
    return next(iter(_guess_encodings(text)), None)


def _guess_encodings(text: bytes) -> list[str]:
    """The encodings that fit, the likeliest first; more than one where a few different letters say little."""
    guess = _guess_one(text)
    if guess in CYRILLIC and len({byte for byte in text if byte > 127}) <= FEW_LETTERS:
        return ["cp1252", guess] if _decode(text, "cp1252") is not None else [guess]
    return [] if guess is None else [guess]


def _guess_one(text: bytes) -> str | None:
    wide = _guess_wide(text)
    if wide is not None or b"\0" in text:
        return wide
    words = [word for word in WORD.findall(text) if not word.isascii()]
    num_letters = sum(map(len, words))
    if sum(byte > 127 for word in words for byte in word) < DENSE * num_letters:
        return "cp1252" if _decode(text, "cp1252") is not None else None
    for encoding, first, last, share in (
        ("euc-jp", "\u3041", "\u30ff", 0.2),
        ("cp932", "\u3041", "\u30ff", 0.2),
        ("cp949", "\uac00", "\ud7a3", MIN_SHARE),
    ):
        decoded = _decode(text, encoding)
        if decoded is not None and _share(decoded, first, last) >= share:
            return encoding
    cyrillic = {encoding: _decode(text, encoding) or "" for encoding in CYRILLIC}
    # Read as the other of the two, capitals are small letters and small ones capitals.
    best = max(cyrillic, key=lambda name: sum("а" <= letter <= "я" for letter in cyrillic[name]))
    # No word has letters of both alphabets: été has, of which é alone would be й.
    num_latin = sum(byte < 128 for word in words for byte in word)
    if _share(cyrillic[best], "А", "я") >= MIN_SHARE and num_latin <= MAX_LATIN * num_letters:
        return best
    chinese = {encoding: Counter(_decode(text, encoding) or "") for encoding in ("gb18030", "big5")}
    counts = {name: sum(found[each] for each in FREQUENT) for name, found in chinese.items()}
    best = max(counts, key=counts.__getitem__)
    if counts[best]:
        return best
    latin = _decode(text, "cp1252")
    if latin is None:
        return None
    is_alone = (
        ADJACENT.search(text) is None
    )  # other encodings write a letter, or a word, in several such bytes
    num_symbols = sum(map(latin.count, SYMBOLS)) if is_alone else 0
    num_beyond = sum(character > "\x7f" for character in latin)
    share = _share(latin, "À", "ÿ") + num_symbols / max(1, num_beyond)
    return "cp1252" if share >= MIN_SHARE else None


def _guess_wide(text: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, of a text that has Latin letters or white space."""
    even = text[: len(text) // 4 * 4]
    zeros = [even[place::4].count(0) for place in range(4)]
    num = max(1, len(even) // 4)
    if len(even) < 8:
        return None
    for encoding, fits in (
        ("utf-32-le", zeros[2] == zeros[3] == num),
        ("utf-32-be", zeros[0] == zeros[1] == num),
        ("utf-16-le", zeros[0] + zeros[2] <= MAX_ZEROS * num and zeros[1] + zeros[3] > MIN_ZEROS * num),
        ("utf-16-be", zeros[1] + zeros[3] <= MAX_ZEROS * num and zeros[0] + zeros[2] > MIN_ZEROS * num),
    ):
        decoded = _decode(even, encoding) if fits else None
        if decoded and sum(c.isprintable() or c.isspace() for c in decoded) >= 0.98 * len(decoded):
            return encoding if _is_of_few_alphabets(decoded) else None
    return None


def _is_of_few_alphabets(text: str) -> bool:
    """Whether its characters are of a few alphabets: token ids, read as UTF-16, are of all."""
    low = [c for c in text if c < "\x80"]
    if sum(c.isprintable() or c in "\t\n\r\f" for c in low) < 0.98 * len(low):
        return False
    # A block of 256 holds an alphabet, except those of Chinese, Japanese and Korean.
    blocks = Counter(ord(c) >> 8 for c in text if c >= "\u0100" and not any(a <= c <= b for a, b in WIDE))
    return sum(num for _, num in blocks.most_common(FEW_BLOCKS)) >= 0.9 * blocks.total()


def _decode(text: bytes, encoding: str) -> str | None:
    """The text; its last character may be cut off."""
    for cut in range(4):
        try:
            return text[: len(text) - cut].decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(text) - 8:
                return None
    return None


def _share(text: str, first: str, last: str) -> float:
    """Of the characters beyond ASCII, those from `first` to `last`."""
    beyond = [character for character in text if character > "\x7f"]
    return sum(first <= character <= last for character in beyond) / max(1, len(beyond))


def _is_mostly_utf8(text: bytes) -> bool:
    """Whether more lines hold letters beyond ASCII in UTF-8 than are damaged."""
    num_valid = num_damaged = 0
    for line in text.split(b"\n"):
        if not line.isascii():
            if _first_damage(line) is None:
                num_valid += 1
            else:
                num_damaged += 1
    return num_valid > num_damaged


def _sample(file: Path, compression: Compression | None) -> tuple[int, bytes]:
    """Where the first byte is that is not UTF-8, and the text from the line of it on."""
    num_before = 0
    with open_content(file, compression) as content:
        before = bytearray()
        for line in content:
            damage = _first_damage(line)
            if damage is not None:
                rest = b""
                with suppress(OSError, EOFError, zlib.error, lzma.LZMAError):  # torn behind this place
                    rest = content.read(SAMPLE_BYTES)
                return num_before + damage, bytes(before[-SAMPLE_BYTES:]) + line + rest
            if not line.isascii():
                before += line  # speaks for UTF-8
                if len(before) > 2 * SAMPLE_BYTES:  # not after each line, or a large file takes minutes
                    del before[:-SAMPLE_BYTES]
            num_before += len(line)
    return 0, b""


def _first_damage(line: bytes) -> int | None:
    """Where the line's first zero byte is, or the first byte that is not UTF-8."""
    if b"\0" in line:
        return line.index(0)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _shown(text: bytes, encoding: str) -> str:
    """The first words that are not ASCII, as the encoding reads them."""
    decoded = _decode(text, encoding) or ""
    lines = decoded.splitlines()
    line = next((line for line in lines if not line.isascii()), next(iter(lines), ""))
    place = next((i for i, character in enumerate(line) if character > "\x7f"), 0)
    start = max(0, place - SAMPLE_CHARACTERS // 2)
    return shorten(line[start:].strip(), SAMPLE_CHARACTERS)


def _command(file: Path, compression: Compression | None, iconv: str) -> str:
    if compression is None:
        return f"{iconv} {shell_path(file)}"
    return piped(file, compression, iconv)
