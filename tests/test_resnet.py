"""The pretrained ResNet-32 against its restatement in numpy.

Its weights are not part of the project: set GRADMOD_CIFAR_WEIGHTS to the path
of cifar_model_n5.npz.
"""
import os

import numpy as np
import pytest
import theano
import theano.tensor as T

from gradmod import GuidedBackprop
from gradmod.op import GradientOverrideOp

from . import reference

WEIGHTS = os.environ.get('GRADMOD_CIFAR_WEIGHTS')
pytestmark = pytest.mark.skipif(
    not WEIGHTS, reason='needs the weights of the CIFAR-10 ResNet-32: set '
    'GRADMOD_CIFAR_WEIGHTS to their path')


def network(x, arrays, conv, relu, shortcut, head):
    """The logits, in terms of what a convolution and so on are.

    Blocks of two convolutions, 3 x 5 of them; ``conv(h, arrays, stride)`` takes
    its five arrays off the list's front.
    """
    h = relu(conv(x, arrays, 1))
    for stage in range(3):
        for block in range(5):
            wider = stage > 0 and block == 0
            inner = relu(conv(h, arrays, 2 if wider else 1))
            inner = conv(inner, arrays, 1)
            h = relu(inner + (shortcut(h) if wider else h))
    return head(h, arrays)


def load(dtype):
    with np.load(WEIGHTS) as archive:
        return [archive['arr_%d' % i].astype(dtype)
                for i in range(len(archive.files))]


# In Theano

def gradient(f, dtype, mode=None):
    """A function of images: the gradient of the sum of the maximal logits."""
    def conv(h, arrays, stride):
        W, beta, gamma, mean, inv_std = [
            theano.shared(arrays.pop(0)) for _ in range(5)]
        h = T.nnet.conv2d(h, W, border_mode='half', filter_flip=False,
                          subsample=(stride, stride))
        beta, scale, mean = [v.dimshuffle('x', 0, 'x', 'x')
                             for v in (beta, gamma * inv_std, mean)]
        return (h - mean) * scale + beta

    def shortcut(h):
        h = h[:, :, ::2, ::2]
        zeros = T.zeros_like(h[:, ::2])
        return T.concatenate([zeros, h, zeros], axis=1)

    def head(h, arrays):
        return T.dot(h.mean(axis=(2, 3)), arrays[0]) + arrays[1]
    x = T.tensor4('x', dtype)
    logits = network(x, load(dtype), conv, f, shortcut, head)
    return theano.function([x], theano.grad(logits.max(axis=1).sum(), x),
                           mode=mode)


# In numpy, as a list of what to do on the way back

def restated(x, rule):
    tape = []

    def shifted(h):  # the nine views that a 3 x 3 window has of an image
        padded = np.pad(h, [(0, 0), (0, 0), (1, 1), (1, 1)], 'constant')
        rows, columns = h.shape[2:]
        return [padded[:, :, i:i + rows, j:j + columns]
                for i in range(3) for j in range(3)]

    def conv(h, arrays, stride):
        W, beta, gamma, mean, inv_std = [arrays.pop(0) for _ in range(5)]
        scale = (gamma * inv_std)[:, None, None]
        W9 = W.reshape(W.shape[:2] + (9,))
        full = sum(np.einsum('nchw,oc->nohw', view, W9[:, :, k])
                   for k, view in enumerate(shifted(h)))
        out = ((full[:, :, ::stride, ::stride] - mean[:, None, None]) * scale +
               beta[:, None, None])

        def back(g):
            wide = np.zeros(full.shape)
            wide[:, :, ::stride, ::stride] = g * scale
            return sum(np.einsum('nohw,oc->nchw', view, W9[:, :, 8 - k])
                       for k, view in enumerate(shifted(wide)))
        return Value(out, [(h, back)])

    def shortcut(h):
        quarter = h[:, :, ::2, ::2]
        zeros, n = np.zeros_like(quarter[:, ::2]), quarter.shape[1] // 2

        def back(g):
            wide = np.zeros(h.shape)
            wide[:, :, ::2, ::2] = g[:, n:3 * n]
            return wide
        return Value(np.concatenate([zeros, quarter, zeros], axis=1),
                     [(h, back)])

    def relu(z):
        return Value(reference.relu(np.asarray(z)),
                     [(z, lambda g: fast(rule, np.asarray(z), g))])

    def head(h, arrays):
        W, b = arrays
        logits = np.asarray(h).mean(axis=(2, 3)).dot(W) + b
        best = W[:, logits.argmax(axis=1)].T / h[0, 0].size
        return h, np.broadcast_to(best[:, :, None, None], h.shape)

    class Value(np.ndarray):
        """An array that knows what it was made from."""

        def __new__(cls, array, made_from):
            value = np.asarray(array).view(cls)
            value.made_from = made_from
            tape.append(value)
            return value

        def __add__(self, other):
            if not isinstance(other, Value):
                return np.asarray(self) + other
            return Value(np.asarray(self) + np.asarray(other),
                         [(self, lambda g: g), (other, lambda g: g)])
    start = Value(x, [])
    last, g = network(start, load('float64'), conv, relu, shortcut, head)
    gradients = {id(last): g}
    for value in reversed(tape):
        g = gradients.pop(id(value))
        for origin, back in value.made_from:
            gradients[id(origin)] = gradients.get(id(origin), 0) + back(g)
        if value is start:
            return g


def fast(rule, z, g):
    """`reference.elementwise`, for what is neither zero nor NaN."""
    signs = [(rule(a, b) / b, (z > 0) == (a > 0), (g > 0) == (b > 0))
             for a in (-1., 1.) for b in (-1., 1.)]
    return sum(np.where(sz & sg, factor * g, 0) for factor, sz, sg in signs)


def images(n):
    rng = np.random.RandomState(0)
    return rng.rand(n, 3, 8, 8).repeat(4, 2).repeat(4, 3) - .5


@pytest.mark.parametrize('dtype, tolerance', [('float64', 1e-12),
                                              ('float32', 2e-6)])
def test_expanded_opaque_and_restated_agree(dtype, tolerance):
    x = images(2)
    expanded = gradient(GuidedBackprop(T.nnet.relu), dtype)
    opaque = gradient(GuidedBackprop(T.nnet.relu), dtype,
                      theano.compile.get_default_mode().excluding(
                          'expand_gradient_override'))
    for f, whole in (expanded, False), (opaque, True):
        assert whole == any(isinstance(n.op, GradientOverrideOp)
                            for n in f.maker.fgraph.apply_nodes)
    want = restated(x, reference.guided)
    assert np.abs(want).max() > 1e-3
    x = x.astype(dtype)
    for got in expanded(x), opaque(x):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=0,
                                   atol=tolerance * np.abs(want).max())
