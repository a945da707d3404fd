"""Guided backpropagation here and with Captum on PyTorch, side by side.

The same ResNet-32 for CIFAR-10, weights and batch in processes of one thread
each, which compute in turns, never at once. Checks that the logits, the
gradients and the guided maps agree, then prints the ratios of the times, this
library's over the other's, whichever way they fall. PyTorch and Captum live in
an environment of their own:

    python -m venv peer && peer/bin/pip install torch captum "numpy<2"
    python tests/benchmarks/peers.py --torch-python peer/bin/python

Without one, what is measured here is printed alone.
"""
import sys
import time
import warnings
from functools import partial

import numpy as np

WAYS = ['plain', 'guided', 'logits']


def made_up_arrays():
    """Random weights of the network, in the order of the pretrained ones."""
    rng = np.random.RandomState(0)
    arrays = []

    def convolution(n_in, n_out):
        arrays.append(rng.randn(n_out, n_in, 3, 3) * (2. / 9 / n_in) ** .5)
        arrays.extend(np.full(n_out, v) for v in (0., 1., 0., 1.))
    convolution(3, 16)
    for width, out in [(16, 16), (16, 32), (32, 64)]:
        for block in range(5):
            convolution(width if block == 0 else out, out)
            convolution(out, out)
    return arrays + [rng.randn(64, 10) * .1, np.zeros(10)]


# In the children: a function of nothing, and what it took to compile.

def function_here(way, weights, batch):
    import gradmod  # before Theano
    import theano
    import theano.tensor as T
    from cost import resnet
    x, rectify = T.tensor4('x'), T.nnet.relu
    if way == 'guided':
        rectify = gradmod.GuidedBackprop(rectify)
    y = resnet(x, 5, rectify, np.random.RandomState(0), weights)
    if way != 'logits':
        y = theano.grad(y.max(axis=1).sum(), x)
    start = time.perf_counter()
    return partial(theano.function([x], y), batch), time.perf_counter() - start


def function_there(way, weights, batch):
    import captum
    import torch
    import torch.nn.functional as F
    from captum.attr import GuidedBackprop
    from sides import load
    if way == 'guided':
        print(f'PyTorch {torch.__version__}, Captum {captum.__version__}',
              file=sys.stderr)
    warnings.simplefilter('ignore')  # Captum's, about its hooks
    torch.set_num_threads(1)
    arrays = [torch.tensor(v) for v in load(weights)]

    class Convolution(torch.nn.Module):
        def __init__(self, stride=1):
            super().__init__()
            self.W, beta, gamma, mean, inv_std = [
                arrays.pop(0) for _ in range(5)]
            self.stride, self.scale = stride, (gamma * inv_std).view(-1, 1, 1)
            self.mean, self.beta = mean.view(-1, 1, 1), beta.view(-1, 1, 1)

        def forward(self, h):
            h = F.conv2d(h, self.W, stride=self.stride, padding=1)
            return (h - self.mean) * self.scale + self.beta

    class Block(torch.nn.Module):
        def __init__(self, wider):
            super().__init__()
            self.wider = wider
            self.inner = torch.nn.Sequential(
                Convolution(2 if wider else 1), torch.nn.ReLU(), Convolution())
            self.relu = torch.nn.ReLU()  # Captum needs one module a use

        def forward(self, h):
            s = h
            if self.wider:
                s, n = h[:, :, ::2, ::2], h.shape[1] // 2
                s = F.pad(s, (0, 0, 0, 0, n, n))
            return self.relu(s + self.inner(h))

    head = torch.nn.Linear(64, 10)
    head.weight.data, head.bias.data = arrays[-2].T, arrays[-1]
    network = torch.nn.Sequential(
        Convolution(), torch.nn.ReLU(),
        *[Block(stage > 0 and block == 0)
          for stage in range(3) for block in range(5)],
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        head).eval().requires_grad_(False)
    guided = GuidedBackprop(network) if way == 'guided' else None

    def logits():
        with torch.no_grad():
            return network(torch.tensor(batch)).numpy()
    # Captum wants the targets beforehand: a forward pass that is not timed.
    targets = torch.tensor(logits().argmax(axis=1))

    def gradient():
        x = torch.tensor(batch, requires_grad=True)
        if guided:
            return guided.attribute(x, target=targets).detach().numpy()
        network(x).max(dim=1).values.sum().backward()
        return x.grad.numpy()
    return logits if way == 'logits' else gradient, 0


def main():
    import sides
    parser = sides.options(__doc__, 'captum', 'cifar_model_n5.npz', 20)
    parser.add_argument('--batch', type=int, default=64, metavar='N')
    args = sides.parsed(parser, here=function_here, there=function_there)
    images = np.random.RandomState(1).rand(args.batch, 3, 8, 8)
    print(f'\nbatch of {args.batch}, one thread, {args.rounds} rounds\n')
    errors = sides.compare(
        __file__, args, WAYS,
        sides.load(args.weights) if args.weights else made_up_arrays(),
        images.repeat(4, 2).repeat(4, 3) - .5)
    if not max(errors, default=0) < 1e-3:
        sys.exit('the two do not compute the same')


if __name__ == '__main__':
    main()
