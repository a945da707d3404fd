import importlib.util
import os
import subprocess
import sys

theano_folder = os.path.dirname(importlib.util.find_spec('theano').origin)
dot = '.' if os.path.exists(os.path.join(theano_folder, 'gof')) else '__'
# g++ need not try hard, unless the user's flags, which win, say so. A process of
# pytest-xdist has a folder of its own for what is compiled, as that is locked.
os.environ['THEANO_FLAGS'] = ','.join([
    f'gcc{dot}cxxflags=-O0', os.environ.get('THEANO_FLAGS', ''),
    'compiledir_format=tests_%(short_platform)s_%(processor)s_'
    '%(python_version)s_' + os.environ.get('PYTEST_XDIST_WORKER', 'main')])

import gradmod  # noqa: F401  before Theano and Lasagne, as users are told to

import lasagne
import numpy as np
import pytest
import theano

from gradmod._theano import change_flags

from . import internals, models

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What executes the notebook is not required before Python 3.8; see setup.py.
collect_ignore = ['test_notebook.py'] if sys.version_info < (3, 8) else []


@pytest.hookimpl(tryfirst=True)  # before fixtures, of modules too
def pytest_runtest_setup(item):
    # The same numbers whichever tests ran before: by chance all units may be
    # dead.
    lasagne.random.set_rng(np.random.RandomState(0))
    for value in list(vars(item.module).values()):
        if isinstance(value, np.random.RandomState):
            value.seed(0)


def pytest_configure(config):
    # Theano and Lasagne are older than the numpy and the Python under them.
    for module in ('theano', 'lasagne', 'pkg_resources'):
        config.addinivalue_line('filterwarnings',
                                'ignore::DeprecationWarning:%s' % module)
    config.addinivalue_line('filterwarnings',
                            'ignore:.*pkg_resources.*:UserWarning')


@pytest.fixture
def no_compiler(request, monkeypatch):
    """Nothing takes g++, but in slow tests, not even what asks for C by a mode."""
    if request.node.get_closest_marker('slow'):
        yield
        return
    mode = theano.Mode('py', 'fast_compile')
    monkeypatch.setattr(theano.compile.mode, 'instantiated_default_mode', mode)
    with change_flags(cxx=''):
        yield


@pytest.fixture
def little_c_code(monkeypatch):
    internals.little_c_code(monkeypatch)


@pytest.fixture
def start(tmp_path):
    """Run Python elsewhere, without settings; return status, output, errors."""
    def run(*arguments, flags='', **settings):
        env = {name: value for name, value in os.environ.items()
               if not name.startswith('THEANO')}
        env.update(dict(HOME=str(tmp_path), USERPROFILE=str(tmp_path),
                        PYTHONPATH=ROOT), **settings)
        if flags:
            env['THEANO_FLAGS'] = flags
        process = subprocess.run(
            (sys.executable,) + arguments, cwd=str(tmp_path), env=env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True)
        return process.returncode, process.stdout, process.stderr
    return run


# The network of `models`, its plain gradient and its weights.

@pytest.fixture(scope='module')
def net():
    return models.mlp()[0]


@pytest.fixture(scope='module')
def plain(net):
    return models.compiled(net)


@pytest.fixture(scope='module')
def weights(net):
    values = lasagne.layers.get_all_param_values(net)
    return list(zip(values[::2], values[1::2]))
