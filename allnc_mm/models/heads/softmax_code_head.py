from torch import Tensor

from ...geometry_cache import cached_softmax_code
from ...registry import MODELS
from .code_head import CodeHead


@MODELS.register_module()
class SoftmaxCodeHead(CodeHead):
    """Classification head whose classifier is a fixed softmax code, for any number of classes in any dimension.

    A softmax code has the largest one-vs-rest distance of all K unit vectors in d dimensions, and is where training
    with cross-entropy ends at small temperature (`Generalized Neural Collapse for a Large Number of Classes
    <https://arxiv.org/abs/2310.05351>`_, Jiang et al., ICML 2024). For K <= d + 1 it is the simplex ETF. Where its
    distances differ, which class gets which vector matters: see ``assignment`` and
    ``tools/analysis_tools/assign_classes.py``. Logits are ``length * cos(feature, code)``, so ``length`` is 1 /
    temperature.

    The code is computed once and kept in the user's cache directory.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d.
        **kwargs: ``loss``, ``length``, ``learnable_length``, ``rotation``, ``assignment``, ``norm_cfg``, ``seed``,
            ``topk``, ``cal_acc`` and ``init_cfg`` as in :class:`CodeHead`.
    """

    def build_code(self, num_classes: int, dim: int, seed: int) -> Tensor:
        """The code, shape (K, d)."""
        return cached_softmax_code(num_classes, dim, seed=seed)
