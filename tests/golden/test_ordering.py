"""WBS and BBS against the equations, over shapes and dtypes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike

from trainables.draws import ordering

from . import reference_ordering as reference


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 5, 2), (4,) * 5])
@pytest.mark.parametrize("width", [1, 2, 17])
def test_similarities_equal_the_published_equations(
    sizes: tuple[int, ...], width: int, dtype: DTypeLike
) -> None:
    rng = np.random.default_rng(sum(sizes) + width)
    # off-centre, as embeddings are: centring them would change both measures
    embeddings = (rng.standard_normal((sum(sizes), width)) + 0.7).astype(dtype)
    batches = np.split(rng.permutation(sum(sizes)), np.cumsum(sizes)[:-1])
    as_lists = [embeddings[batch].astype(np.float64).tolist() for batch in batches]

    within = ordering.within_batch_similarity(embeddings, batches)
    expected = [reference.within_batch_similarity(batch) for batch in as_lists]
    np.testing.assert_allclose(within, expected, rtol=1e-12, atol=1e-13)
    between = ordering.between_batch_similarity(embeddings, batches)
    assert between == pytest.approx(
        reference.between_batch_similarity(as_lists), rel=1e-12, abs=1e-13
    )
