from __future__ import annotations

import pytest

from orchestrator.errors import LedgerError
from orchestrator.running.interruption import Interruption


def test_deferred_when_the_library_fails_behind_our_own_failure_then_ours_is_the_reason() -> None:
    interruption = Interruption()

    def run() -> None:
        with interruption.deferred():
            interruption.fail(LedgerError("cannot append: No space left on device"))
            assert interruption.is_over
            raise EOFError("Ran out of input")  # of a file that the library could not write

    with pytest.raises(LedgerError, match="No space left on device"):
        run()


def test_deferred_when_the_library_alone_fails_then_its_error_comes_out() -> None:
    def run() -> None:
        with Interruption().deferred():
            raise EOFError("Ran out of input")

    with pytest.raises(EOFError):
        run()
