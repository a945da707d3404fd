"""Every example in the documentation runs."""
import doctest
import importlib
import io
import os
import pkgutil
import re

import pytest

import gradmod

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = ['gradmod.' + m.name for m in pkgutil.iter_modules(gradmod.__path__)]


@pytest.mark.parametrize('name', [m for m in MODULES if m not in (
    # what users do not call, and so has no examples
    'gradmod.compat', 'gradmod.op', 'gradmod.device', 'gradmod.rectifiers',
    'gradmod.finder', 'gradmod.fix', 'gradmod.doctor', 'gradmod.__main__')])
def test_docstrings(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted and not failed


def test_readme(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with io.open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as f:
        blocks = re.findall(r'```python\n(.*?)```', f.read(), re.DOTALL)
    assert len(blocks) >= 5
    namespace = {}
    for block in blocks:  # one after the other, as a reader would
        exec(block, namespace)
    out = capsys.readouterr().out
    assert '(3, 10)' in out and '[0.  0.5]' in out


def test_readme_maps_every_file():
    with io.open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as f:
        readme = f.read()
    for name in MODULES:
        assert '`%s.py`' % name.replace('.', '/') in readme
    # no link leads nowhere
    for target in re.findall(r'\]\((?!http|#)([^)]+)\)', readme):
        assert os.path.exists(os.path.join(ROOT, target)), target
