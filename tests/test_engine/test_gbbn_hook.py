import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.datasets import KFoldDataset

from allnc_mm.datasets import DigitsLT
from allnc_mm.engine.hooks import CleanBNHook, GBBNHook
from allnc_mm.engine.hooks.class_counts_hook import check_same_classes, num_per_class
from allnc_mm.functional import gbbn_eta, sampling_distribution

COUNTS = [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]  # of DigitsLT: 276 images, 3 iterations of 128 an epoch

COUNTS_ALONE = dict(_delete_=True, counts=dict(type='ClassCountsHook'))
PLAIN = {'model.type': 'ImageClassifier', 'model.data_preprocessor': dict(type='ClsDataPreprocessor')}


@HOOKS.register_module()
class RecordEta(Hook):
    """Keeps iteration, eta of the head and logged eta of the run under way."""
    priority = 'LOWEST'
    seen = []

    def before_train(self, runner):
        self.seen.clear()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.iter, runner.model.head.eta.item(), outputs['gbbn_eta'].item()))


def runner(work_dir, name, epochs=4, **changes):
    cfg = Config(dict(
        default_scope='mmpretrain',
        experiment_name=name,
        work_dir=str(work_dir),
        model=dict(
            type='AllNC',
            backbone=dict(type='ResNetCIFAR6n2', depth=20, base_channels=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='AllNCHead', num_classes=10, in_channels=16)),
        train_dataloader=dict(
            batch_size=128,
            num_workers=0,
            dataset=dict(type='DigitsLT', size=8, pipeline=[dict(type='PackInputs')]),
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='BilateralSampler', q=0.5),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(counts=dict(type='ClassCountsHook'), gbbn=dict(type='GBBNHook', gamma=2.0)),
        custom_hooks=[dict(type='RecordEta')],
        randomness=dict(seed=0),
        log_level='ERROR'))
    cfg.merge_from_dict(copy.deepcopy(changes))  # which takes the marks _delete_ away
    return Runner.from_cfg(cfg)


def test_eta_follows_the_iterations_and_is_logged(tmp_path):
    runner(tmp_path, 'gbbn').train()
    assert [i for i, *_ in RecordEta.seen] == list(range(12))
    for i, eta, logged in RecordEta.seen:
        assert eta == pytest.approx(gbbn_eta(i / 12, 2.0), abs=1e-6) == logged
    assert RecordEta.seen[0][1] == 1.0 and RecordEta.seen[-1][1] < 0.2


def test_gamma(tmp_path):
    runner(tmp_path, 'gamma', **{'default_hooks.gbbn.gamma': 0.5, 'train_cfg.max_epochs': 1}).train()
    assert [eta for _, eta, _ in RecordEta.seen] == pytest.approx([gbbn_eta(i / 3, 0.5) for i in range(3)], abs=1e-6)


