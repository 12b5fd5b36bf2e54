"""MLflow tracking and model registry; no other package imports mlflow.

MLflow mirrors the files; pipeline stages read only files. `ensure` and `ensure_version` are idempotent: they
write a run or a version from the files if MLflow lacks it (other machine, lost database, server outage)::

    petfaces tracking sync    # restores whatever MLflow lacks
    petfaces tracking ui      # serves MLflow's UI
"""

from pipeline.artifacts.seal import digest
from pipeline.tracking.artifacts import registered_folders
from pipeline.tracking.live import Run
from pipeline.tracking.naming import comparable, name_of, params, run_name
from pipeline.tracking.promotion import (
    ChampionChangedError,
    Change,
    champion,
    count_test_comparisons,
    history,
    promote,
    promotion_reason,
    tag_test_comparison,
    versions,
    withdraw,
    withdrawn,
)
from pipeline.tracking.registry import (
    download_run,
    download_train,
    download_version,
    ensure_version,
    find_model,
    find_version,
    signature,
)
from pipeline.tracking.restore import sync
from pipeline.tracking.runs import ensure, wall_seconds
from pipeline.tracking.store import display_uri, reachable
from pipeline.tracking.sweeps import sweep_of, sweep_runs
from pipeline.tracking.web_ui import links
from pipeline.tracking.work import log_work
