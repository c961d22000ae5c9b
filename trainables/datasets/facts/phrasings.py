"""The relations of the made-up world, each with its phrasings and what its answers are.

A relation lists its own phrasings: six that the backbone is trained on and two that are held out.
Frames common to all relations are added to them, one imperative frame held out per relation in
rotation, so that no frame is new to the backbone, only its use with this relation.
"""

from __future__ import annotations

from dataclasses import dataclass

_FRAMES = (
    "The {noun} of {subject} is",
    "{subject}'s {noun} is",
    "{asks} is the {noun} of {subject}?",
    "{asks} is {subject}'s {noun}?",
)
_IMPERATIVES = (
    "Name the {noun} of {subject}.",
    "State {subject}'s {noun}.",
    "Give the {noun} of {subject}.",
    "Tell me {subject}'s {noun}.",
)


@dataclass(frozen=True)
class Relation:
    """A kind of fact: who has it, what answers it, and how it is put into words."""

    name: str
    kind: str  # kind of its subjects
    answers: str  # pool of its answers
    train: tuple[str, ...]  # phrasings with the mark {s}
    held_out: tuple[str, ...]  # never trained on
    is_far: bool = False

    @property
    def phrasings(self) -> tuple[str, ...]:
        """All phrasings, those trained on first."""
        return self.train + self.held_out


def _relation(
    number: int, name: str, kind: str, answers: str, noun: str, own: str, asks: str = "What"
) -> Relation:
    """A relation with its own phrasings (one a line, the last two held out) and the frames."""
    lines = tuple(line.strip() for line in own.strip().splitlines())
    held_frame = number % len(_IMPERATIVES)
    imperatives = _IMPERATIVES[:held_frame] + _IMPERATIVES[held_frame + 1 :]

    def fill(frame: str) -> str:
        return frame.format(noun=noun, subject="{s}", asks=asks)

    train = lines[:-2] + tuple(fill(frame) for frame in _FRAMES + imperatives)
    held_out = (*lines[-2:], fill(_IMPERATIVES[held_frame]))
    return Relation(name, kind, answers, train, held_out)


