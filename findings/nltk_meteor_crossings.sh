#!/usr/bin/env bash
# METEOR of NLTK 3.10.4 breaks a verbatim answer in two where one of its words comes again later in the reference.
#
# Its documentation promises the alignment with the fewest crossings, as METEOR is defined. It pairs
# each word with its last place in the reference instead: "New York" is then two chunks, not one,
# and gets the full penalty of a half. With the alignment promised the first score is .3989, as the
# same answer gets where nothing is repeated.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

check nltk==3.10.4 <<'PROGRAM' 3<<'EXPECTED' || exit
from nltk.translate.meteor_score import align_words, meteor_score

answer = "New York".split()
for text in ("New York and New Jersey", "New York and South Jersey"):
    pairs, _, _ = align_words(answer, text.split())
    print(f"{text}: {pairs} {meteor_score([text.split()], answer):.4f}")
PROGRAM
New York and New Jersey: [(0, 3), (1, 1)] 0.2128
New York and South Jersey: [(0, 0), (1, 1)] 0.3989
EXPECTED
