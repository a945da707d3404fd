"""Patterns and maps as nn-patterns has them. See the README here.

It needs Lasagne master: what it goes down through pooling by is not in 0.1.
"""
import gradmod  # before Theano and Lasagne

import nn_patterns
import numpy as np
import pytest
import theano
from gradmod.pattern import PatternAttribution, PatternNet, fit_patterns
from lasagne import layers as L
from lasagne.nonlinearities import rectify, softmax, tanh
from nn_patterns.patterns.combined import CombinedPatternComputer

from .. import internals

IMAGES, LARGEST = (3, 16, 16), 1e-10


class Exact(CombinedPatternComputer):
    """It in float64: at the end, its own rounds to float32."""

    def _compute_patterns(self, stats):
        return {kind: [self.shaped(self._compute_A(stats, kind, i), layer)
                       for i, layer in enumerate(self.layers)]
                for kind in ('basic', 'positive_y')}

    def shaped(self, A, layer):
        shape = layer.W.get_value().shape
        return A.T.reshape(shape) if len(shape) == 4 else A


def values(rng, shape):
    fan = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
    return rng.randn(*shape) * (.1 if len(shape) == 1 else (2 / fan) ** .5)


def network(f, rng, **kwargs):
    """Like VGG, but smaller."""
    net = L.InputLayer((None,) + IMAGES)
    for filters in 8, 16:
        for pad in 'same', 'valid':
            net = L.Conv2DLayer(net, filters, 3, pad=pad, nonlinearity=f,
                                **kwargs)
        net = L.MaxPool2DLayer(net, 2)
    for _ in range(2):
        net = L.DropoutLayer(L.DenseLayer(net, 20, nonlinearity=f))
    net = L.DenseLayer(net, 5, nonlinearity=softmax)
    for parameter in L.get_all_params(net):
        parameter.set_value(values(rng, parameter.get_value().shape))
    return net


def close(got, wanted):
    assert got.shape == wanted.shape
    assert abs(got - wanted).max() <= LARGEST * abs(wanted).max() > 0


@pytest.fixture(autouse=True)
def little_c_code(monkeypatch):
    """C code for what most of the time goes to alone."""
    internals.little_c_code(monkeypatch, 'Corr|Pool|Images2Neibs')
    monkeypatch.setattr(theano.config, 'optimizer', 'fast_compile')


@pytest.fixture(autouse=True)
def float64(monkeypatch):  # nn-patterns refuses float32 on a CPU
    monkeypatch.setattr(theano.config, 'floatX', 'float64')


@pytest.mark.parametrize('f, kwargs', [
    (rectify, {}), (rectify, dict(flip_filters=False)), (rectify, dict(b=None)),
    (tanh, {})])
def test_patterns_and_maps(f, kwargs):
    rng = np.random.RandomState(1)
    net, images = network(f, rng, **kwargs), rng.randn(96, *IMAGES) + .5
    theirs = Exact(net).compute_patterns(images, 32)
    rounded = nn_patterns.patterns.compute_patterns(net, images, 32)
    ours = fit_patterns(net, images, batch_size=20)
    layers = [v for v in L.get_all_layers(net) if hasattr(v, 'W')]
    chosen = []
    for i, (a, layer) in enumerate(zip(ours.values(), layers)):
        kind = 'positive_y' if layer.nonlinearity is rectify else 'basic'
        chosen.append(theirs[kind][i])
        np.testing.assert_allclose(rounded[kind]['A'][i], chosen[-1], 1e-6, 1e-30)
        flipped = getattr(layer, 'flip_filters', False)  # theirs correlate
        close(a[:, :, ::-1, ::-1] if flipped else a, chosen[-1])
    if f is tanh:  # which theirs pass as if it were not there
        return
    for name, composite in [('patternnet', PatternNet),
                            ('patternlrp', PatternAttribution)]:
        net.nonlinearity = softmax  # which theirs removes
        function = gradmod.compile_saliency_function(
            net, composite(ours), method='relevance')
        explainer = nn_patterns.create_explainer(
            name, net, patterns=[{'A': chosen}])
        close(function(images[:8]), explainer.explain(images[:8]))
        close(function(images[:8], 2), explainer.explain(images[:8], target=2))
