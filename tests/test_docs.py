"""Every example in the documentation runs."""
import doctest
import importlib
import os
import pkgutil
import re

import pytest

import gradmod

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = ['gradmod.' + m.name for m in pkgutil.iter_modules(gradmod.__path__)]
FOR_USERS = {'gradmod.' + name for name in (
    'base', 'check', 'expression', 'lrp', 'methods', 'network', 'pattern',
    'plot', 'rules', 'saliency', 'sanity')}
linkers = pytest.mark.parametrize('linker', [
    'py', pytest.param('c', marks=pytest.mark.slow)])
pytestmark = pytest.mark.usefixtures('no_compiler')


def text(*path):
    with open(os.path.join(ROOT, *path), encoding='utf-8') as f:
        return f.read()


@linkers
@pytest.mark.parametrize('name', [m for m in MODULES if m != 'gradmod.__main__'])
def test_docstrings(name, linker):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert not failed and (attempted or name not in FOR_USERS)


@linkers
def test_readme(linker, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', text('README.md'), re.DOTALL)
    assert len(blocks) >= 8
    namespace = {}
    for block in blocks:  # one after the other, as a reader would
        exec(block, namespace)
    out = capsys.readouterr().out
    assert '(3, 10)' in out and '#2 DenseLayer  nonlinearity  rectify' in out
    assert 'Leak(relu): its grad is used by theano.grad' in out
    assert 'cosine to the map of another class' in out


def test_the_map_of_the_source_has_every_file():
    contributing = text('.github', 'CONTRIBUTING.md')
    for name in MODULES:
        assert f'`{name.replace(".", "/")}.py`' in contributing


@pytest.mark.parametrize('path', [
    'README.md', '.github/CONTRIBUTING.md', 'tests/benchmarks/README.md',
    'tests/clients/README.md', 'tests/device/README.md',
    'tests/mutation/README.md'])
def test_no_link_leads_nowhere(path):
    for target in re.findall(r'\]\((?!http|#)([^)]+)\)', text(path)):
        there = os.path.join(ROOT, os.path.dirname(path), target)
        assert os.path.exists(there), target
