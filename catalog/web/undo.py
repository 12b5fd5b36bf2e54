"""Takes an action on many labels back."""

from fastapi import APIRouter, HTTPException

from catalog import undoing
from catalog.language import _
from catalog.web.context import ByPerson, InContext, labeled_or_404

router = APIRouter()


@router.post("/api/projects/{project_id}/undo/{batch}")
def undo(project_id: int, batch: str, context: InContext, person: ByPerson) -> dict[str, int]:
    """Gives images the labels from before an action.

    Args:
        project_id: of the project.
        batch: from the action's answer.
        context: the application's.
        person: who takes it back.

    Returns:
        `undone`, the number of images that got their label back, and `kept`, that of those that were labeled
        since then, or that somebody has open.
    """
    with context.database.read() as session:
        labeled_or_404(session, project_id)
    undone, kept = undoing.undo(context.database, project_id, batch, person.name)
    if not undone + kept:
        raise HTTPException(404, _("there is no such action in this project"))
    return {"undone": undone, "kept": kept}
