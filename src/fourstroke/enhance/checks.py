"""Whether a rewrite keeps what its request says: quoted words, language, named things and what is said of them.

Rules over text alone (Qwen-Image-2.0 report, prompt enhancer: "rule-based text constraints"); they serve as rewards in
training and as the last gate at inference. Checks of things need a lexicon, so only the small families have them.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from fourstroke.enhance.facts import Mention, altered, facts_of, transparent
from fourstroke.enhance.places import Place, places

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』')
VAGUE = re.compile(r"\b(something|anything|other things?|another thing|more things|things|stuff|else)\b", re.IGNORECASE)
"""Words that ask for a thing without naming it: the rewrite may choose one."""
DESIGNED = re.compile(r"\b(poster|flyer|banner|cover|slide|menu|ticket|infographic)s?\b", re.IGNORECASE)
"""Pages that the rewrite may give a thing of its choice, where a request names none."""
_OF_PICTURES = "photo photograph picture pic image painting portrait poster drawing design sketch scene art"
_OF_PLACES = "at near beside behind under over between inside through against around upon"
_OF_ASKING = "i me we us you please pls thank thanks love like want need show make wear hold"
PLAIN = frozenset(f"{_OF_PICTURES} {_OF_PLACES} {_OF_ASKING}".split())
"""Words that name nothing in a picture: of pictures as a whole, of where, and of asking."""
_WORD = re.compile(r"#|[^\W\d_]+(?:[-'’][^\W\d_]+)*|[^\w\s]")
"""A word, a mark, or where a thing stood."""
_BEGUN = re.compile(r'["“„«「『].*$', re.DOTALL)
"""What a quotation has so far, in a text without those that are closed."""
FUNCTION_WORDS = {
    "en": "a an and are is in of on the to with that this it from no",
    "de": "ein eine einen einem einer der die das dem den und ist auf mit im von zu nicht unter über",
    "fr": "un une des le la les du et est sur avec dans de au aux sous pour qui",
    "es": "un una unos el la los las y es en con del de al sobre que bajo por",
    "it": "un una uno il lo la gli le e è su con nel della di che sotto per",
    "pt": "um uma o os as e é em no na com do da sobre que sob por",
    "nl": "een het de en is op met van in aan onder voor niet dat",
}
_SETS = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}


def quoted(text: str) -> list[str]:
    """The texts that stand in quotation marks, in order, as they are to be drawn."""
    return [next(group for group in match.groups() if group) for match in QUOTED.finditer(text)]


def unquoted(text: str) -> str:
    """The text without its quotations."""
    return QUOTED.sub(" ", text)


def lost_words(request: str, rewrite: str) -> list[str]:
    """Quoted texts of the request that the rewrite does not quote as often, verbatim."""
    return list((Counter(quoted(request)) - Counter(quoted(rewrite))).elements())


def script(text: str) -> str | None:
    """The script of most letters (`LATIN`, `CJK`, `CYRILLIC`, …); None without letters. Kana and Hangul count apart."""
    names = Counter(unicodedata.name(c, "?").split()[0].split("-")[0] for c in text if c.isalpha())
    if names["HIRAGANA"] + names["KATAKANA"]:
        return "KANA"
    return names.most_common(1)[0][0] if names else None


def language(text: str) -> str | None:
    """The language of a text in Latin script by its function words; None if they do not tell."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    hits = Counter({name: sum(word in own for word in words) for name, own in _SETS.items()})
    (first, most), (_, second) = hits.most_common(2)
    return first if most >= 2 and most > second else None


def language_kept(request: str, rewrite: str) -> bool:
    """Whether the rewrite is in the request's script and, as far as function words tell, its language."""
    asked, given = unquoted(request), unquoted(rewrite)
    if script(asked) is None or script(asked) != script(given):
        return script(asked) is None
    return language(asked) in (None, language(given)) or language(given) is None


def is_english(text: str) -> bool:
    """Whether a text may be English outside its quotations, as far as script and function words tell."""
    text = unquoted(text)
    return script(text) in (None, "LATIN") and language(text) in (None, "en")


def wants_transparent(text: str) -> bool:
    """Whether a text says outside its quotations that there is nothing behind its things."""
    return transparent(unquoted(text))


