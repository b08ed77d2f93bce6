"""What an input of inference is, by its name. Pure.

    image  PNG or JPEG; Pre.py gets a numpy array of bytes, [height, width, 1 or 3]
    csv    one row a line; Pre.py gets a list of text
    npy    a numpy array, as numpy.save writes it
    raw    the bytes of a tensor, as they are
"""

from __future__ import annotations

AUTO = "auto"  # by the name, else by how the file begins
FORMATS = (AUTO, "image", "csv", "npy", "raw")
EXTENSIONS = {"png": "image", "jpg": "image", "jpeg": "image", "csv": "csv", "npy": "npy", "bin": "raw", "raw": "raw"}
STARTS = {b"\x89PNG\r\n\x1a\n": "image", b"\xff\xd8\xff": "image", b"\x93NUMPY": "npy"}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def format_of(name: str, wanted: str = AUTO) -> str:
    """One of FORMATS; AUTO where the name does not say."""
    if wanted != AUTO:
        return wanted
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return EXTENSIONS.get(name.rpartition(".")[2].lower(), AUTO)


def format_by_start(start: bytes) -> str:
    """One of FORMATS, from the first bytes of a file; AUTO where they do not say."""
    return next((kind for magic, kind in STARTS.items() if start.startswith(magic)), AUTO)
