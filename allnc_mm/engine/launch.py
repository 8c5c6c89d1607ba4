"""What ``tools/train.py`` and ``tools/test.py`` share: arguments, config, data loaders and readable errors."""
import argparse
import ast
import glob
import linecache
import os
import sys
from contextlib import contextmanager

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from .. import compat

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share; their names are mmpretrain's."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default: work_dirs/<config name>')
    parser.add_argument('--amp', action='store_true',
                        help='automatic mixed precision: float16 on CUDA, bfloat16 on the CPU')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin memory in the data loaders')
    parser.add_argument('--no-persistent-workers', action='store_true',
                        help='restart the workers of the data loaders in every epoch')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of the config, e.g. train_cfg.max_epochs=2 or key="[a,b]"; no spaces')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and merge what :func:`add_common_arguments` added.

    ``--cfg-options`` come first, so that what is derived from the config sees them.

    Raises:
        SystemExit: 2, after one line on stderr, when there is no such config.
    """
    if not os.path.isfile(args.config):
        print(f'Config {args.config} does not exist; give the path of a .py file, e.g. one under configs/.',
              file=sys.stderr)
        raise SystemExit(2)
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', os.path.splitext(os.path.basename(args.config))[0])
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(field) is not None:
            _complete_loader(cfg[field], cfg.get('default_scope'), args)
    return cfg


def _complete_loader(loader: dict, scope: str | None, args: argparse.Namespace) -> None:
    if scope == 'mmpretrain':  # stacked images; segmentation keeps mmengine's list of images of any size
        loader.setdefault('collate_fn', dict(type='default_collate'))
    loader.setdefault('pin_memory', True)
    if args.no_pin_memory or not torch.cuda.is_available():
        loader['pin_memory'] = False
    loader.setdefault('persistent_workers', True)
    if args.no_persistent_workers or not loader.get('num_workers'):
        loader['persistent_workers'] = False


def latest_checkpoint(work_dir: str) -> str | None:
    """The newest checkpoint of a work_dir, also of one that was moved, copied, or whose run was killed; else None."""
    latest = find_latest_checkpoint(work_dir)
    if latest and os.path.isfile(latest):  # an absolute path: in a folder that was copied, that of the original
        own = os.path.join(work_dir, os.path.basename(latest))
        return own if os.path.isfile(own) else latest
    folder = glob.escape(work_dir)
    saved = [path for kind in ('epoch', 'iter') for path in glob.glob(os.path.join(folder, f'{kind}_*.pth'))]
    return max(saved, key=os.path.getmtime, default=None)


def build_runner(cfg: Config) -> Runner:
    """Adapt the config to this machine (:func:`allnc_mm.compat.cpu_launch`) and build its runner."""
    compat.cpu_launch(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def leave_process_group() -> None:
    """End the process group after a run that went well; nothing without one.

    Threads of gloo that outlive the interpreter abort the process now and then (``terminate called without an active
    exception``), and the launcher then reports a finished job as failed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _is_deliberate(error: BaseException) -> bool:
    """Whether a message says it all: allnc_mm raised it on purpose (a ``raise`` of ours), or a file is missing."""
    if isinstance(error, FileNotFoundError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    filename = os.path.abspath(trace.tb_frame.f_code.co_filename)
    line = linecache.getline(filename, trace.tb_lineno)
    return filename.startswith(_PACKAGE + os.sep) and line.lstrip().startswith('raise ')


def parse_groups(parser: argparse.ArgumentParser, groups: str | None):
    """What --groups of an analysis tool says: None, 'A', 'B' or three sizes; anything else ends the tool."""
    if not groups or groups in ('A', 'B'):
        return groups
    try:
        return ast.literal_eval(groups)
    except (SyntaxError, ValueError):
        parser.error(f'--groups must be A, B or three sizes such as 4,3,3, but got {groups}')


@contextmanager
def readable_errors():
    """Show a mistake of the user's as one line and exit with 1; a bug keeps its traceback.

    Mistakes are the errors that allnc_mm raises on purpose (settings, data, a loss that is not finite) and missing
    files. An error that comes out of any other place propagates.
    """
    try:
        yield
    except Exception as error:
        # Runner.call_hook raises the TypeErrors of hooks anew
        if not _is_deliberate(error) and not (isinstance(error, TypeError) and error.__context__ is not None
                                              and _is_deliberate(error.__context__)):
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f'{type(error).__name__}: {" ".join(str(message).split())}', file=sys.stderr)
        raise SystemExit(1) from None
