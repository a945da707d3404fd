import functools

import numpy as np
import pytest
import theano
import theano.sparse
import theano.tensor as T

from gradmod import GuidedBackprop
from gradmod.errors import (check_count, describe, is_float_tensor, name_of,
                            perhaps)


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


def test_is_float_tensor():
    for type in T.fmatrix, T.dscalar, T.TensorType('float16', (True,)):
        assert is_float_tensor(type())
    for value in (T.imatrix(), T.zmatrix(), np.ones(2), 1., None,
                  theano.sparse.csr_matrix('s', 'float32')):
        assert not is_float_tensor(value)


def test_check_count():
    for value in 1, np.int64(3):
        check_count('samples', value)
    for value in 0, -1, 1., '1', None, np.ones(1):
        with pytest.raises(ValueError, match='expected samples to be a posit'):
            check_count('samples', value)
