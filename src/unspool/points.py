"""The former name of ``unspool.failpoints``, for harnesses that set ``points.reach``."""

import sys

from . import failpoints

sys.modules[__name__] = failpoints
