"""What a file that is not what it should be looks like instead, for error messages."""

from __future__ import annotations

import codecs

from .hdf5 import SIGNATURE

_SIGNATURES = (
    (SIGNATURE, "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"PK\x03\x04", "a zip archive (PyTorch and NumPy files are such)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
)


def describe_content(content: bytes) -> str:
    """What kind of data begins with ``content``, as a noun: "text", "a PNG image", "binary data"."""
    for signature, name in _SIGNATURES:
        if content.startswith(signature):
            return name
    head = content[:4096]
    if not head.strip(b"\0"):
        return "an empty file" if not content else "zeros"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (a download that failed?)"
    return "text" if _is_text(head) else "binary data"


def _is_text(head: bytes) -> bool:
    """No control characters, and UTF-8 or something else that is mostly ASCII."""
    if any(byte < 32 and byte not in b"\t\n\r\f" or byte == 127 for byte in head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut off at the end
    except UnicodeDecodeError:
        return sum(byte > 127 for byte in head) < len(head) / 4
    return True
