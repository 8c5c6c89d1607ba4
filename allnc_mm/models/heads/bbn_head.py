import torch
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.structures import DataSample

from ...registry import MODELS


@MODELS.register_module()
class BBNHead(LinearClsHead):
    r"""Head of the bilateral-branch network: one linear classifier on the concatenated features of both branches.

    `BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition
    <https://arxiv.org/abs/1912.02413>`_, as in the released code:

    .. math::
        z = W \, 2 [\eta f_c, (1 - \eta) f_r] + b, \qquad L = \eta CE(z, y_c) + (1 - \eta) CE(z, y_r)

    in training, and :math:`W [f_c, f_r] + b` at test; the factor 2 makes the scales equal at :math:`\eta = 1/2`. The
    ``GBBNHook`` calls :meth:`set_eta` before each iteration (gamma=2 is BBN's parabola, eta = 1 - progress^2); without
    it eta stays 1 and the re-balanced branch is not trained.

    Args:
        num_classes (int): Number of classes K.
        in_channels (int): Feature dimension d of **one** branch; the classifier reads 2d.
        **kwargs: Arguments of ``LinearClsHead``: loss, topk, cal_acc, init_cfg.
    """

    def __init__(self, num_classes: int, in_channels: int, **kwargs):
        super().__init__(num_classes=num_classes, in_channels=2 * in_channels, **kwargs)
        # The hook derives eta from the progress, also after a resume: it is no state of its own.
        self.register_buffer('eta', torch.ones(()), persistent=False)

    def set_eta(self, eta: float) -> None:
        """Set the weight of the uniform branch.

        Args:
            eta (float): From 0 to 1.

        Raises:
            ValueError: outside of that range.
        """
        if not 0 <= eta <= 1:
            raise ValueError(f'Expected argument `eta` of BBNHead.set_eta to be in [0, 1], but got {eta}.')
        self.eta.fill_(eta)

    def loss(self, feats: tuple[torch.Tensor, ...], data_samples: list[DataSample], **kwargs) -> dict:
        """Losses of a bilateral batch.

        Args:
            feats (tuple[Tensor]): The last has shape (B, 2d): in row i the uniform feature of sample i and the
                re-balanced feature of sample B + i.
            data_samples (list[DataSample]): 2B annotations, the uniform half first.
            **kwargs: Other keyword arguments of the loss module.

        Returns:
            dict[str, Tensor]: ``loss_uniform`` and ``loss_rebalanced`` (weighted by eta and 1 - eta), ``gbbn_eta``, and
            ``accuracy_top-k``, weighted likewise, if ``cal_acc``.

        Raises:
            ValueError: if there are not two annotations for each row of features.
        """
        features = self.pre_logits(feats)
        size = len(features)
        if len(data_samples) != 2 * size:
            raise ValueError(f'BBNHead needs 2 annotations (uniform, re-balanced) for each row of features, but got '
                             f'{len(data_samples)} for {size} rows; use it with the classifier type=\'BBN\'.')
        uniform, rebalanced = features.chunk(2, dim=1)
        eta = self.eta.clone()  # the hook overwrites the buffer in place
        logits = self.fc(2 * torch.cat([eta * uniform, (1 - eta) * rebalanced], dim=1)).float()
        first = self._get_loss(logits, data_samples[:size], **kwargs)
        second = self._get_loss(logits, data_samples[size:], **kwargs)
        losses = dict(loss_uniform=eta * first.pop('loss'), loss_rebalanced=(1 - eta) * second.pop('loss'),
                      gbbn_eta=eta)
        for key in first:  # accuracies, one for each threshold
            losses[key] = [eta * a + (1 - eta) * b for a, b in zip(first[key], second[key])]
        return losses