@dataclass(frozen=True)
class Lexicon:
    """The things that a small generator can draw, and its colours; both in the singular, lower case."""

    things: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    plurals: tuple[tuple[str, str], ...] = ()
    """(several, one) of things whose plural is not theirs with an s."""
    others: tuple[str, ...] = ()
    """Words before which the name of a thing is none: a square poster."""
    words: frozenset[str] = frozenset()
    """All words, lower case, of the requests that the enhancer has learnt from; empty if they are not known."""

    def __bool__(self) -> bool:
        return bool(self.things)

    def titles(self, text: str) -> set[str]:
        """Things named outside quotations, with a colour where one stands before it: `cat`, `red circle`."""
        return {title for title, _ in self._found(text)}

    def colours_of(self, text: str) -> set[str]:
        """Colours named outside quotations."""
        return set(self._colour.findall(unquoted(text).lower())) if self.colours else set()

    def lost(self, request: str, rewrite: str) -> list[str]:
        """Things and colours of the request that the rewrite does not name; a thing without colour may get one."""
        given, plain = self.titles(rewrite), self._plain(rewrite)
        things = [title for title in self.titles(request) if title not in given and title not in plain]
        return sorted(things) + sorted(self.colours_of(request) - self.colours_of(rewrite))

    def invented(self, request: str, rewrite: str, *, begun: bool = False) -> list[str]:
        """Things of the rewrite that the request does not name, if it leaves none open (`VAGUE`, `DESIGNED`).

        The last words of one that is only `begun` may go on to mean another thing, or none, and are left aside.
        """
        plain, asked = unquoted(request), self._plain(request)
        if VAGUE.search(plain) or (not asked and DESIGNED.search(plain)):
            return []
        return sorted({thing for _, thing in self._found(rewrite, begun)} - asked)

    def strange(self, request: str) -> list[str]:
        """Words that seem to name a thing and were never learnt: a rewrite would lose it, and no other check would see.

        What stands before a known thing, or another such word, is taken for an adjective (`a cute cat`), participles
        and adverbs are told by their endings; they may get lost.
        """
        if not self.words:
            return []
        tokens = [*_WORD.findall(self._title.sub("#", unquoted(request).lower().replace("#", " "))), ".", ".", "."]
        found = []
        for word, *after in zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False):
            phrase = list(itertools.takewhile(lambda w: w == "#" or (w[0].isalpha() and w not in _SETS["en"]), after))
            adjective = "#" in phrase or (phrase and self._strange(phrase[0]))
            if self._strange(word) and not adjective:
                found.append(word)
        return list(dict.fromkeys(found))

    def _strange(self, word: str) -> bool:
        """Whether a token is a word that was never learnt and may name a thing."""
        known = not self._known.isdisjoint((word, word.removesuffix("s")))
        return word[0].isalpha() and not known and not word.endswith(("ing", "ly", "ed"))

    def altered(self, request: str, rewrite: str) -> list[str]:
        """Numbers, sizes and styles of the request's things, and transparency, that the rewrite does not keep."""
        found = altered(*(facts_of(unquoted(text).lower(), self._mentions(text)) for text in (request, rewrite)))
        asked, given = wants_transparent(request), wants_transparent(rewrite)
        if self.things and asked != given:
            found.append("the transparent background" if asked else "the opaque background")
        return found

    def moved(self, request: str, rewrite: str) -> list[str]:
        """Places of the request that the rewrite does not give, and places in which it contradicts itself, in words."""
        names = self._names(request)
        given = self.places(rewrite, names)
        lost = self.places(request) - given
        if len(names) == 1 and len(self._names(rewrite, names)) > 1:  # a lone thing got company
            lost = set()
        torn = {place for place in given if (place[2], place[1], place[0]) in given}
        return sorted(" ".join(place) for place in lost | torn)

    def places(self, text: str, names: Sequence[str] = ()) -> set[Place]:
        """What a text says of where its things stand; things of `names` bear those names, with or without a colour."""
        known = self._names(text, names)

        def mark(match: re.Match[str]) -> str:
            title, thing = self._named(match)
            return f"<{known.index(title if title in known else thing)}>"

        return places(self._title.sub(mark, unquoted(text).lower()), known) if known else set()

    def _names(self, text: str, names: Sequence[str] = ()) -> list[str]:
        """`names`, then other things of the text, each once; a thing that one of `names` may mean is no other."""
        found = list(names)
        for title, thing in self._found(text):
            if title not in found and thing not in names:
                found.append(title)
        return found

    def _plain(self, text: str) -> set[str]:
        """Things without their colours."""
        return {thing for _, thing in self._found(text)}

    def _found(self, text: str, begun: bool = False) -> list[tuple[str, str]]:
        """(title, thing) of everything that is named outside quotations, in order; see `invented` for `begun`."""
        return [(mention.title, mention.thing) for mention in self._mentions(text, begun)]

    def _mentions(self, text: str, begun: bool = False) -> list[Mention]:
        """Everything that is named outside quotations, in order."""
        if not self.things:
            return []
        text = unquoted(text).lower()
        end = len(text)
        if begun:
            text = _BEGUN.sub("", text)
            words = [match.end() for match in re.finditer(r"\S+", text)]
            end = words[-self._longest - 1] if len(words) > self._longest else 0
        matches = [match for match in self._title.finditer(text) if match.end() <= end]
        return [Mention(*self._named(match), *match.span(), self._several(match)) for match in matches]

    def _several(self, match: re.Match[str]) -> bool | None:
        """Whether a match is a plural; None where a name has but one form."""
        one = self._singular.get(match[2], match[2])
        return None if match[2] == self._singular.get(one) else match[2] != one or match.end() > match.end(2)

    def _named(self, match: re.Match[str]) -> tuple[str, str]:
        """The title and the plain thing of a match: `red circle` and `circle`."""
        thing = self._singular.get(match[2], match[2])
        return f"{match[1]} {thing}" if match[1] else thing, thing

    @cached_property
    def _longest(self) -> int:
        """Words that must follow a name before it is sure to be one: they may make it another, or one of `others`."""
        names = (*self.things, *(several for several, _ in self.plurals))
        return max(*(len(name.split()) for name in names), *(len(other.split()) + 1 for other in self.others), 1)

    @cached_property
    def _known(self) -> frozenset[str]:
        return self.words | PLAIN | _SETS["en"]

    @cached_property
    def _singular(self) -> dict[str, str]:
        return dict(self.plurals)

    @cached_property
    def _title(self) -> re.Pattern[str]:
        names = {*self.things, *(several for several, _ in self.plurals)}
        things = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        others = "|".join(map(re.escape, self.others)) or r"(?!)"
        return re.compile(rf"(?:\b({self._colours}) )?\b({things})s?\b(?! (?:{others})\b)")

    @cached_property
    def _colour(self) -> re.Pattern[str]:
        return re.compile(rf"\b({self._colours})\b")

    @property
    def _colours(self) -> str:
        return "|".join(map(re.escape, sorted(self.colours, key=len, reverse=True))) or r"(?!)"


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """All words outside quotations, lower case."""
    return frozenset(w for text in texts for w in _WORD.findall(unquoted(text).lower()) if w[0].isalpha())


