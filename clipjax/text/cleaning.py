"""The release's text cleaning, with a way around it for captions that it would leave as they are."""

import html
from functools import cache


def clean(text: str) -> str:
    """Mend, unescape, collapse white space and lower a caption (openai/CLIP, simple_tokenizer.py).

    Printable ASCII without `&` has nothing to mend or unescape, so only lowering is left; runs of spaces stay, as no
    piece contains them. Any other text, control characters included, goes the whole way.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.lower()
    fix_text, collapse = _tools()
    text = html.unescape(html.unescape(fix_text(text))).strip()
    return collapse(" ", text).strip().lower()


@cache
def _tools():
    import ftfy  # here and not above: importing clipjax stays cheap
    import regex

    return ftfy.fix_text, regex.compile(r"\s+").sub
