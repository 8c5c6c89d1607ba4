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
        mixed_views (int, optional): Batch augmentations (MixUp, CutMix) mix the first so many views, each row with rows
            of these; the other views keep their images, and integer labels alone. Defaults to None: all views.
        **kwargs: Arguments of ``ClsDataPreprocessor``.

    Attributes:
        num_views (int, optional): How many views the model trains on; ``ClassCountsHook`` sets it. None: any number.

    Raises:
        ValueError: if ``mixed_views`` is below 1, or a training batch has other than ``num_views`` views.
    """

    def __init__(self, *args, channels_last: bool = False, mixed_views: int | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if mixed_views is not None and mixed_views < 1:
            raise ValueError(f'Expected `mixed_views` >= 1, but got {mixed_views}; to mix no view remove the batch '
                             'augmentation (`model.train_cfg.augments`).')
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.mixed_views = mixed_views
        self.num_views: int | None = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and join; ``inputs`` is (N, C, H, W), a list of N images, or a list of V views of either kind."""
        inputs, views = data['inputs'], 1
        if isinstance(inputs, (list, tuple)) and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim == 4:
            views, inputs = len(inputs), torch.cat(list(inputs))  # default_collate: a list of stacked views
        elif isinstance(inputs, (list, tuple)) and isinstance(inputs[0], (list, tuple)):
            views, inputs = len(inputs), [image for view in inputs for image in view]  # pseudo_collate: V lists
        if training and self.num_views not in (None, views):
            raise ValueError(f'The model trains on num_views={self.num_views} views of each image, but the pipeline '
                             f"yields {views}; set dict(type='MultiView', num_views={self.num_views}, ...) in the "
                             f'training pipeline, or num_views={views} in the model.')
        if inputs is not data['inputs']:
            data = dict(data, inputs=inputs, data_samples=self._repeat(data.get('data_samples'), views))
        partly = training and self.batch_augments is not None and self.mixed_views is not None
        data = super().forward(data, training and not partly)
        if partly:
            self._mix(data['inputs'], data['data_samples'], self.mixed_views * (len(data['inputs']) // views))
        data['inputs'] = data['inputs'].to(memory_format=self.memory_format)
        return data

    def _mix(self, images, samples, rows: int) -> None:
        mixed, scores = self.batch_augments(images[:rows], torch.stack([s.gt_score for s in samples[:rows]]))
        images[:rows] = mixed
        for sample, score in zip(samples, scores):
            sample.set_gt_score(score)
        for sample in samples[rows:]:
            del sample.gt_score

    def _repeat(self, samples, times: int):
        if samples is None:
            return None
        if self.batch_augments is None:
            return list(samples) * times
        return [sample.clone() for _ in range(times) for sample in samples]  # each row gets a mixed label of its own
