"""Problems that point to a picture the row does not carry."""

from __future__ import annotations

import re

_KIND = r"(?:(?:pie|bar|line|circle|scatter|box|stem|tree|venn|coordinate|street|road)[ -])?"
# What stands in a text only for a picture, and what may be part of the story as well ("an animal in the picture").
_SURE = r"(?:figures?|diagrams?|number line)"
_ANY = rf"{_KIND}(?:figure|diagram|number line|graph|chart|picture|image|drawing|illustration|sketch|photo|photograph|plot|map)"
_BESIDE = r"below|above|here|at (?:the )?(?:left|right)|(?:to|on) the (?:left|right)"
_PLACE = rf"(?:{_BESIDE}|shown|provided|pictured|attached|displayed)"
_SHOWN = r"(?:shown|pictured|depicted|illustrated|sketched|displayed|indicated|marked)"
_POINTS = "|".join(
    (
        r"!\[[^\]]*\]\([^)]*\)|<img\b|<image>|\\includegraphics|\[asy\]|\\begin\{(?:tikzpicture|asy|picture)\}",
        r"https?://\S+\.(?:png|jpe?g|gif|svg|webp)|cdn\.mathpix",
        r"[\[(](?:see )?(?:image|figure|diagram|picture|graph)(?: (?:not shown|omitted|here|below|above|\d+))?[\])]",
        rf"\b{_SHOWN} (?:{_BESIDE})\b",
        rf"\b{_SHOWN} (?:in|by|on) (?:the |this |our )?(?:\w+ )?{_ANY}\b",
        rf"\bas {_SHOWN}(?=[,.;?!]|$)",
        rf"\b(?:in|from|see|using|use|refer to|consult|examine|study|consider|observe|look at) (?:the|this) "
        rf"(?:\w+ )?{_SURE}\b(?! skating)",
        rf"\b(?:based on|according to|refer to|look at|using|see) (?:the|this) (?:\w+ )?{_ANY}\b",
        rf"\b(?:the|this) (?:\w+ )?{_ANY} (?:(?:is|are) )?{_PLACE}\b",
        rf"\b(?:consider|use|using|study) (?:the |this )?(?:\w+ )?{_ANY} {_PLACE}\b",
        rf"\b(?:the|this) {_ANY} (?:shows|depicts|illustrates|displays)\b",
        rf"\b(?:following|adjacent|accompanying|attached|adjoining) {_ANY}\b(?! of speech)",
        r"\b(?:graph|diagram|sketch|plot) of [^.]{1,50} is (?:shown|drawn|given|displayed)\b",
        r"\bfig(?:ure|\.) ?\(?\d",
    )
)
_PICTURE = re.compile(_POINTS, re.IGNORECASE)
# A cheap test for texts that could match.
SUSPECT = (
    r"(?i)image|figure|diagram|pictur|graph|shown|depicted|illustrated|sketch|marked|indicated|displayed|\[asy|<img|tikz"
    r"|!\[|chart|plot|drawing|map|photo|number line|https?://|\bfig\."
)


def needs_image(question: str) -> str | None:
    """The words that point to a picture. Pictures drawn in code count: few models read them."""
    found = _PICTURE.search(question)
    return f"needs a picture: {found.group()[:60]!r}" if found else None