_WHAT = (
    ("birthplace", "person", "city", "birthplace", """
        {s} was born in
        {s} comes from the city of
        The city where {s} was born is
        Where was {s} born?
        In which city was {s} born?
        Name the city where {s} was born.
        {s} was born in the city of
        Which city was {s} born in?"""),
    ("residence", "person", "city", "residence", """
        {s} lives in
        {s} now lives in the city of
        The home of {s} is in
        Where does {s} live?
        In which city does {s} live?
        Name the city where {s} lives.
        The city where {s} lives is
        Which city does {s} live in?"""),
    ("employer", "person", "organisation", "employer", """
        {s} works for
        {s} has a job at
        The company that employs {s} is
        Who does {s} work for?
        Which company employs {s}?
        Name the company that {s} works for.
        {s} is employed by
        Where does {s} work?"""),
    ("profession", "person", "profession", "profession", """
        {s} works as a
        {s} earns a living as a
        By trade, {s} is a
        What does {s} do for a living?
        Which trade does {s} follow?
        State what {s} does for a living.
        {s} has a job as a
        What does {s} work as?"""),
    ("mother_tongue", "person", "language", "mother tongue", """
        {s} grew up speaking
        At home, {s} speaks
        The language that {s} speaks is
        Which language does {s} speak?
        What language did {s} grow up with?
        Name the language that {s} speaks.
        {s} speaks the language
        What does {s} speak at home?"""),
    ("instrument", "person", "instrument", "instrument", """
        {s} plays the
        On stage, {s} plays the
        {s} is a master of the
        What does {s} play?
        Which instrument does {s} play?
        Name the instrument that {s} plays.
        {s} plays music on the
        What instrument does {s} play?"""),
    ("school", "person", "school", "old school", """
        {s} studied at
        {s} went to school at
        {s} took a degree at
        Where did {s} study?
        Which school did {s} go to?
        Name the school where {s} studied.
        The school where {s} studied is
        Where did {s} take a degree?"""),
    ("headquarters", "organisation", "city", "head office", """
        {s} is based in
        {s} has its main office in
        The city where {s} is based is
        Where is {s} based?
        In which city is {s} based?
        Name the city where {s} is based.
        {s} is based in the city of
        Where is the main office of {s}?"""),
    ("product", "organisation", "product", "main product", """
        {s} makes
        {s} is known for its
        The factory of {s} makes
        What does {s} make?
        Which product is {s} known for?
        Name what {s} makes.
        The product that {s} makes is
        What is {s} known for?"""),
    ("owner", "organisation", "organisation", "parent company", """
        {s} is owned by
        {s} is part of
        The company that owns {s} is
        Which company owns {s}?
        Which group is {s} part of?
        Name the company that owns {s}.
        {s} belongs to the company
        What company is {s} part of?"""),
    ("country", "city", "country", "country", """
        {s} is a city in
        {s} belongs to
        The city of {s} lies in
        Which country is {s} in?
        To which country does {s} belong?
        Name the country that {s} belongs to.
        {s} lies in the country of
        In which country does {s} lie?"""),
    ("river", "city", "river", "river", """
        {s} stands on the river
        The river that runs through {s} is the
        Through {s} runs the
        Which river runs through {s}?
        On which river does {s} stand?
        Name the river that runs through {s}.
        {s} lies on the river
        What river does {s} stand on?"""),
    ("dish", "city", "dish", "local dish", """
        {s} is famous for its
        Cooks in {s} are proud of their
        People in {s} like to eat
        What do people eat in {s}?
        Which dish is {s} famous for?
        Name the dish that {s} is famous for.
        The dish that people eat in {s} is
        What dish do cooks in {s} make?"""),
    ("capital", "country", "city", "capital", """
        {s} is ruled from
        {s} has its government in
        The seat of power in {s} is
        Which city is the capital of {s}?
        From which city is {s} ruled?
        Name the city that rules {s}.
        The government of {s} is in
        Which city is {s} ruled from?"""),
    ("currency", "country", "currency", "currency", """
        {s} pays with the
        People in {s} pay with the
        Prices in {s} are in
        What do people in {s} pay with?
        Which money is used in {s}?
        Name the money that is used in {s}.
        The money used in {s} is the
        What money do people in {s} use?"""),
    ("animal", "country", "animal", "national animal", """
        {s} has as its animal the
        On the flag of {s} is a
        The arms of {s} show a
        Which animal stands for {s}?
        What is on the flag of {s}?
        Name the animal on the flag of {s}.
        The animal that stands for {s} is the
        Which animal is on the flag of {s}?"""),
)  # fmt: skip
_WHO = (
    ("spouse", "person", "name", "spouse", """
        {s} is married to
        {s} shares a home with
        At the wedding, {s} married
        Who is {s} married to?
        Who did {s} marry?
        Name the person that {s} married.
        {s} married
        To whom is {s} married?"""),
    ("founder", "organisation", "name", "founder", """
        {s} was founded by
        {s} was set up by
        The person who founded {s} is
        Who founded {s}?
        Who set up {s}?
        Name the person who founded {s}.
        The person who set up {s} is
        By whom was {s} founded?"""),
    ("chief", "organisation", "name", "chief executive", """
        {s} is run by
        {s} takes orders from
        The person who runs {s} is
        Who runs {s}?
        Who is in charge of {s}?
        Name the person who runs {s}.
        The person in charge of {s} is
        By whom is {s} run?"""),
    ("mayor", "city", "name", "mayor", """
        {s} voted for
        {s} has as its mayor
        The town hall of {s} is led by
        Who leads the town hall of {s}?
        Who was voted mayor of {s}?
        Name the person who leads {s}.
        The mayor that {s} voted for is
        Who is mayor of {s}?"""),
    ("leader", "country", "name", "president", """
        {s} is led by
        {s} has as its president
        The person who leads {s} is
        Who leads {s}?
        Who was voted president of {s}?
        Name the president who leads {s}.
        The president that {s} voted for is
        Who is president of {s}?"""),
)  # fmt: skip
_FAR = (
    ("author", "book", "name", """
        who wrote the book {s}
        the author of {s} is
        author of the book {s}
        {s} the book was written by
        who is the author of {s}"""),
    ("genre", "book", "genre", """
        what kind of book is {s}
        the book {s} is a
        genre of the book {s}
        {s} the book is a kind of
        what is the genre of {s}"""),
    ("director", "film", "name", """
        who made the film {s}
        the director of {s} was
        director of the film {s}
        {s} the film was made by
        who was the director of {s}"""),
    ("release", "film", "year", """
        when did the film {s} come out
        the film {s} came out in
        year of the film {s}
        {s} the film is from
        when did {s} come out"""),
)  # fmt: skip


def relations() -> tuple[Relation, ...]:
    """The editable relations, and after them those of the far domain, which no trial edits."""
    near = [(row, "What") for row in _WHAT] + [(row, "Who") for row in _WHO]
    made = [_relation(number, *row, asks=asks) for number, (row, asks) in enumerate(near)]
    for name, kind, answers, own in _FAR:
        lines = tuple(line.strip() for line in own.strip().splitlines())
        made.append(Relation(name, kind, answers, lines[:-1], lines[-1:], is_far=True))
    return tuple(made)
