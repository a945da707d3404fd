import sys

import gradmod  # noqa: F401  before Theano and Lasagne, as users are told to

import lasagne
import numpy as np
import pytest

from . import models

# What executes the notebook is not required before Python 3.8; see setup.py.
collect_ignore = ['test_notebook.py'] if sys.version_info < (3, 8) else []


@pytest.hookimpl(tryfirst=True)  # before fixtures, of modules too
def pytest_runtest_setup(item):
    # The same initial weights in every run: by chance all units may be dead.
    lasagne.random.set_rng(np.random.RandomState(0))


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
