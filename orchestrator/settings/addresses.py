"""Addresses that are typed: what they must look like, and what they must not hold; pure."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

_OF_S3 = {"region", "endpoint_override", "scheme"}  # what may stand behind a question mark
LOCAL, AUTO = "local", "auto"
_MOST_PORT = 65535


def cluster_address(cluster: str) -> str:
    """What `cluster` may be: a Ray of this machine's own, the one it belongs to, or an address.

    Raises:
        ValueError: If it is none of these.
    """
    host, _, port = cluster.rpartition(":")
    is_address = host and port.isascii() and port.isdecimal() and int(port) <= _MOST_PORT
    if cluster not in (LOCAL, AUTO) and not is_address:
        raise ValueError("allowed are local, auto and an address as host:port")
    return cluster


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


def object_storage(address: str) -> str:
    """The address of a folder on object storage, `s3://bucket/folder`, without a slash behind it.

    Also `gs://bucket/folder`, and `file:///folder` for a disk that is mounted here. As pyarrow
    reads it: `?region=...&endpoint_override=host:port&scheme=http` may stand behind one of S3.

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
