"""Renamed keys: configurations recorded by earlier versions have the old names.

A rebuild (`maintenance/reproduction.py`) passes them on as recorded, because that commit's code reads them.
"""

RENAMED = {  # old name: new name, in the same group
    "model.strengths": "model.inverse_regularization",
    "unsure.answers_right": "unsure.min_precision",
    "unsure.others_named": "unsure.max_ood_rate",
}


def upgrade(settings: dict) -> dict:
    """A copy of a recorded configuration in which renamed keys have their new names."""
    return {
        group: {_new_name(group, key): value for key, value in values.items()}
        if isinstance(values, dict)
        else values
        for group, values in settings.items()
    }


def _new_name(group: str, key: str) -> str:
    full = f"{group}.{key}"
    return RENAMED.get(full, full).removeprefix(f"{group}.")
