"""The mathematics of allnc_mm: pure functions of torch tensors; no OpenMMLab, no process group, no file."""
from .calibration import *  # noqa: F403
from .class_assignment import *  # noqa: F403
from .collapse import *  # noqa: F403
from .dot_regression import *  # noqa: F403
from .geometry import *  # noqa: F403
from .longtail import *  # noqa: F403
from .losses import *  # noqa: F403
from .margins import *  # noqa: F403
from .one_vs_rest import *  # noqa: F403
from .pixels import *  # noqa: F403
from .prototypes import *  # noqa: F403
from .reweighting import *  # noqa: F403
from .schedules import *  # noqa: F403
from .softmax_codes import *  # noqa: F403
from .structured_codes import *  # noqa: F403
from .vmf import *  # noqa: F403