def added_words(request: str, rewrite: str) -> list[str]:
    """Quoted texts of the rewrite that the request does not quote."""
    return [text for text in dict.fromkeys(quoted(rewrite)) if text not in quoted(request)]


def problems(request: str, rewrite: str, lexicon: Lexicon) -> list[str]:
    """What is wrong with a rewrite, in words; empty if nothing is. Without a lexicon things are not checked, and words
    may be added: a large enhancer writes a poster's text.
    """
    found = [f'it lost the words "{text}"' for text in lost_words(request, rewrite)]
    if not language_kept(request, rewrite):
        found.append("it changed the language")
    if lexicon:
        found += [f"it lost the {title}" for title in lexicon.lost(request, rewrite)]
        found += _added(request, rewrite, lexicon)
        found += [f"it does not keep {fact}" for fact in lexicon.altered(request, rewrite)]
        found += [f"it does not keep that {place}" for place in lexicon.moved(request, rewrite)]
    return found


def hopeless(request: str, thoughts: str, rewrite: str, lexicon: Lexicon) -> list[str]:
    """Problems of an answer that is still being written which nothing that follows can mend.

    What its thoughts add counts too: they are a small enhancer's plan.
    """
    found = []
    for text in (thoughts, rewrite):
        found += _added(request, text, lexicon, begun=True)
        begun = text.rpartition('"')[2].rstrip("\ufffd") if text.count('"') % 2 else ""
        if begun and not any(asked.startswith(begun) for asked in quoted(request)):
            found.append(f'it added the words "{begun}"')
    return list(dict.fromkeys(found))


def _added(request: str, rewrite: str, lexicon: Lexicon, begun: bool = False) -> list[str]:
    """Things and words that a rewrite adds, in words."""
    things = [f"it added a {title}" for title in lexicon.invented(request, rewrite, begun=begun)]
    return things + [f'it added the words "{text}"' for text in added_words(request, rewrite)]
