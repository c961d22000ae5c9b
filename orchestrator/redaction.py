"""Removes secrets from text, because error messages are written to ledger, MLflow and tables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)
_LEAST_LENGTH = 8  # shorter values are words such as `true`
# Forms that are known: Hugging Face, AWS, GitHub, and a password within an address.
_FORMS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|(?<=://)[^/\s]+(?=@)"
)
# Of an address its query, or its fragment, without the signs of the sentence around it.
_QUERY = re.compile(r"(?<=://)([^\s?#]*[?#])(\S+?)(?=[\"')\]},.;:]*(?:\s|$))")


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` without tokens and without values of variables whose names sound secret.

    Args:
        text: Such as an error message or a traceback.
        environment: Variables; None: those of this process.
    """
    variables = os.environ if environment is None else environment
    secrets = [
        value
        for name, value in variables.items()
        if _SECRET_NAMES.search(name) and len(value) >= _LEAST_LENGTH
    ]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _QUERY.sub(_without_values, _FORMS.sub(HIDDEN, text))


def _without_values(address: re.Match[str]) -> str:
    """An address with the names in its query, and none of the values; any of them may be a key."""
    before, query = address.groups()
    return before + "&".join(
        f"{each.partition('=')[0]}={HIDDEN}" if "=" in each else each if "#" in before else HIDDEN
        for each in query.split("&")
    )
