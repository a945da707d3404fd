"""A small convolutional network, the same in every process.

``python -m tests.device.convnet FILE`` writes what `results` returns to FILE.
"""
import pickle
import sys

import gradmod
from gradmod import lrp

import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import (Conv2DLayer, DenseLayer, ElemwiseSumLayer,
                            InputLayer, MaxPool2DLayer, NonlinearityLayer)

relu = lasagne.nonlinearities.rectify
RULES = ['GuidedBackprop', 'DeconvNet', 'ZeroBackprop']
MAPS = {  # the rule, the method, its options
    'EpsilonPlus': (lrp.EpsilonPlus(), 'relevance', {}),
    'smoothgrad': (gradmod.GuidedBackprop, 'smoothgrad', {'samples': 5}),
    'integrated_gradients': (None, 'integrated_gradients', {'steps': 5}),
}
SHAPE = (4, 3, 12, 12)


def shared(value, context=None):
    target = {'target': context} if context else {}  # the host has no targets
    return theano.shared(value.astype('float32'), **target)


def correlate(input, W, input_shape=None, filter_shape=None, image_shape=None,
              filter_flip=True, **kwargs):
    """A convolution that does not turn its filters around.

    Lasagne 0.1 calls the input's shape `image_shape`.
    """
    return T.nnet.conv2d(input, W, input_shape or image_shape, filter_shape,
                         filter_flip=False, **kwargs)


def network(a, b, context=None):
    """Two branches and a sum, max-pooling and two dense layers.

    The rectifier `b` is in one of the branches, `a` everywhere else. Pooling
    comes before its rectifier: over windows of zeros cuDNN and Theano differ.

    On another context than the default the convolutions, and the filters with
    them, are turned around: Theano moves the gradient of the usual ones to the
    default context, and then fails.
    """
    rng = np.random.RandomState(0)

    def share(value):
        return shared(value, context)

    def dense(inputs, units):
        return {'W': share(rng.randn(inputs, units) * np.sqrt(2. / inputs)),
                'b': share(rng.randn(units) * .1)}

    def filters(number, channels):
        W = rng.randn(number, channels, 3, 3) / np.sqrt(4.5 * channels)
        b = share(rng.randn(number) * .1)
        if context:
            return {'W': share(W[:, :, ::-1, ::-1]), 'b': b,
                    'convolution': correlate}
        return {'W': share(W), 'b': b}

    first = Conv2DLayer(InputLayer(SHAPE), 8, 3, nonlinearity=a,
                        **filters(8, 3))
    left = Conv2DLayer(first, 6, 3, nonlinearity=b, **filters(6, 8))
    right = Conv2DLayer(first, 6, 3, nonlinearity=None, **filters(6, 8))
    net = MaxPool2DLayer(ElemwiseSumLayer([left, right]), 2)
    net = NonlinearityLayer(net, a)
    net = DenseLayer(net, 16, nonlinearity=a, **dense(96, 16))
    return DenseLayer(net, 5, nonlinearity=None, **dense(16, 5))


def rectifiers(name):
    """The rectifiers of a network for a rule's name, or None."""
    if name is None:
        return relu, relu
    rule = getattr(gradmod, name)(relu)
    # on all paths, ZeroBackprop would leave nothing to compare
    return (relu if name == 'ZeroBackprop' else rule), rule


def saliency(net, context=None):
    """A function that returns the output and the gradient of one class."""
    x = T.tensor4('x')
    out = lasagne.layers.get_output(net, x, deterministic=True)
    return theano.function([x], [out, gradient(out, x, context)])


def gradient(out, x, context=None):
    # a gradient that is a constant, Theano would put on the default context
    select = shared(np.arange(5) == np.full((len(images()), 1), 2), context)
    return theano.grad((out * select).sum(), x)


def images():
    return np.random.RandomState(1).randn(*SHAPE).astype('float32')


def maps(name, mode=None):
    """A function that returns the maps of one class by a row of MAPS."""
    rule, method, options = MAPS[name]
    return gradmod.compile_saliency_function(
        network(relu, relu), rule, 2, method, mode=mode, **options)


def results():
    """What the functions return, by the rule's name; 'None' is plain."""
    found = {str(name): saliency(network(*rectifiers(name)))(images())
             for name in [None] + RULES}
    found.update((name, maps(name)(images())) for name in MAPS)
    return found


if __name__ == '__main__':
    assert theano.config.device == 'cpu'
    with open(sys.argv[1], 'wb') as f:
        pickle.dump(results(), f)
