import functools

import numpy as np
import pytest
import theano.tensor as T

from gradmod import GuidedBackprop
from gradmod.errors import check_count, describe, name_of, perhaps


def test_describe():
    assert describe(T.fmatrix()) == (
        'a variable of type TensorType(float32, matrix)')
    assert describe('relu') == "str ('relu')"
    assert describe(None) == 'NoneType (None)'
    assert len(describe('x' * 1000)) < 80


def test_name_of():
    for function, name in [
            (T.nnet.relu, 'relu'), (T.tanh, 'tanh'), (int, 'int'),
            (GuidedBackprop(T.nnet.relu), 'GuidedBackprop(relu)'),
            (functools.partial(T.nnet.relu, alpha=.1), 'partial')]:
        assert name_of(function) == name


def test_perhaps():
    assert perhaps('conv', ['conv1', 'dense']) == "perhaps you meant 'conv1'"
    assert perhaps(3, ['conv', 'b']) == "there are 'conv', 'b'"
    assert perhaps(3, []) == 'there are none'


def test_check_count():
    for value in 1, np.int64(3):
        check_count('samples', value)
    for value in 0, -1, 1., '1', None, np.ones(1):
        with pytest.raises(ValueError, match='expected samples to be a posit'):
            check_count('samples', value)
