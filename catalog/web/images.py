"""Thumbnails and large views of images, by id."""

import io

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response
from PIL import Image as PillowImage

from catalog import decoding
from catalog.language import _
from catalog.store import pages
from catalog.store.tables import Image
from catalog.web.context import ByPerson, Context, InContext, Person
from pipeline.portable import UnreadableError

# Pages put the image's hash into the address: ids begin at 1 again in another catalog on the same port.
# After signing out, which changes the cookie, the browser shows none of them.
_CACHED = {"Cache-Control": "private, max-age=31536000, immutable", "Vary": "Cookie"}

router = APIRouter()


def _find(context: Context, image_id: int, person: Person) -> Image:
    """The image; for a labeler, one that is open on a page of this person."""
    with context.database.read() as session:
        image = session.get(Image, image_id)
        if image is None or not (person.is_admin or pages.is_open_for(session, image, person.name)):
            raise HTTPException(404, _("there is no such image"))
        session.expunge(image)
        return image


@router.get("/images/{image_id}/thumbnail", include_in_schema=False)
def thumbnail(image_id: int, context: InContext, person: ByPerson) -> FileResponse:
    file = context.library.thumbnail(_find(context, image_id, person).sha256)
    if not file.is_file():
        raise HTTPException(404, _("its thumbnail is missing; read the images again on the project's page"))
    return FileResponse(file, media_type="image/jpeg", headers=_CACHED)


@router.get("/images/{image_id}/large", include_in_schema=False)
def large(image_id: int, context: InContext, person: ByPerson) -> Response:
    """The image, decoded in a process of its own and encoded anew: originals are untrusted."""
    image = _find(context, image_id, person)
    file = context.library.image(image.sha256, image.suffix)
    try:
        pixels = decoding.read(file.read_bytes())
    except FileNotFoundError:
        raise HTTPException(
            404, _("its file is missing; read the images again on the project's page")
        ) from None
    except UnreadableError:  # an animation, of which the thumbnail shows the first frame
        response = thumbnail(image_id, context, person)
        response.headers["Cache-Control"] = "no-store"
        return response
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return Response(buffer.getvalue(), media_type="image/jpeg", headers=_CACHED)
