"""A residual network for CIFAR-10, which other examples look at.

Its weights are the .npz file of the ResNet-32 (n = 5) of the Lasagne Recipes,
papers/deep_residual_learning.
"""
import sys
import textwrap

import gradmod  # first: it makes Theano and Lasagne importable
import lasagne
import numpy as np
import theano.tensor as T
from lasagne.layers import (Conv2DLayer, DenseLayer, ElemwiseSumLayer,
                            GlobalPoolLayer, InputLayer, Layer,
                            NonlinearityLayer)
from lasagne.nonlinearities import rectify, softmax

MEAN = np.reshape([0.4914, 0.4822, 0.4465], (3, 1, 1))  # of CIFAR-10
PHOTOGRAPHS = ('chelsea', 'horse', 'stereo_motorcycle', 'rocket', 'astronaut',
               'coffee')  # in scikit-image itself, with nothing to download


class BatchNorm(Layer):
    """Batch normalization with stored statistics (Lasagne 0.1 has none)."""

    def __init__(self, incoming):
        super().__init__(incoming)
        for name in 'beta', 'gamma', 'mean', 'inv_std':
            setattr(self, name, self.add_param(
                lasagne.init.Constant(0), self.input_shape[1:2], name))

    def get_output_for(self, x, **kwargs):
        beta, gamma, mean, inv_std = (
            p.dimshuffle('x', 0, 'x', 'x')
            for p in (self.beta, self.gamma, self.mean, self.inv_std))
        return (x - mean) * (gamma * inv_std) + beta


class Shortcut(Layer):
    """Every other pixel, and zeros around as many channels (option A)."""

    def get_output_shape_for(self, shape):
        n, channels, height, width = shape
        return n, 2 * channels, height // 2, width // 2

    def get_output_for(self, x, **kwargs):
        x = x[:, :, ::2, ::2]
        zeros = T.zeros_like(x[:, ::2])
        return T.concatenate([zeros, x, zeros], axis=1)


def convolution(net, filters, stride=1):
    return BatchNorm(Conv2DLayer(net, filters, 3, stride, pad='same',
                                 b=None, nonlinearity=None))


def build_network(n=5):
    """The CIFAR-10 network of 6 n + 2 layers by He et al. (2015).

    Layers are added in the order that the Lasagne Recipes have them in, which
    is the order of the weights in a file.
    """
    net = InputLayer((None, 3, 32, 32))
    net = NonlinearityLayer(convolution(net, 16), rectify)
    for filters in 16, 32, 64:
        for block in range(n):
            smaller = filters > 16 and block == 0
            branch = convolution(net, filters, stride=2 if smaller else 1)
            branch = convolution(NonlinearityLayer(branch, rectify), filters)
            shortcut = Shortcut(net) if smaller else net
            net = ElemwiseSumLayer([branch, shortcut])
            net = NonlinearityLayer(net, rectify)
    net.name = 'features'
    logits = DenseLayer(GlobalPoolLayer(net), 10, nonlinearity=None)
    return NonlinearityLayer(logits, softmax)


def load_weights(network, path):
    """Fill `network` from an .npz file, if each array in it is as expected."""
    params = lasagne.layers.get_all_params(network)
    names = ['arr_%d' % i for i in range(len(params))]
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # what numpy raises depends on the file
        sys.exit('%s: expected an .npz file of arrays (%s)' % (path, error))
    if set(arrays) != set(names):
        sys.exit('%s: expected the %d arrays of a ResNet-32, %s to %s, got %d: '
                 '%s' % (path, len(names), names[0], names[-1], len(arrays),
                         textwrap.shorten(', '.join(sorted(arrays)), 60)))
    for name, param in zip(names, params):
        expected, got = param.get_value().shape, arrays[name]
        if expected != got.shape or got.dtype.kind != 'f':
            sys.exit('%s: expected %s, which is a %s, to be floats of shape '
                     '%s, got %s of shape %s' %
                     (path, name, param.name, expected, got.dtype, got.shape))
    for name, param in zip(names, params):
        value = arrays[name].astype('float32')
        if value.ndim == 4:  # made for correlation, and Conv2DLayer convolves
            value = value[:, :, ::-1, ::-1]
        param.set_value(value)
