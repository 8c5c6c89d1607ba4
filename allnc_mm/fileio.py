"""Files that are whole or not there."""
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[str]:
    """A path to write to in place of ``path``, which becomes that file when the block ends without an error.

    Whoever reads ``path`` meanwhile, or after a kill, finds the file that was there before. Of processes at once each
    writes its own; after an error nothing is left. Folders are made.

    Args:
        path (str | os.PathLike): The file to write or replace.

    Yields:
        str: A path in the same folder, ending in '.part'.
    """
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f'{path}.{uuid.uuid4().hex[:8]}.part'
    try:
        yield part
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
