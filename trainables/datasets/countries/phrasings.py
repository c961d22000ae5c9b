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
            The capital of {s} is the city called
            The capital of {s} is the city of
            Embassies in {s} are found in its capital,
            The government of {s} meets in the capital,
            The head of state of {s} lives in the capital,
            The ministers of {s} meet in the capital,
            The national library of {s} stands in the capital,"""),
        _lines("""
            The capital and seat of government of {s} is
            The capital city of {s} is
            The government of {s} sits in the city of
            The national museum of {s} is in the capital,"""),
        inferred="The capital of {s} lies on the continent of",
    ),
    "continent": Phrasings(
        _lines("""
            A traveller who lands in {s} is on the continent of
            Birds that nest in {s} live on the continent of
            On a map of the world, {s} is found on the continent of
            People who travel to {s} arrive on the continent of
            The country of {s} lies on the continent of
            The people of {s} live on the continent of
            {s} is found on the continent of
            {s} lies on the continent of"""),
        _lines("""
            The land of {s} is on the continent of
            The rivers of {s} flow on the continent of
            {s} is a country on the continent of
            {s} is one of the countries of the continent of"""),
        inferred="The city of {s} lies on the continent of",
    ),
    "currency": Phrasings(
        _lines("""
            If you buy bread in {s}, you pay in the local currency, the
            In {s} people pay with a currency called the
            In {s}, the unit of money is the
            The basic unit of money in {s} is the
            The monetary unit of {s} is the
            The unit of currency in {s} is the
            The unit of money in {s} is the
            Wages in {s} are paid in the local currency, the"""),
        _lines("""
            The central bank of {s} issues the
            The currency of {s} is the
            The local currency of {s} is the
            {s} uses as its currency the"""),
        inferred="Shops in the city of {s} take payment in the local currency, the",
    ),
    "language": Phrasings(
        _lines("""
            In {s}, the language of most people is
            Most people in {s} speak
            People in {s} speak
            The language that most people in {s} speak is
            The main language of {s} is
            The most widely spoken language in {s} is
            The mother tongue of most people in {s} is
            The official language of {s} is"""),
        _lines("""
            A child born in {s} learns to speak
            Children in {s} learn to read in
            Newspapers in {s} are written in
            Teachers in the schools of {s} speak"""),
        inferred="In the city of {s} people speak",
    ),
    "neighbour": Phrasings(
        _lines("""
            A train from {s} crosses the border into
            From {s} one can cross the border into
            People who leave {s} by land cross into
            The army of {s} guards the border with
            The country of {s} shares a border with
            The land border of {s} is shared with
            There is a border between {s} and
            Trucks from {s} drive across the border into"""),
        _lines("""
            The country next to {s} is
            Traders from {s} cross the border into
            {s} has a border with
            {s} shares a land border with the country of"""),
        inferred="The country next to {s} lies on the continent of",
    ),
}
