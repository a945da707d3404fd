import itertools

import numpy as np
import pytest
import theano
import theano.tensor as T

from gradmod import DeconvNet, GuidedBackprop
from gradmod.rules import guided_rectifier, rectifier

from . import graphs
from .. import reference

RULES = [(GuidedBackprop, reference.guided), (DeconvNet, reference.deconv)]


def special_values(dtype):
    """All pairs (z, g) of every sign, zero, huge, infinite and NaN."""
    info = np.finfo(dtype)
    values = [-np.inf, info.min, -1.5, -info.tiny, -0., 0., info.tiny, 1.5,
              info.max, np.inf, np.nan]
    return np.array(list(itertools.product(values, values)), dtype).T


# GpuElemwise computes on float16 in float32, which needs no extension.
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
@pytest.mark.parametrize('rule, expected', RULES)
def test_values_in_all_quadrants(rule, expected, dtype):
    z, g = T.vector('z', dtype), T.vector('g', dtype)
    y = rule(lambda z: z)(z)
    gradient = theano.grad(None, z, known_grads={y: g})
    assert gradient.dtype == dtype
    f = theano.function([z, g], gradient, on_unused_input='ignore')
    graphs.assert_free(f)
    Z, G = special_values(dtype)
    got = f(Z, G)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, reference.elementwise(expected, Z, G))


def test_strided_and_broadcast_arrays():
    z, g = T.matrices('zg')
    strided = g.T, z[:, ::-2]
    repeated = g.T, z[:, 0].dimshuffle(0, 'x')
    f = theano.function([z, g], [guided_rectifier(*strided),
                                 guided_rectifier(*repeated),
                                 rectifier(strided[1])])
    graphs.assert_free(f)
    rng = np.random.RandomState(0)
    Z, G = rng.randn(4, 6).astype('f'), rng.randn(3, 4).astype('f')
    wanted = (reference.elementwise(reference.guided, Z[:, ::-2], G.T),
              reference.elementwise(reference.guided, Z[:, :1], G.T),
              np.maximum(Z[:, ::-2], 0))
    for got, want in zip(f(Z, G), wanted):
        np.testing.assert_array_equal(got, want)
