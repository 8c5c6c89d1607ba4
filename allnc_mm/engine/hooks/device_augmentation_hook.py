from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.engine.hooks import SwitchRecipeHook

from ...distributed import unwrap
from ...models.utils.device_augmentation import DeviceAugmentation
from ...registry import HOOKS


def _whole(batch):
    """The collate function of a data set that hands out whole batches."""
    return batch


@HOOKS.register_module()
class DeviceAugmentationHook(Hook):
    """Augment whole training batches on the model's device instead of one image at a time in the loader.

    For data sets in memory (:class:`allnc_mm.datasets.InMemoryLongTail`). The config stays as it is: the hook takes the
    pipeline's transforms, has the data set hand out raw batches, and does crops, flips, colours, AutoAugment and
    RandAugment with the same settings and distribution for all images at once
    (:class:`allnc_mm.datasets.transforms.WholeBatch` lists what there is; mmpretrain's ``MultiView`` too). As with the
    ordinary pipeline the images depend on (seed, epoch, indices of the batch) and on nothing else, but they are other
    draws of the same distribution; except that colour operations take the channels for RGB, which CIFAR's are, where
    mmcv's take them for BGR, that ``Rotate`` with a single number for ``pad_val`` fills all channels, where mmcv's
    fills the first alone, and that ``Sharpness`` leaves the border pixels. Validation and test keep their pipelines. ::

        custom_hooks = [dict(type='DeviceAugmentationHook')]

    Raises:
        TypeError: if the training data set does not hold its images in memory.
        ValueError: if a transform has no counterpart or comes before ``MultiView``, the loop is not epoch-based (its
            workers run already), or mmpretrain's ``SwitchRecipeHook`` would change the pipeline later.
    """

    def before_train(self, runner) -> None:
        """Rewire the training data loader and the model's data preprocessor."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('DeviceAugmentationHook needs an epoch-based loop, but train_cfg has by_epoch=False; set '
                             'train_cfg=dict(by_epoch=True, max_epochs=...) or remove the hook.')
        if any(isinstance(hook, SwitchRecipeHook) for hook in runner.hooks):
            raise ValueError('SwitchRecipeHook changes pipeline and batch augmentation during the training, which '
                             'DeviceAugmentationHook has taken over by then; remove one of the two.')
        dataset = runner.train_dataloader.dataset
        if not hasattr(dataset, 'whole_batch'):
            raise TypeError(f'DeviceAugmentationHook needs a data set that holds its images in memory (CIFAR10LT, '
                            f'CIFAR100LT, DigitsLT), but got {type(dataset).__name__}; remove the hook.')
        before, views = [], None
        for transform in dataset.pipeline.transforms:
            if type(transform).__name__ == 'MultiView':
                if before:
                    raise ValueError('DeviceAugmentationHook draws each view by itself, but the draw of '
                                     f'{type(before[0]).__name__} before MultiView is one for all views; move it into '
                                     'the transforms of MultiView, or remove the hook.')
                views = [list(pipeline.transforms) for pipeline in transform.transforms]
            elif views is None:
                before.append(transform)
            else:
                for view in views:
                    view.append(transform)
        model = unwrap(runner.model)
        augmentation = DeviceAugmentation(model.data_preprocessor, views or [before])
        model.data_preprocessor = augmentation.to(next(model.parameters()).device)
        dataset.whole_batch = True
        runner.train_dataloader.collate_fn = _whole
