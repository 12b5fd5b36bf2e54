"""Configuration composed by Hydra; precedence ``conf/`` < ``params.yaml`` < experiment < command line.

This package composes and validates configurations and explains errors; it instantiates nothing.
"""

from pipeline.common.paths import ROOT  # `rebuild` imports it from the code of any commit
from pipeline.config.composition import compose, store_params
from pipeline.config.files import SHARED, choices, choose, config_groups, flat
