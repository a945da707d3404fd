"""Random networks of mixed rules: with the op expanded, and with it whole.

A few are drawn here. For a longer run:

    GRADMOD_RANDOM_NETWORKS=1000 python -m pytest tests/test_random_networks.py
"""
import os

import numpy as np
import theano
import theano.tensor as T
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradmod

from .test_op import is_opaque

EXPANDED = theano.Mode(linker='py', optimizer='fast_run')
WHOLE = theano.Mode(linker='py', optimizer=None)
EXAMPLES = int(os.environ.get('GRADMOD_RANDOM_NETWORKS', 15))


def relu(z):
    return T.maximum(z, 0)


def leaky(z):
    return T.switch(z > 0, z, .1 * z)


def twice(inputs, out_grads, true_grads):
    return [2 * true_grads[0]]


def nested(z):
    return gradmod.DeconvNet(T.tanh)(z) + z


NONLINEARITIES = {
    'plain relu': lambda: relu,
    'plain tanh': lambda: T.tanh,
    'guided': lambda: gradmod.GuidedBackprop(relu),
    'deconv': lambda: gradmod.DeconvNet(relu),
    'zero': lambda: gradmod.ZeroBackprop(T.tanh),
    'guided leaky': lambda: gradmod.GuidedGradient(leaky),
    'through': lambda: gradmod.BackpropThrough(T.tanh),
    'scaled': lambda: gradmod.ScaleGradient(leaky, factor=-.5),
    'true gradient': lambda: gradmod.override_gradient(T.tanh, twice),
    'nested': lambda: gradmod.GuidedBackprop(nested)}
layers = st.tuples(st.sampled_from(sorted(NONLINEARITIES)),
                   st.integers(1, 5),                      # units
                   st.sampled_from(['dense', 'elementwise', 'residual']))


@settings(max_examples=EXAMPLES, deadline=None,
          suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(layers, min_size=1, max_size=6),
       st.sampled_from(['float32', 'float64']), st.integers(1, 3),
       st.integers(0, 2 ** 32 - 1))
def test_expanded_and_whole_agree(layers, dtype, batch, seed):
    rng = np.random.RandomState(seed)
    rules = {name: make() for name, make in NONLINEARITIES.items()}
    x = h = T.matrix('x', dtype)
    n = 4

    def draw(*shape):
        return theano.shared((rng.randn(*shape) / shape[0] ** .5).astype(dtype))
    weights = []
    for name, units, kind in layers:
        if kind == 'dense':
            W, n = draw(n, units), units
            z = T.dot(h, W) + draw(units)
        else:
            W = draw(n)
            z = h * W + draw(n)
        y = rules[name](z)
        h = h + y if kind == 'residual' else y
        weights.append(W)
    last = (h * draw(n)).sum()
    outputs = [h] + theano.grad(last, [x] + weights)
    expanded, whole = [theano.function([x], outputs, mode=mode)
                       for mode in (EXPANDED, WHOLE)]
    assert not is_opaque(expanded)
    assert is_opaque(whole) == any(
        not name.startswith('plain') for name, _, _ in layers)
    value = rng.randn(batch, 4).astype(dtype)
    tolerance = 1e-4 if dtype == 'float32' else 1e-12
    for got, want in zip(expanded(value), whole(value)):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance,
                                   atol=tolerance * max(1, np.abs(want).max()))
