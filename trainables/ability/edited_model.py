"""An edited model as lm-evaluation-harness sees one: log-likelihoods and greedy texts.

It tokenises, truncates and scores as the harness's own `HFLM` does, so that an unedited model gets
the same answers, question by question; but the model is only reached through a method's logits.
Heavy: it imports lm_eval, which the optional extra `ability` brings.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from trainables.errors import ConfigError
from trainables.interfaces import Backbone
from trainables.metrics.generation import Logits, greedy
from trainables.prompts import Row, collate, pad_id, row_index

# Read at a time, padding counted: on a CPU more are slower, as they leave its caches.
MOST_ON_CPU, MOST_ON_GPU = 512, 4096
_WITHOUT_LIMIT = 2048  # positions that HFLM takes where a model states none
_GENERATED = 256  # tokens, where a task does not say how many; as HFLM
# Texts of which so many are guessed; and on as long as such a share of the guesses is right.
_TRIED, _ALIKE = 4, 0.5

Request = tuple[Any, list[int], list[int]]  # texts, or None; tokens of the context; to be scored


class EditedModel(TemplateLM):
    """The harness's view of `logits`, a method's or an unedited backbone's."""

    def __init__(
        self, logits: Logits, backbone: Backbone, texts: dict[str, list[int]] | None = None
    ) -> None:
        """Nothing is asked yet.

        Args:
            logits: Of the model.
            backbone: Gives tokenizer, positions and device; it is not run past `logits`.
            texts: See `answers.Task`; what is not there is added.
        """
        super().__init__()
        self._known = {} if texts is None else texts
        self._num_guessed = self._num_right = 0
        self.tokenizer = backbone.tokenizer
        self._logits, self._backbone = logits, backbone
        self.max_length = backbone.max_positions or _WITHOUT_LIMIT
        self._prefix_text = self.tokenizer.decode(self.prefix_token_id)

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context follows: the begin token, or else the end token."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens as the tokenizer makes them, without a second begin token."""
        if add_special_tokens is None and has_bos_prefix(string, self._prefix_text):
            add_special_tokens = False
        said = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = self.tokenizer.encode(string, **said)
        return ids

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy) of each continuation.

        Continuations that differ in their last token alone, as "yes" and "no", share one row.
        """
        asked: dict[Row, list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            read = tuple((context + continuation)[-(self.max_length + 1) :][:-1])
            asked.setdefault(Row(read, len(read) + 1 - len(continuation)), []).append(index)
        rows, found = list(asked), dict[int, tuple[float, bool]]()
        for members in self._batches(rows):
            for member, scores in zip(
                members, self._scores([rows[m] for m in members]), strict=True
            ):
                best = scores.argmax(-1).tolist()
                for index in asked[rows[member]]:
                    wanted = requests[index][2]
                    at = torch.tensor(wanted, device=scores.device)[:, None]
                    total = scores.gather(1, at).sum().nan_to_num(nan=-math.inf)
                    found[index] = float(total), best == wanted
        return [found[index] for index in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows where it exceeds the positions."""
        windows = [list(self._windows(*request.args)) for request in requests]
        each = iter(self._loglikelihood_tokens([w for of_text in windows for w in of_text]))
        return [sum(next(each)[0] for _ in of_text) for of_text in windows]

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each cut before the first of the task's stops.

        Raises:
            ConfigError: If a task asks for samples instead, or for more tokens than there are
                positions.
        """
        found: dict[int, str] = {}
        asked: dict[tuple[int, tuple[str, ...]], dict[int, Row]] = {}
        end = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        for index, request in enumerate(requests):
            context, told = request.args
            most, stops = _limits(told, end)
            left = self.max_length - most
            if left < 1:
                raise ConfigError(
                    f"a task generates {most} tokens; the backbone has {self.max_length} positions"
                )
            ids = tuple(self.tok_encode(context)[-left:])
            asked.setdefault((most, stops), {})[index] = Row(ids, len(ids))
        for (most, stops), rows in asked.items():
            indices, prompts = list(rows), list(rows.values())
            for members in self._batches(prompts, most):
                texts = self._texts([prompts[m] for m in members], most, stops)
                found |= zip((indices[m] for m in members), texts, strict=True)
        return [found[index] for index in range(len(requests))]

    def _batches(self, rows: Sequence[Row], grows_by: int = 0) -> Iterator[list[int]]:
        """Numbers of rows of similar length, the longest first, in batches of so many tokens.

        `grows_by` is the number of tokens that each row is to grow by.
        """
        is_cpu = self._backbone.device.type == "cpu"
        tokens, batch = MOST_ON_CPU if is_cpu else MOST_ON_GPU, list[int]()
        most = self._backbone.micro_batch.at_most(tokens)
        for number in sorted(range(len(rows)), key=lambda number: -len(rows[number].ids)):
            widest = len(rows[batch[0] if batch else number].ids) + grows_by
            if batch and (len(batch) >= most or (len(batch) + 1) * widest > tokens):
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _scores(self, rows: Sequence[Row]) -> Iterable[torch.Tensor]:
        """Log-probabilities (n, V) behind each row's context, for each of its n positions."""
        pad, device = pad_id(self.tokenizer), self._backbone.device
        batch = collate(rows, pad_id=pad, device=device, scores_beyond=True)
        logits = self._logits(batch, None)[0]
        counts = torch.bincount(row_index(batch), minlength=len(rows)).tolist()
        return (torch.log_softmax(each.float(), dim=-1) for each in logits.split(counts))

    def _texts(self, rows: Sequence[Row], most: int, stops: Sequence[str]) -> list[str]:
        def is_done(ids: Sequence[int]) -> bool:
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            return any(stop in text for stop in stops)

        drafts = [self._guess(row) for row in rows]
        grown = greedy(
            self._logits,
            rows,
            self.tokenizer,
            self._backbone.device,
            most,
            is_done=is_done,
            drafts=drafts,
        )
        for row, draft, ids in zip(rows, drafts, grown, strict=True):
            ends = [] if len(ids) >= most or is_done(ids) else [self.eot_token_id]
            said = self._known.setdefault(_digest(row), [*ids, *ends])
            self._num_guessed += bool(draft)
            self._num_right += bool(draft) and said == [*ids, *ends]
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in grown]
        return [postprocess_generated_text(text, list(stops), None) for text in texts]

    def _guess(self, row: Row) -> Sequence[int]:
        """What another model said behind a prompt, if this one has said the same often enough."""
        is_unlike = self._num_guessed >= _TRIED and self._num_right < _ALIKE * self._num_guessed
        return () if is_unlike else self._known.get(_digest(row), ())

    def _windows(self, text: str) -> Iterator[Request]:
        for window in get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        ):
            yield None, *make_disjoint_window(window)


def _digest(prompt: Row) -> str:
    return hashlib.blake2b(repr(prompt.ids).encode(), digest_size=16).hexdigest()


def _limits(told: Mapping[str, Any], end: str) -> tuple[int, tuple[str, ...]]:
    """Most tokens to generate, and where a text ends."""
    said = normalize_gen_kwargs(dict(told), _GENERATED)
    if said.get("do_sample"):
        raise ConfigError("a task draws its answers at random; greedy ones alone can be compared")
    stops = handle_stop_sequences(said["until"], eos=end)
    return said["max_gen_toks"], tuple(stop for stop in stops if stop)
