"""Checks typed addresses: their form, and that they hold no password; pure."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

_OF_S3 = {"region", "endpoint_override", "scheme"}  # what may stand behind a question mark
LOCAL, AUTO = "local", "auto"
MOST_PORT = 65535


def cluster_address(cluster: str) -> str:
    """Checks `cluster`: a Ray of this machine's own, the one it belongs to, or an address.

    Raises:
        ValueError: If it is none of these.
    """
    host, _, port = cluster.rpartition(":")
    is_address = host and port.isascii() and port.isdecimal() and int(port) <= MOST_PORT
    if cluster not in (LOCAL, AUTO) and not is_address:
        raise ValueError("allowed are local, auto and an address as host:port")
    return cluster


def mlflow_server(address: str) -> str:
    """Checks the address of an MLflow server; returns it without a slash at its end.

    The address appears in messages and in every list of processes, which would show a password.

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


def object_storage(address: str) -> str:
    """Checks the address of a folder on object storage; returns it without a slash at its end.

    `s3://bucket/folder`, `gs://bucket/folder`, or `file:///folder` for a mounted disk, as pyarrow
    reads them; `?region=...&endpoint_override=host:port&scheme=http` may follow one of S3.

    Raises:
        ValueError: If it is none, or holds a key.
    """
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ValueError(
            "an address must not hold a key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "let the machine's role do it"
        )
    allowed = _OF_S3 if parts.scheme == "s3" else set()
    unknown = sorted(set(parse_qs(parts.query, keep_blank_values=True)) - allowed)
    is_place = parts.netloc if parts.scheme in ("s3", "gs") else parts.path.startswith("/")
    if parts.scheme not in ("s3", "gs", "file") or not is_place or parts.fragment or unknown:
        raise ValueError(
            "must be s3://bucket/folder, gs://bucket/folder or file:///folder; behind one of s3 "
            f"may stand ?{'&'.join(f'{name}=...' for name in sorted(_OF_S3))}"
        )
    return address.rstrip("/")
