"""One rule for configuration: ``conf/`` < ``params.yaml`` < experiment < the command line, by Hydra alone.

Composing, the schema, and errors in words live here; what a configuration builds does not.
"""

from pipeline.common.paths import ROOT  # for `rebuild`, which asks the code of any commit
from pipeline.config.checked import compose
from pipeline.config.composition import store_params
from pipeline.config.files import SHARED, choices, choose, config_groups, flat
