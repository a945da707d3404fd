"""The time of maps beside that of the bare theano.function of the gradient.

    python tests/benchmarks/methods.py [--rounds N]

One network, one process and thread; rounds go through all in turn, forwards
and backwards, and each ratio is that of medians of processor time.
"""
import time
from functools import partial

import gradmod
import lasagne
import numpy as np
import theano
import theano.tensor as T
from lasagne.layers import (ConcatLayer, Conv2DLayer, DenseLayer, FlattenLayer,
                            InputLayer, MaxPool2DLayer, get_output)

from sides import parser, timings

MAPS = {
    'gradient': {},
    'gradient, guided backprop': dict(rule=gradmod.GuidedBackprop),
    'gradient, reduced': dict(reduce=lambda m: abs(m).max(axis=1)),
    'gradient of conv2': dict(wrt='conv2'),
    'gradient of a unit': dict(target=('conv2', 3, 9, 9)),
    'gradcam': dict(method='gradcam'),
    'gradcam_plus_plus': dict(method='gradcam_plus_plus'),
    'layercam': dict(method='layercam'),
    'guided_gradcam': dict(method='guided_gradcam'),
    'scorecam, 32 channels': dict(method='scorecam'),
    'deeplift': dict(method='deeplift'),
    'integrated_gradients, 10 steps': dict(method='integrated_gradients',
                                           steps=10),
    'smoothgrad, 10 samples': dict(method='smoothgrad', samples=10),
}


def build_network(several=False):
    lasagne.random.set_rng(np.random.RandomState(0))
    net = InputLayer((None, 3, 48, 48), T.ftensor4('images'))
    for name, filters in ('conv1', 16), ('conv2', 32), ('conv3', 32):
        net = Conv2DLayer(net, filters, 3, name=name)
        net = MaxPool2DLayer(net, 2)
    if several:
        net = ConcatLayer([FlattenLayer(net), InputLayer((None, 8), T.fmatrix())])
    net = DenseLayer(net, 64)
    return DenseLayer(net, 10, nonlinearity=lasagne.nonlinearities.softmax)


def bare(network):
    inputs = [v.input_var for v in lasagne.layers.get_all_layers(network)
              if isinstance(v, InputLayer)]
    z = gradmod.logits.logits_of(get_output(network, deterministic=True))
    gradients = theano.grad(z.max(axis=1).sum(), inputs)
    return theano.function(inputs, gradients)


def main():
    parse = parser(__doc__)
    parse.add_argument('--rounds', type=int, default=20)
    args = parse.parse_args()
    images = np.random.RandomState(0).rand(16, 3, 48, 48).astype('float32')
    numbers = images[:, 0, 0, :8]
    one, two = build_network(), build_network(several=True)
    functions = {'bare': partial(bare(one), images)}
    for name, how in MAPS.items():
        f = gradmod.compile_saliency_function(one, **how)
        functions[name] = partial(f, images)
        if name == 'gradient':
            functions['gradient, explain()'] = partial(f.explain, images)
    functions['two inputs, bare'] = partial(bare(two), images, numbers)
    functions['two inputs'] = partial(gradmod.compile_saliency_function(two),
                                      [images, numbers])
    times = timings(functions, args.rounds, time.process_time)
    median = {name: np.median(t) for name, t in times.items()}
    for name, t in times.items():
        base = 'two inputs, bare' if name.startswith('two') else 'bare'
        low, high = np.percentile(t, [25, 75]) / median[base]
        print('%-32s%8.1f ms%8.2f (%.2f to %.2f)' % (
            name, 1e3 * median[name], median[name] / median[base], low, high))


if __name__ == '__main__':
    main()