def test_iteration_based_loop(tmp_path):
    changes = {'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=5),
               'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True)}
    runner(tmp_path, 'iterations', **changes).train()
    assert [eta for _, eta, _ in RecordEta.seen] == pytest.approx([gbbn_eta(i / 5) for i in range(5)], abs=1e-6)


def test_a_resumed_run_sees_the_same_eta(tmp_path):
    runner(tmp_path, 'uncut').train()
    uncut = list(RecordEta.seen)
    assert (tmp_path / 'epoch_2.pth').is_file()
    resumed = runner(tmp_path, 'resumed', resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    resumed.train()
    assert RecordEta.seen == uncut[6:]


class RecordPriors(RecordEta):
    """Keeps the priors of both losses and of the sampler."""
    seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        head = runner.model.head
        self.seen.append((head.loss_uniform.log_prior.exp(), head.loss_module.log_prior.exp(),
                          torch.tensor(runner.train_dataloader.batch_sampler.prior).float()))


def test_a_progressive_sampler_takes_the_priors_with_it(tmp_path):
    changes = {'train_dataloader.batch_sampler': dict(type='BilateralSampler', q=0.0, progressive=True),
               'model.head.loss_uniform': dict(type='LogitAdjustedLoss', tau=1.0)}
    run = runner(tmp_path, 'progressive', **changes)
    run.register_hook(RecordPriors())
    run.train()
    assert len(RecordPriors.seen) == 12
    natural = torch.tensor(COUNTS) / sum(COUNTS)
    for i, (uniform, rebalanced, sampler) in enumerate(RecordPriors.seen):
        eta = gbbn_eta(i // 3 / 4)
        torch.testing.assert_close(sampler, torch.tensor(sampling_distribution(COUNTS, eta)).float())
        torch.testing.assert_close(rebalanced, sampler)
        torch.testing.assert_close(uniform, natural)
    changes.update(train_cfg=dict(_delete_=True, by_epoch=False, max_iters=5))
    with pytest.raises(ValueError, match='progressive=True.* changes from epoch to epoch.*by_epoch=True'):
        runner(tmp_path, 'progressive-iterations', **changes).train()


@pytest.mark.parametrize('mixture', [None, dict(type='MixtureViews', methods=['mixup'])])
def test_priors_are_those_of_the_two_halves(tmp_path, mixture):
    run = runner(tmp_path, f'priors-{mixture is None}', **{
        'train_cfg.max_epochs': 1, 'model.mixture': mixture,
        'model.head.loss_uniform': dict(type='LogitAdjustedLoss', tau=1.0)})
    run.train()
    natural = torch.tensor(COUNTS) / sum(COUNTS)
    partner = torch.tensor(sampling_distribution(COUNTS, 0.5)).float()
    if mixture is not None:
        natural = partner = (natural + partner) / 2
    head = run.model.head
    torch.testing.assert_close(head.loss_uniform.log_prior, natural.log())
    torch.testing.assert_close(head.loss_module.log_prior, partner.log())


def test_a_head_inside_a_plain_classifier(tmp_path):
    """One uniform batch serves both branches; the prior is that of the training set."""
    run = runner(tmp_path, 'plain', **{
        'train_cfg.max_epochs': 1, 'train_dataloader.batch_sampler': None, **PLAIN})
    run.train()
    assert [eta for _, eta, _ in RecordEta.seen] == pytest.approx([gbbn_eta(i / 3) for i in range(3)], abs=1e-6)
    torch.testing.assert_close(run.model.head.loss_module.log_prior, (torch.tensor(COUNTS) / sum(COUNTS)).log())


STOCK = dict(type='LinearClsHead', num_classes=10, in_channels=16, _delete_=True)


@pytest.mark.parametrize('changes, message', [
    ({'train_dataloader.batch_sampler': None},
     "AllNC trains on bilateral batches, but train_dataloader.batch_sampler is BatchSampler; set batch_sampler=dict"),
    (PLAIN,
     r"yields \[natural . re-balanced\] batches, but ImageClassifier.*set model.type='AllNC' or remove"),
    (dict(PLAIN, **{'model.head': STOCK}),
     'found no module with `set_eta` in ImageClassifier; use AllNCHead'),
    ({'model.head.num_classes': 12}, 'head.num_classes is 12, but the training data set has 10 classes; set head'),
    ({'model.head.loss_rebalanced': dict(type='LogitAdjustedLoss', num_per_class=[1] * 10)},
     '`num_per_class` of LogitAdjustedLoss is .*remove it from the config'),
    ({'default_hooks.gbbn.gamma': 0.0}, 'Expected `gamma` to be positive'),
    ({'model.mixture': dict(type='MixtureViews'), 'train_dataloader.batch_size': 25,
      'model.head.hycon': dict(type='HyConLoss', positives=['mean']), 'model.head.proj_channels': 8,
      'model.head.projector': dict(type='NonLinearNeck', in_channels=16, hid_channels=8, out_channels=8,
                                   with_avg_pool=False, norm_cfg=dict(type='BN1d'))},
     r'last batch of an epoch is one mixed image \(276 images a rank, batch_size=25\).*drop_last=True'),
])
def test_what_does_not_fit_stops_before_the_first_iteration(tmp_path, changes, message):
    RecordEta.seen.clear()
    with pytest.raises(ValueError, match=message):
        runner(tmp_path, f'refused-{abs(hash(message))}', **changes).train()
    assert not RecordEta.seen


def test_a_data_set_without_counts(tmp_path):
    run = runner(tmp_path, 'countless')
    dataset = run.build_dataloader(run._train_dataloader).dataset
    loader = dict(copy.copy(run._train_dataloader), dataset=dataset)
    dataset.full_init()
    counts = dataset._metainfo.pop('num_per_class')
    assert num_per_class(dataset) == counts  # from labels
    assert dataset.metainfo['num_per_class'] == counts
    dataset._metainfo.pop('num_per_class')
    dataset._metainfo.pop('classes')
    run._train_dataloader = loader
    with pytest.raises(ValueError, match=r"DigitsLT has no metainfo\['num_per_class'\] and.*metainfo=dict"):
        run.train()


def test_a_head_with_two_branches_needs_the_hook(tmp_path):
    with pytest.raises(ValueError, match='AllNC has two branches, but nothing moves eta.*GBBNHook'):
        runner(tmp_path, 'without_gbbn', default_hooks=dict(_delete_=True, counts=dict(type='ClassCountsHook'))).train()


def test_a_validation_with_other_classes(tmp_path):
    """Folders of which one is missing, or in another order: a label would not mean the same class."""
    train = dict(classes=('cat', 'lynx', 'robin'))
    for other, message in ((('cat', 'robin'), r'\(2, 3; lynx\).*empty folder'),
                           (('cat', 'robin', 'lynx'), r'\(3, 3; robin, lynx\)')):
        with pytest.raises(ValueError, match=f'classes of the validation set are not those.*{message}'):
            check_same_classes(train, dict(classes=other), 'validation')
    check_same_classes(train, {}, 'validation')
    digits = dict(type='DigitsLT', split='test', size=8, pipeline=[], metainfo=dict(classes=tuple('abcdefghij')))
    run = runner(tmp_path, 'folders', val_cfg=dict(), val_evaluator=dict(type='Accuracy'), val_dataloader=dict(
        batch_size=8, dataset=digits, sampler=dict(type='DefaultSampler', shuffle=False)))
    with pytest.raises(ValueError, match='classes of the validation set'):
        run.train()


FLIP = dict(type='RandomFlip', prob=0.5)
VIEWS = [dict(type='MultiView', num_views=[2], transforms=[[FLIP]]), dict(type='PackInputs')]


@pytest.mark.parametrize('views, changes', [(1, {'model.num_views': 2}),
                                            (2, {'train_dataloader.dataset.pipeline': VIEWS})])
@pytest.mark.parametrize('whole', [False, True])
def test_views_of_pipeline_and_model_are_as_many(tmp_path, views, changes, whole):
    """Otherwise natural images would be taken for views of their partners, without a word."""
    hooks = [dict(type='DeviceAugmentationHook')] if whole else []
    with pytest.raises(ValueError, match=f'trains on num_views={3 - views} views.*the pipeline yields {views}'):
        runner(tmp_path, f'views-{views}-{whole}', **changes, custom_hooks=hooks).train()


def test_views_of_a_head(tmp_path):
    head = dict(_delete_=True, type='ContrastiveClsHead', num_views=3, contrast=dict(type='SupConLoss'),
                classifier=dict(type='LinearClsHead', num_classes=10, in_channels=16),
                projector=dict(type='LinearNeck', in_channels=16, out_channels=8, gap_dim=0))
    changes = {'model.type': 'ImageClassifier', 'model.head': head, 'train_dataloader.batch_sampler': None,
               'model.data_preprocessor': dict(type='MultiViewDataPreprocessor'), 'default_hooks': COUNTS_ALONE,
               'custom_hooks': [], 'train_dataloader.batch_size': 12, 'train_dataloader.dataset.pipeline': VIEWS}
    with pytest.raises(ValueError, match='trains on num_views=3 views.*the pipeline yields 2'):
        runner(tmp_path, 'views-of-head', **changes).train()


def labels_of(dataset):
    return [dataset.get_data_info(i)['gt_label'] for i in range(len(dataset))]


def test_counts_below_wrappers_are_what_is_seen():
    first, second = DigitsLT(n_max=40, imb_factor=10), DigitsLT(n_max=20, imb_factor=2)
    both = ConcatDataset([first, second], ignore_keys=['num_per_class', 'imb_factor'])
    assert num_per_class(both) == [a + b for a, b in zip(first.num_per_class, second.num_per_class)]
    assert first.metainfo['num_per_class'] == list(first.num_per_class)
    balanced = ClassBalancedDataset(first, oversample_thr=0.1)
    assert num_per_class(balanced) == np.bincount(labels_of(balanced)).tolist() != list(first.num_per_class)
    assert num_per_class(RepeatDataset(first, 3)) == list(first.num_per_class)  # all alike
    fold = KFoldDataset(dict(type='DigitsLT', n_max=40, imb_factor=10), num_splits=4, seed=1)
    assert num_per_class(fold) == np.bincount(labels_of(fold), minlength=10).tolist() != list(first.num_per_class)


def test_an_adjusted_loss_behind_a_balanced_sampler_removes_the_prior_once(tmp_path):
    head = dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=16,
                loss=dict(type='LogitAdjustedLoss'))
    changes = {**PLAIN, 'model.head': head, 'train_dataloader.batch_sampler': None,
               'default_hooks': COUNTS_ALONE, 'custom_hooks': []}
    for q, prior in ((0.0, [0.1] * 10), (1.0, [n / sum(COUNTS) for n in COUNTS])):
        run = runner(tmp_path, f'balanced-{q}', 1, **changes,
                     **{'train_dataloader.sampler': dict(_delete_=True, type='ClassBalancedSampler', q=q)})
        run.train()
        assert run.model.head.loss_module.log_prior.exp().tolist() == pytest.approx(prior)


def test_a_loss_that_comes_later_is_served(tmp_path):
    """mmpretrain's SwitchRecipeHook: cross-entropy first, then logit adjustment."""
    head = dict(_delete_=True, type='LinearClsHead', num_classes=10, in_channels=16)
    switch = dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=2, loss=dict(type='LogitAdjustedLoss'))])
    run = runner(tmp_path, 'later', 2, custom_hooks=[switch], **PLAIN, **{
        'model.head': head, 'train_dataloader.batch_sampler': None, 'default_hooks': COUNTS_ALONE})
    run.train()
    assert run.model.head.loss_module.log_prior.exp().tolist() == pytest.approx([n / sum(COUNTS) for n in COUNTS])


