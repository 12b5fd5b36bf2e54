"""Downloads of zips that are written when they are asked for."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from catalog.library import Library


def zip_response(library: Library, name: str, write: Callable[[Path], object]) -> FileResponse:
    """A zip, which is deleted after it was sent, or if it can't be written.

    Args:
        library: holds the temporary file.
        name: the file's name for the browser.
        write: gets the path to write to.
    """
    handle, path = tempfile.mkstemp(suffix=".zip", dir=library.temporary)
    os.close(handle)
    file = Path(path)
    try:
        write(file)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return FileResponse(
        file,
        media_type="application/zip",
        filename=name,
        background=BackgroundTask(partial(file.unlink, missing_ok=True)),
    )
