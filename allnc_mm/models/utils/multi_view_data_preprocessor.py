import torch
from mmpretrain.models.utils import ClsDataPreprocessor

from ...registry import MODELS


@MODELS.register_module()
class MultiViewDataPreprocessor(ClsDataPreprocessor):
    """``ClsDataPreprocessor`` for samples with one or several views.

    The views of mmpretrain's ``MultiView`` transform are joined along the batch, view-major: row ``v*N + i`` is view v
    of sample i, and the data samples repeat accordingly. Any classifier then works on them.

    Args:
        channels_last (bool): Hand the images on in channels_last memory format, which the convolutions then keep;
            faster on CPUs and tensor cores. Defaults to False.
        **kwargs: Arguments of ``ClsDataPreprocessor``.
    """

    def __init__(self, *args, channels_last: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and join; ``inputs`` is (N, C, H, W), a list of N images, or a list of V views of either kind."""
        inputs = data['inputs']
        if isinstance(inputs, (list, tuple)) and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim == 4:
            data = dict(data, inputs=torch.cat(list(inputs)),  # default_collate: a list of stacked views
                        data_samples=self._repeat(data.get('data_samples'), len(inputs)))
        elif isinstance(inputs, (list, tuple)) and isinstance(inputs[0], (list, tuple)):
            data = dict(data, inputs=[image for view in inputs for image in view],  # pseudo_collate: a list of V lists
                        data_samples=self._repeat(data.get('data_samples'), len(inputs)))
        data = super().forward(data, training)
        data['inputs'] = data['inputs'].to(memory_format=self.memory_format)
        return data

    def _repeat(self, samples, times: int):
        if samples is None:
            return None
        if self.batch_augments is None:
            return list(samples) * times
        return [sample.clone() for _ in range(times) for sample in samples]  # each row gets a mixed label of its own
