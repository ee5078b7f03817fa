"""The words of a text in any script, for comparing texts. Never fails.

Words are runs of letters and digits, casefolded, in their compatibility form, without soft hyphens
and zero-width characters. Scripts that write no spaces between words are cut into characters.
"""

import re
import unicodedata

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # kana, Han and its signs
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that write no spaces between words, as ranges of a character class."""
_CHARACTER = re.compile(f"[{UNSPACED}]")
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_SPELLED_SIGN = re.compile(r"(?=[\u2100-\u214f\u3200-\u33ff])\W")


def plain_form(text: str) -> str:
    """The compatibility form: full-width letters, half-width kana, ligatures as the plain ones.

    Signs that become letters (trade mark, numero, square kilo) stay apart from the words beside.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", _SPELLED_SIGN.sub(r" \g<0> ", text))


def words_of(text: str) -> list[str]:
    return _WORD.findall(plain_form(_INVISIBLE.sub("", text)).casefold())


def is_character(word: str) -> bool:
    """Whether it is one character of a script without spaces: about half a word."""
    return bool(_CHARACTER.match(word))
