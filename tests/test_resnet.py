"""The ResNet-32 of the benchmarks against its restatement in numpy.

The pretrained weights are not part of the project: GRADMOD_CIFAR_WEIGHTS is
the path of cifar_model_n5.npz. Without them the weights are random.
"""
import os

import numpy as np
import pytest
import theano
import theano.tensor as T

import gradmod
from gradmod import GuidedBackprop

from . import reference
from .benchmarks.cost import resnet
from .benchmarks.peers import made_up_arrays
from .test_op import is_opaque

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def weights(tmpdir_factory):
    """The path of an archive of weights."""
    path = os.environ.get('GRADMOD_CIFAR_WEIGHTS')
    if not path:
        path = str(tmpdir_factory.mktemp('weights').join('weights.npz'))
        np.savez(path, *made_up_arrays())
    return path


# In numpy. Each function also returns one from the gradient with respect to
# its result to that with respect to `h`.

def windows(h):
    """What each of the nine weights of a 3 x 3 window is multiplied by."""
    rows, columns = h.shape[2:]
    h = np.pad(h, [(0, 0), (0, 0), (1, 1), (1, 1)], 'constant')
    return [h[:, :, i:i + rows, j:j + columns]
            for i in range(3) for j in range(3)]


def convolution(h, arrays, stride=1):
    W, beta, gamma, mean, inv_std = [arrays.pop(0) for _ in range(5)]
    W = W.reshape(W.shape[:2] + (9,))
    beta, scale, mean = [v[:, None, None]
                         for v in (beta, gamma * inv_std, mean)]
    full = sum(np.einsum('nchw,oc->nohw', window, W[:, :, k])
               for k, window in enumerate(windows(h)))

    def back(g):
        wide = np.zeros(full.shape)
        wide[:, :, ::stride, ::stride] = g * scale
        return sum(np.einsum('nohw,oc->nchw', window, W[:, :, 8 - k])
                   for k, window in enumerate(windows(wide)))
    return (full[:, :, ::stride, ::stride] - mean) * scale + beta, back


def narrow(h):
    quarter = h[:, :, ::2, ::2]
    zeros = np.zeros_like(quarter[:, ::2])

    def back(g):
        wide, n = np.zeros(h.shape), zeros.shape[1]
        wide[:, :, ::2, ::2] = g[:, n:-n]
        return wide
    return np.concatenate([zeros, quarter, zeros], axis=1), back


def block(h, arrays, rule, smaller):
    """Two convolutions beside a shortcut."""
    inner, back_1 = convolution(h, arrays, 2 if smaller else 1)
    outer, back_2 = convolution(reference.relu(inner), arrays)
    short, back_short = narrow(h) if smaller else (h, lambda g: g)

    def back(g):
        g = reference.elementwise(rule, outer + short, g)
        return back_short(g) + back_1(
            reference.elementwise(rule, inner, back_2(g)))
    return reference.relu(outer + short), back


def restated(x, arrays, rule):
    """The gradient of the sum of the maximal logits."""
    z, back = convolution(x, arrays)
    backs = [back, lambda g: reference.elementwise(rule, z, g)]
    h = reference.relu(z)
    for i in range(15):
        h, back = block(h, arrays, rule, smaller=i in (5, 10))
        backs.append(back)
    W, b = arrays
    best = (h.mean(axis=(2, 3)).dot(W) + b).argmax(axis=1)
    g = (W[:, best].T / h[0, 0].size)[:, :, None, None] + np.zeros(h.shape)
    for back in reversed(backs):
        g = back(g)
    return g


@pytest.mark.parametrize('dtype, tolerance', [('float64', 1e-12),
                                              ('float32', 2e-6)])
def test_expanded_opaque_afterwards_and_restated_agree(
        weights, dtype, tolerance):
    rng = np.random.RandomState(0)
    images = rng.rand(2, 3, 8, 8).repeat(4, 2).repeat(4, 3) - .5
    with np.load(weights) as archive:
        arrays = [archive[f'arr_{i}'].astype('float64')
                  for i in range(len(archive.files))]
    want = restated(images, arrays, reference.guided)
    assert np.abs(want).max() > 1e-3
    for how in 'expanded', 'opaque', 'afterwards':
        x, mode = T.tensor4('x', dtype), theano.compile.get_default_mode()
        if how == 'opaque':
            mode = mode.excluding('expand_gradient_override')
        relu = GuidedBackprop(T.nnet.relu)
        logits = resnet(x, 5, T.nnet.relu if how == 'afterwards' else relu,
                        rng, weights)
        if how == 'afterwards':
            logits, report = gradmod.override_in(logits, GuidedBackprop)
            assert len(report) == 31
        f = theano.function(
            [x], theano.grad(logits.max(axis=1).sum(), x), mode=mode)
        assert is_opaque(f) == (how == 'opaque')
        got = f(images.astype(dtype))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=0,
                                   atol=tolerance * np.abs(want).max())
