"""MLflow, the mirror of the files; the modules of this package alone import mlflow.

What a stage needs it reads from files. A run or a version that MLflow lacks (another machine, a lost
database, an outage of the server) is written from the same files by `ensure` and `ensure_version`, once,
however often they are called::

    petfaces tracking sync    # brings back whatever MLflow lacks
    petfaces tracking ui      # the page, opened on its training side
"""

from pipeline.artifacts.seal import digest
from pipeline.tracking.artifacts import Kept, registered
from pipeline.tracking.live import Run
from pipeline.tracking.naming import comparable, name_of, params, run_name
from pipeline.tracking.promotion import (
    ChampionChangedError,
    Change,
    champion,
    count_look,
    history,
    looks,
    promote,
    promoted_because,
    versions,
    withdraw,
    withdrawn,
)
from pipeline.tracking.registry import (
    Version,
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
from pipeline.tracking.store import reachable, shown, uri
from pipeline.tracking.sweeps import sweep_of, sweep_runs
from pipeline.tracking.web_ui import links, ui
