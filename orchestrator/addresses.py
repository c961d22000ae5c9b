"""Addresses that are typed: what they must look like, and what they must not hold; pure."""

from __future__ import annotations

from urllib.parse import urlsplit


def mlflow_server(address: str) -> str:
    """The address of an MLflow server without a slash behind it.

    It is written into messages and shown by every list of processes, so that a password in it
    would be public.

    Raises:
        ValueError: If it is none, or holds a user or a password.
    """
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ValueError(
            "an address must not hold a user or password; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    is_plain = not (parts.query or parts.fragment) and parts.port != 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
        raise ValueError("must be an MLflow server's address, http://host:port or https://host")
    return address.rstrip("/")
