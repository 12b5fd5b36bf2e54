"""Configuration composed by Hydra; precedence ``conf/`` < ``params.yaml`` < experiment < command line.

This package composes and validates configurations and explains errors; it instantiates nothing.
"""

from pipeline.common.paths import ROOT  # `maintenance/worktree_script.py` imports it from any commit's code
from pipeline.config.composition import compose, store_params
from pipeline.config.files import SHARED, choices, choose, config_groups, flat
