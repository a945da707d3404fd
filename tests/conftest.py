import os
import sys

# For what Theano compiles: g++ need not try hard, and there is a folder for
# each process of pytest-xdist, as it is locked. The user's flags come last,
# and so win.
os.environ['THEANO_FLAGS'] = ','.join([
    'gcc.cxxflags=-O0', 'compiledir_format=tests_%(python_version)s_'
    + os.environ.get('PYTEST_XDIST_WORKER', 'main'),
    os.environ.get('THEANO_FLAGS', '')])

import gradmod  # noqa: F401  before Theano and Lasagne, as users are told to

import lasagne
import numpy as np
import pytest

from . import models

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
