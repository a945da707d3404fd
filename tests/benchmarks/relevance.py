"""Relevance here and with zennit on PyTorch, side by side, on SqueezeNet.

The same network, weights and photographs in processes of their own, one thread
each, which compute in turns, never at once. Checks that the relevance agrees,
then prints times, memory, and the ratios, whichever way they fall. PyTorch and
zennit may live in an environment of their own:

    python -m venv peer && peer/bin/pip install torch zennit "numpy<2"
    python tests/benchmarks/relevance.py --torch-python peer/bin/python

Without one, what is measured here is printed alone.
"""
import contextlib
import os
import sys
import time
from functools import partial

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
WAYS = ['gradient', 'EpsilonPlus', 'EpsilonAlpha2Beta1']
FIRES = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192),
         (64, 256), (64, 256)]


def shapes():
    """Those of the weights of the 26 convolutions, in order."""
    yield 96, 3, 7, 7
    channels = 96
    for squeeze, expand in FIRES:
        yield squeeze, channels, 1, 1
        yield expand, squeeze, 1, 1
        yield expand, squeeze, 3, 3
        channels = 2 * expand
    yield 1000, 512, 1, 1


def arrays(path=None):
    """Weights and biases in turn: of the compressed model, or made up."""
    if path is None:
        rng = np.random.RandomState(0)
        for shape in shapes():
            yield rng.randn(*shape) * (2. / np.prod(shape[1:])) ** .5
            yield rng.randn(shape[0]) * .1
        return
    sys.path.append(os.path.join(HERE, '..', '..', 'examples'))
    from imagenet import decode  # which needs gradmod
    with open(path, 'rb') as file:
        data = file.read()
    for W, b in decode(data, list(shapes())):
        yield W
        yield b


def photographs():
    """Two that come with scikit-image, 227 x 227 BGR; noise without it."""
    try:
        import skimage.data
        from PIL import Image
    except ImportError:
        return np.random.RandomState(1).rand(2, 3, 227, 227) * 255 - 115
    images = []
    for image in skimage.data.chelsea(), skimage.data.coffee():
        side = min(image.shape[:2])
        top, left = [(n - side) // 2 for n in image.shape[:2]]
        square = Image.fromarray(image[top:top + side, left:left + side])
        pixels = np.asarray(square.resize((227, 227), Image.BICUBIC), float)
        images.append(pixels[:, :, ::-1] - (104, 117, 123))
    return np.moveaxis(images, 3, 1)


def lasagne_network(x, values, dtype='float32'):
    """SqueezeNet 1.0, up to the logits; `values` as `arrays` yields them."""
    from lasagne.layers import (ConcatLayer, Conv2DLayer, GlobalPoolLayer,
                                InputLayer, MaxPool2DLayer)
    values = iter(values)

    def convolution(net, size, **kwargs):
        W = next(values)[:, :, ::-1, ::-1].astype(dtype)  # not flipped there
        return Conv2DLayer(net, len(W), size, W=W,
                           b=next(values).astype(dtype), **kwargs)

    def pool(net):
        return MaxPool2DLayer(net, 3, 2, ignore_border=False)
    net = pool(convolution(InputLayer((None, 3, 227, 227), x), 7, stride=2))
    for number in range(2, 10):
        net = convolution(net, 1)
        net = ConcatLayer([convolution(net, 1), convolution(net, 3, pad=1)])
        if number in (4, 8):
            net = pool(net)
    return GlobalPoolLayer(convolution(net, 1))


def torch_network(values):
    import torch
    from torch import nn
    values = iter(values)

    def convolution(*args, **kwargs):
        layer = nn.Conv2d(*args, **kwargs)
        for parameter in layer.weight, layer.bias:
            parameter.data = torch.tensor(next(values))
        return nn.Sequential(layer, nn.ReLU())

    class Parallel(nn.ModuleList):
        def forward(self, h):
            return torch.cat([layer(h) for layer in self], 1)

    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)
    layers, channels = [convolution(3, 96, 7, stride=2), pool()], 96
    for number, (squeeze, expand) in enumerate(FIRES, 2):
        layers += [convolution(channels, squeeze, 1), Parallel([
            convolution(squeeze, expand, 1),
            convolution(squeeze, expand, 3, padding=1)])]
        channels = 2 * expand
        if number in (4, 8):
            layers.append(pool())
    network = nn.Sequential(*layers, convolution(512, 1000, 1),
                            nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return network.requires_grad_(False)


# In the children: a function of nothing, and what it took to make it.

TARGETS = np.int32([285, 967])  # the cat and the cup


def function_here(way, weights, images):
    import gradmod  # before Theano
    import lasagne
    import theano
    import theano.tensor as T
    from gradmod import lrp
    from sides import load
    x = T.tensor4('x', 'float32')
    network = lasagne_network(x, load(weights))
    start = time.perf_counter()
    with (contextlib.ExitStack() if way == 'gradient' else
          gradmod.modified(network, getattr(lrp, way)())):
        logits = lasagne.layers.get_output(network, deterministic=True)
    score = logits[[0, 1], TARGETS]
    seed = T.set_subtensor(
        T.zeros_like(logits)[[0, 1], TARGETS],
        T.ones_like(score) if way == 'gradient' else score)
    function = theano.function(
        [x], theano.grad(None, x, known_grads={logits: seed}))
    return partial(function, images), time.perf_counter() - start


def import_zennit():
    """It imports torchvision, whose library may be made for other hardware."""
    try:
        import zennit.composites
    except RuntimeError:
        from unittest import mock
        for name in list(sys.modules):
            if name.startswith('zennit'):
                del sys.modules[name]
        for name in '', '.models', '.models.resnet', '.models.vgg':
            sys.modules['torchvision' + name] = mock.MagicMock()
        import zennit.composites
    return zennit


def function_there(way, weights, images):
    import torch
    from sides import load
    torch.set_num_threads(1)
    zennit = import_zennit()
    network = torch_network(load(weights))

    def function():
        with (contextlib.ExitStack() if way == 'gradient' else
              getattr(zennit.composites, way)().context(network)):
            x = torch.tensor(images, requires_grad=True)
            logits = network(x)
            at, seed = ([0, 1], TARGETS), torch.zeros_like(logits)
            seed[at] = 1. if way == 'gradient' else logits[at].detach()
            return torch.autograd.grad(logits, x, seed)[0].numpy()
    return function, 0


def main():
    import sides
    args = sides.parsed(
        sides.options(__doc__, 'zennit', 'compressed_SqueezeNet.net', 10),
        here=function_here, there=function_there)
    print(f'SqueezeNet, 2 photographs, one thread, {args.rounds} rounds\n')
    sides.compare(__file__, args, WAYS, arrays(args.weights), photographs())


if __name__ == '__main__':
    main()
