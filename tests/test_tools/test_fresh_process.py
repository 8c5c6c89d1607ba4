"""Every tool starts in a process of its own, where nothing has mended the stack before it."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py'))


@pytest.mark.parametrize('tool', TOOLS)
def test_it_prints_its_help(tool):
    done = subprocess.run([sys.executable, ROOT / tool, '--help'], capture_output=True, text=True, cwd='/')
    assert done.returncode == 0, done.stderr
    assert 'usage: ' in done.stdout
