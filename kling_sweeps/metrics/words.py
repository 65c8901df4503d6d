"""Words that a text puts in quotes, words that were read, and how they are compared."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

# What quotes open and close with. An apostrophe is none, nor are the marks of inches: a straight quote does not open after a digit.
QUOTED = re.compile(
    "|".join(
        (
            r'(?<!\d)"([^"\n]*)"',
            "“([^“”]+)[“”]",
            "„([^„“”]+)[“”]",
            r"”(?=\S)([^”]+)(?<=\S)”",
            "«([^«»]+)»",
            "»([^«»]+)«",
            "‹([^‹›]+)›",
            "〝([^〝〞〟]+)[〞〟]",
            "「([^「」]+)」",
            "『([^『』]+)』",
        )
    )
)
# Scripts without spaces, of which each character is a word: kana and Han.
SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{SPACELESS}]|[^\W_{SPACELESS}]+")
ACCENT, APOSTROPHE = re.compile("[\u0300-\u036f]"), re.compile("['’ʼ`´]")
# One letter in so many may be read wrongly.
LETTERS_A_MISTAKE = 5
# How many neighbouring words may have run together, or be parts of one.
RUN = 3

Line = Sequence[str]


def words(text: str) -> list[str]:
    """Split a text into words as they are compared: without case, accents, apostrophes and punctuation.

    Each character of Chinese and Japanese is a word.
    """
    letters = unicodedata.normalize("NFKD", APOSTROPHE.sub("", text).casefold())
    return WORD.findall(unicodedata.normalize("NFC", ACCENT.sub("", letters)))


def quoted(text: str) -> list[Line]:
    """Return what a text puts in quotes, a list of words for each, without those that have no word.

    Quotes are "…", “…”, „…“, ”…”, «…», »…«, ‹…›, 「…」, 『…』 and their like.
    """
    parts = (match[match.lastindex or 0] for match in QUOTED.finditer(unicodedata.normalize("NFKC", text)))
    return [found for found in map(words, parts) if found]


def share_read(wanted: Sequence[Line], lines: Iterable[Line]) -> float:
    """Return the share of the wanted words that stand in what was read, line by line.

    A word was read where a word of a line differs from it in at most one letter in five: in none of a word of up to four letters, where another letter makes another
    word. Neighbours that were read as one word, or a word that was read as several, count where every letter is right.
    """
    lines = list(lines)
    single = {word for line in lines for word in line}
    runs = {"".join(line[begin:end]) for line in lines for begin, end in _runs(line)}
    found = [hit for phrase in wanted for hit in _hits(phrase, single, runs)]
    return sum(found) / len(found)


def difference(before: Iterable[Line], now: Iterable[Line]) -> float:
    """Return which share of two readings is not in the other, 0 to 1: one less Dice's coefficient of their pairs of letters.

    The letters of a line are paired with the next, the first and the last with the end of the line; where lines stand, in which order
    they were read, and where words are divided makes no difference. Of two readings without a letter it is 0.
    """
    pairs = [
        Counter(pair for line in read for pair in pairwise(["", *"".join(line), ""]))
        for read in (before, now)
    ]
    shared, total = (pairs[0] & pairs[1]).total(), pairs[0].total() + pairs[1].total()
    return 1 - 2 * shared / total if total else 0.0


def distance(one: str, other: str) -> int:
    """Return how many letters must be put in, left out or changed to make one word the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, against in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != against)))
    return row[-1]


def _hits(phrase: Line, single: set[str], runs: set[str]) -> list[bool]:
    found = [_is_in(word, single) for word in phrase]
    for begin, end in _runs(phrase):
        if "".join(phrase[begin:end]) in runs:
            found[begin:end] = [True] * (end - begin)
    return found


def _is_in(word: str, read: set[str]) -> bool:
    mistakes = len(word) // LETTERS_A_MISTAKE
    close = (other for other in read if abs(len(other) - len(word)) <= mistakes)
    return word in read or any(distance(word, other) <= mistakes for other in close)


def _runs(line: Line) -> list[tuple[int, int]]:
    return [
        (begin, end)
        for begin in range(len(line))
        for end in range(begin + 1, min(begin + RUN, len(line)) + 1)
    ]
