"""The mathematics of allnc_mm: pure functions of torch tensors; no OpenMMLab, no process group, no file."""
from .calibration import *  # noqa: F403
from .collapse import *  # noqa: F403
from .dot_regression import *  # noqa: F403
from .geometry import *  # noqa: F403
from .longtail import *  # noqa: F403
from .losses import *  # noqa: F403
from .prototypes import *  # noqa: F403
from .schedules import *  # noqa: F403
