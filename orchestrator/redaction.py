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
    return _FORMS.sub(HIDDEN, text)
