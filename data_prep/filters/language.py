"""Texts in another language than English."""

from __future__ import annotations

import re

_LETTER = re.compile(r"[^\W\d_]")
_WORD = re.compile(r"(?<![\w'\u2019\\])[^\W\d_]{2,}(?:['\u2019][^\W\d_]+)?(?!\w)")
_FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|```.*?```|\\[A-Za-z]+|https?://\S+", re.DOTALL)
_ENGLISH_WORDS = (
    "the an of to and in is are was were for on with that this it its as at by from be been has have had how what "
    "which who when where why if each every find then so we he she they you his her their our my your many much more "
    "most than not no or but can will would should could do does did all any some there these those let given total "
    "left cost costs sum answer number value solve compute calculate evaluate simplify determine after before into "
    "out up down per one two three four five six seven eight nine ten first second third therefore thus hence since "
    "because get gets got make makes take takes buy buys sell pay pays earn spend dollars cents hours minutes days "
    "weeks years miles feet ounces pounds inches weigh weighs contain contains times plus minus equals equal half "
    "twice least largest smallest length area volume side angle triangle square rectangle circle product difference "
    "ratio percent prove show write expand factor between both only now just about over under same other another "
    "long old new people together remaining price day week month year time using used use step final"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
# Frequent words of languages in Latin letters that are no English words.
_FOREIGN_WORDS = (
    "el los las una uno unos del que por para con de la lo su sus es son y en un se al cada cuando donde tiene cuanto cuantos "
    "cuantas cual cu\u00e1l cu\u00e1nto cu\u00e1ntos cu\u00e1ntas qu\u00e9 est\u00e1 calcula calcular halla respuesta entonces "
    "le les une des du et est dans pour avec combien qui sur sont ses ce cette il elle donc calculer trouver chaque au aux "
    "der das und ist mit ein eine einen einem einer eines von zu wie viel viele nicht den dem des zum zur er sie "
    "wir auf f\u00fcr "
    "sind hat berechne bestimme also "
    "gli della dei nel che di ha ne e\u0300 quanti quante quanto ogni sono calcola trova per\u00f2 "
    "os uma um do da dos das em com n\u00e3o quantos quantas quanto ele ela \u00e9 calcule determine "
    "het een van hoeveel niet zijn er hij nog hebben heeft met voor "
    "jest ile si\u0119 na ma mu oblicz jego oraz ka\u017cdy "
    "ka\u00e7 bir ve i\u00e7in ne kadar tane tanesini "
    "bao nhi\u00eau c\u1ee7a l\u00e0 m\u1ed7i cho c\u00f3 "
    "yang dan berapa dari adalah dengan untuk ada "
    "och att det som han hur m\u00e5nga har \u00e4r "
    "kolik mu jeho je jsou si \u0219i c\u00e2te \u00een sunt este egy h\u00e1ny van \u00e9s az on ja kuinka monta h\u00e4n "
    "ng mga ay ang sa ilan ilang na wa ya kwa ni"
)
_FOREIGN = frozenset(_FOREIGN_WORDS.split()) - _ENGLISH
_FEW = 3  # a name or a quotation
_ENOUGH = 7  # different words without an English one among them


def other_language(text: str) -> str | None:
    """Why `text` is not English, or None: letters of another script than Latin and Greek, more words of another language
    (or with its accents) than frequent English ones, or none of those at all. Formulas and names do not count."""
    letters = _LETTER.findall(text)
    foreign = sum("\u0400" <= letter <= "\u1fff" or letter >= "\u3000" for letter in letters)
    greek = sum("\u0386" <= letter <= "\u03ff" for letter in letters)
    if (foreign > 3 and foreign > 0.05 * len(letters)) or (greek > 20 and greek > 0.5 * len(letters)):
        return f"{max(foreign, greek)} of {len(letters)} letters belong to another script"
    words = [word for word in _WORD.findall(_FORMULA.sub(" ", text)) if not word.isupper()]
    names = {word for word in words[1:] if word[0].isupper()}
    english = sum(word.lower() in _ENGLISH for word in words)
    if english * 4 > len(words):
        return None
    plain = [word for word in words if word not in names]
    other = sum(word.lower() in _FOREIGN or not word.isascii() for word in plain)
    if (other >= _FEW and other > english) or (other >= 2 and not english and other * 2 >= len(plain)):
        return f"{other} words of another language, {english} English ones"
    if not english and len({word.lower() for word in words}) >= _ENOUGH:
        return f"no English word among {len(words)}: {' '.join(words[:6])!r}"
    return None
