import torch
from mmengine.model import BaseDataPreprocessor
from mmpretrain.structures import DataSample

from ...datasets.transforms.whole_batch import WholeBatch


class DeviceAugmentation(BaseDataPreprocessor):
    """Augments whole batches on the device, then hands them to the data preprocessor it wraps.

    :class:`DeviceAugmentationHook` puts it in place. Its batches are the dicts of ``InMemoryLongTail`` in
    whole-batch mode: ``inputs`` (N, C, H, W) uint8, ``labels`` (N,) int64, ``seed`` int. Anything else, such as the
    batches of a validation, goes straight to the wrapped one.

    Args:
        wrapped (nn.Module): The model's data preprocessor.
        views (Sequence[Sequence]): The transforms of each view, as objects of the ordinary pipeline.
    """

    def __init__(self, wrapped, views) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.views = [WholeBatch(transforms) for transforms in views]

    def __getattr__(self, name):  # what classifiers ask of their data preprocessor: batch_augments, num_classes, ...
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__('wrapped'), name)

    def forward(self, data: dict, training: bool = False) -> dict:
        """``inputs`` normalised, view-major with several views, and ``data_samples`` with labels on the device."""
        if 'labels' not in data:
            return self.wrapped(data, training)
        labels = data['labels']
        generator = torch.Generator().manual_seed(data['seed'])  # on the CPU: the same numbers whatever the device
        draws = [torch.rand(len(labels), view.draws, generator=generator) for view in self.views]
        data = self.cast_data(dict(inputs=data['inputs'], labels=labels, draws=draws))
        inputs = [view(data['inputs'], u) for view, u in zip(self.views, data['draws'])]
        samples = []
        for label in data['labels'].split(1):
            # what DataSample() and set_gt_label do, without their checks, which add up over the batch
            sample = DataSample.__new__(DataSample)
            sample.__dict__.update(_metainfo_fields=set(), _data_fields={'gt_label'}, gt_label=label)
            samples.append(sample)
        inputs = inputs if len(inputs) > 1 else inputs[0]
        if self.wrapped.batch_augments is not None or self.wrapped.to_onehot or len(self.views) > 1:
            return self.wrapped(dict(inputs=inputs, data_samples=samples), training)
        return dict(self.wrapped(dict(inputs=inputs), training), data_samples=samples)