def test_proco_needs_to_know_the_epochs(tmp_path):
    head = dict(_delete_=True, type='ContrastiveClsHead', num_views=2,
                contrast=dict(type='ProCoLoss', num_classes=10, dim=16),
                classifier=dict(type='LinearClsHead', num_classes=10, in_channels=16),
                projector=dict(type='LinearNeck', in_channels=16, out_channels=16, gap_dim=0))
    changes = {'model.type': 'ImageClassifier', 'model.head': head, 'train_dataloader.batch_sampler': None,
               'model.data_preprocessor': dict(type='MultiViewDataPreprocessor'), 'default_hooks': COUNTS_ALONE,
               'train_dataloader.dataset.pipeline': VIEWS}
    with pytest.raises(ValueError, match=r"forgets older epochs.*add custom_hooks=\[dict\(type='EpochStartHook'\)\]"):
        runner(tmp_path, 'proco', **changes, custom_hooks=[]).train()
    iterations = {'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=5),
                  'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True)}
    with pytest.raises(ValueError, match='EpochStartHook.*IterBasedTrainLoop; set train_cfg.by_epoch=True'):
        hook = dict(type='EpochStartHook')
        runner(tmp_path, 'proco-iterations', **changes, **iterations, custom_hooks=[hook]).train()


def test_early_stopping_is_warned_of(tmp_path, monkeypatch):
    said = []
    for hook in ('gbbn_hook', 'clean_bn_hook'):
        monkeypatch.setattr(f'allnc_mm.engine.hooks.{hook}.print_log', lambda text, **kwargs: said.append(text))
    stop = dict(type='EarlyStoppingHook', monitor='accuracy')
    runner(tmp_path, 'early', 1, custom_hooks=[dict(type='CleanBNHook')]).train()
    assert not said
    run = runner(tmp_path, 'early2', 1, custom_hooks=[dict(type='CleanBNHook'), stop])
    run._train_loop = run.build_train_loop(run._train_loop)
    for hook in run.hooks:
        if isinstance(hook, (GBBNHook, CleanBNHook)):
            hook.before_train(run)
    assert [text.split()[0] for text in said] == ['EarlyStoppingHook', 'CleanBNHook']
