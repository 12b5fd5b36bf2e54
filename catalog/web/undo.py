"""Takes an action on many labels back."""

from fastapi import APIRouter, HTTPException

from catalog.language import _
from catalog.store import labels
from catalog.web.context import ByPerson, InContext, labeled_or_404

router = APIRouter()


@router.post("/api/projects/{project_id}/undo/{batch}")
def undo(project_id: int, batch: str, context: InContext, person: ByPerson) -> dict[str, int]:
    """Gives images the labels from before an action; `kept` counts those that were labeled since then."""
    with context.database.write() as session:
        project = labeled_or_404(session, project_id)
        undone, kept = labels.undo(session, project.id, batch, person.name)
        if not undone + kept:
            raise HTTPException(404, _("there is no such action in this project"))
        return {"undone": undone, "kept": kept}
