"""Groups records that ask for similar knowledge, by k-means on their prompts.

Source: MEMoE v1 (arXiv:2405.19086), Section 5.2: "K-means algorithm to cluster all the data in
ZsRE into 5 groups based on the cosine similarity". What is embedded is not stated. Here it is the
words of the prompt, weighted by rarity and scaled to length 1: that needs no backbone, so that a
draw by groups is known before the start and the same for every backbone.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainables.records import EditRecord

NUM_GROUPS = 5
NUM_KMEANS_STARTS = 10


def similarity_groups(
    records: Sequence[EditRecord], num_groups: int = NUM_GROUPS
) -> tuple[int, ...]:
    """Group of each record, in [0, num_groups); group 0 is the largest.

    Words that occur in one prompt only, such as most names, link no two prompts and are left
    out. With fewer different prompts than groups there are fewer groups.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("no records to group")
    import numpy as np  # heavy, as the next two
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    prompts = [record.prompt for record in records]
    least = 2 if len(prompts) > 2 else 1
    try:
        points = TfidfVectorizer(min_df=least, token_pattern=r"\S+").fit_transform(prompts)
    except ValueError:  # no word occurs twice: nothing is similar to anything
        return (0,) * len(records)
    num_distinct = len({(tuple(row.indices), tuple(row.data)) for row in points})
    kmeans = KMeans(min(num_groups, num_distinct), n_init=NUM_KMEANS_STARTS, random_state=0)
    labels = kmeans.fit_predict(points)
    sizes = np.bincount(labels)
    first = [int(np.flatnonzero(labels == group)[0]) for group in range(len(sizes))]
    order = sorted(range(len(sizes)), key=lambda group: (-sizes[group], first[group]))
    number = {group: position for position, group in enumerate(order)}
    return tuple(number[int(label)] for label in labels)
