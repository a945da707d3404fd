"""Guided backpropagation here and with Captum on PyTorch, side by side.

The same ResNet-32 for CIFAR-10, weights and batch in processes of one thread
each, which compute in turns, never at once. Checks that the logits, the
gradients and the guided maps agree, then prints the ratios of the times, this
library's over the other's, whichever way they fall. PyTorch and Captum live in
an environment of their own:

    python -m venv peer && peer/bin/pip install torch captum "numpy<2"
    python tests/benchmarks/peers.py --torch-python peer/bin/python
"""
import sys
import warnings
from functools import partial

import numpy as np

WAYS = ['logits', 'plain', 'guided']


def made_up_arrays():
    """Random weights of the network, in the order of the pretrained ones."""
    rng = np.random.RandomState(0)
    arrays, width = [], 3

    def convolution(n_in, n_out):
        arrays.append(rng.randn(n_out, n_in, 3, 3) * (2. / 9 / n_in) ** .5)
        arrays.extend(np.full(n_out, v) for v in (0., 1., 0., 1.))
    convolution(3, 16)
    for width, out in [(16, 16), (16, 32), (32, 64)]:
        for block in range(5):
            convolution(width if block == 0 else out, out)
            convolution(out, out)
    return arrays + [rng.randn(64, 10) * .1, np.zeros(10)]


# In the children: a function of nothing, and no time to compile.

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
    return partial(theano.function([x], y), batch), 0


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

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W, self.b = arrays.pop(0), arrays.pop(0)

        def forward(self, h):
            return h.mean(dim=(2, 3)) @ self.W + self.b
    network = torch.nn.Sequential(
        Convolution(), torch.nn.ReLU(),
        *[Block(stage > 0 and block == 0)
          for stage in range(3) for block in range(5)] + [Head()]).eval()
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
    args = parser.parse_args()
    if args.child:
        return sides.child(*args.child, here=function_here,
                           there=function_there)
    if not args.torch_python:
        parser.error('--torch-python is needed, an interpreter with torch and '
                     'captum:' + __doc__.split(':', 1)[1].rstrip())
    images = np.random.RandomState(1).rand(args.batch, 3, 8, 8)
    seconds, _, _, results = sides.in_turns(
        __file__, args, WAYS,
        sides.load(args.weights) if args.weights else made_up_arrays(),
        images.repeat(4, 2).repeat(4, 3) - .5)
    print(f'\nbatch of {args.batch}, one thread, {args.rounds} rounds\n')
    print('| | here | PyTorch | ratio (quartiles) | difference |\n'
          + '|---' * 5 + '|')
    for way in WAYS:
        here, there = ('here', way), ('there', way)
        error = sides.difference(results[here], results[there])
        print(f'| {way} | {np.median(seconds[here]):.3f} s '
              f'| {np.median(seconds[there]):.3f} s '
              f'| {sides.ratio(seconds[here], seconds[there])} | {error:.1e} |')
        if not error < 1e-3:
            sys.exit(f'the {way} differ: the two do not compute the same')
    for which in 'here', 'there':
        print(f'guided / plain, {which}:', sides.ratio(
            seconds[which, 'guided'], seconds[which, 'plain']))


if __name__ == '__main__':
    main()
