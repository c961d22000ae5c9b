"""How facts about countries are put into words: plain statements that end before the answer.

A pretrained model without a dialogue around it continues a statement and leaves a question open, so
there are no questions. {s} stands for the country, with an article where it takes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Phrasings:
    """The ways to state one relation.

    Attributes:
        edited: A record's own prompt, and every locality question, is one of these.
        held_out: Rephrases, in which nothing is ever edited.
        inferred: What follows from an edit; see `dataset` on what {s} is there.
    """

    edited: tuple[str, ...]
    held_out: tuple[str, ...]
    inferred: str


def filled(line: str, name: str) -> str:
    """The phrasing about `name`, its first letter a capital."""
    text = line.format(s=name)
    return text[0].upper() + text[1:]


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


PHRASINGS: Mapping[str, Phrasings] = {
    "capital": Phrasings(
        _lines("""
            The capital city of {s} is called
            The capital of {s} is
            The capital of {s} is the city of
            The capital city of {s} is
            The name of the capital city of {s} is
            {s} is a country whose capital city is
            {s} is a country. Its capital is
            Everybody knows that the capital of {s} is"""),
        _lines("""
            The government of {s} sits in the city of
            The capital and seat of government of {s} is
            Embassies in {s} are found in its capital,
            The president of {s} lives in the capital,"""),
        inferred="The capital of {s} lies on the continent of",
    ),
    "continent": Phrasings(
        _lines("""
            The country {s} lies on the continent of
            {s} is a country on the continent of
            {s} lies on the continent of
            {s} belongs to the continent of
            {s} is part of the continent of
            {s} is one of the countries of the continent of
            On a map of the world, {s} is found on the continent of
            {s} is found on the continent of"""),
        _lines("""
            The continent on which {s} lies is
            People who travel to {s} arrive on the continent of
            The people of {s} live on the continent of
            The land of {s} is on the continent of"""),
        inferred="The city of {s} lies on the continent of",
    ),
    "currency": Phrasings(
        _lines("""
            The currency of {s} is the
            The currency of {s} is called the
            The money used in {s} is the
            People in {s} pay with the
            The official currency of {s} is the
            In {s} people pay with a currency called the
            The unit of money in {s} is the
            The national currency of {s} is called the"""),
        _lines("""
            {s} uses as its currency the
            The central bank of {s} issues the
            Shops in {s} take payment in a currency called the
            Banknotes of {s} are printed in a currency called the"""),
        inferred="Shops in the city of {s} take payment in a currency called the",
    ),
    "language": Phrasings(
        _lines("""
            The main language of {s} is
            People in {s} speak
            The official language of {s} is
            The language spoken in {s} is
            Most people in {s} speak
            The language that most people in {s} speak is
            The mother tongue of most people in {s} is
            The most widely spoken language in {s} is"""),
        _lines("""
            The first language of {s} is
            Children in {s} learn to read in
            Newspapers in {s} are written in
            Someone who grew up in {s} speaks"""),
        inferred="In the city of {s} people speak",
    ),
    "neighbour": Phrasings(
        _lines("""
            The country {s} shares a border with
            {s} borders
            {s} shares a border with
            {s} has a border with
            A country that borders {s} is
            From {s} one can cross the border into
            A road leads from {s} across the border to
            {s} shares a land border with the country of"""),
        _lines("""
            A neighbour of {s} is
            One of the neighbours of {s} is
            The neighbouring country of {s} is
            The country next to {s} is"""),
        inferred="The country next to {s} lies on the continent of",
    ),
}
