"""Guided backpropagation here and with Captum on PyTorch, side by side.

The same ResNet-32 for CIFAR-10, weights and batch in two processes, one thread
each, which compute in turns, never at once. Checks that the logits, the
gradients and the guided maps agree, then prints the ratios of the times, this
library's over the other's, whichever way they fall. PyTorch and Captum live in
an environment of their own:

    python -m venv peer && peer/bin/pip install torch captum "numpy<2"
    python tests/benchmarks/peers.py --torch-python peer/bin/python
"""
import argparse
import os
import sys
import tempfile
import warnings

import numpy as np

WAYS = ['plain', 'guided']


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


# In the children. Each returns {way: function of the batch}, and the logits'.

def functions_here(weights, batch):
    import gradmod  # before Theano
    import theano
    import theano.tensor as T
    from cost import resnet
    rectify = T.nnet.relu
    functions = {}
    for way, f in zip(WAYS, [rectify, gradmod.GuidedBackprop(rectify)]):
        x = T.tensor4('x')
        logits = resnet(x, 5, f, np.random.RandomState(0), weights)
        functions[way] = theano.function(
            [x], theano.grad(logits.max(axis=1).sum(), x))
    return functions, theano.function([x], logits)


def functions_there(weights, batch):
    import captum
    import torch
    import torch.nn.functional as F
    from captum.attr import GuidedBackprop
    print(f'PyTorch {torch.__version__}, Captum {captum.__version__}',
          file=sys.stderr)
    warnings.simplefilter('ignore')  # Captum's, about its hooks
    torch.set_num_threads(1)
    with np.load(weights) as archive:
        arrays = [torch.tensor(archive[f'arr_{i}'].astype('float32'))
                  for i in range(len(archive.files))]

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
    guided = GuidedBackprop(network)

    def plain(x):
        x = torch.tensor(x, requires_grad=True)
        network(x).max(dim=1).values.sum().backward()
        return x.grad.numpy()

    def guide(x):
        x = torch.tensor(x, requires_grad=True)
        return guided.attribute(x, target=targets).detach().numpy()

    def logits(x):
        with torch.no_grad():
            return network(torch.tensor(x)).numpy()
    # Captum wants the targets beforehand: a forward pass that is not timed.
    targets = torch.tensor(logits(batch).argmax(axis=1))
    return {'plain': plain, 'guided': guide}, logits


def child(which, folder):
    from sides import serve
    weights = os.path.join(folder, 'weights.npz')
    batch = np.load(os.path.join(folder, 'batch.npy'))
    functions, logits = (functions_here if which == 'here'
                         else functions_there)(weights, batch)
    np.savez(os.path.join(folder, which + '.npz'), logits=logits(batch),
             **{way: f(batch) for way, f in functions.items()})
    serve(functions, batch)


# In the parent

def main():
    import sides
    parser = sides.parser(__doc__)
    add = parser.add_argument
    add('--torch-python', metavar='PATH',
        help='an interpreter with torch and captum')
    add('--weights', metavar='PATH', help='cifar_model_n5.npz (default: random)')
    add('--batch', type=int, default=64, metavar='N')
    add('--rounds', type=int, default=20, metavar='N')
    add('--child', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    if not args.torch_python:
        parser.error('--torch-python is needed, an interpreter with torch and '
                     'captum:' + __doc__.split(':', 1)[1].rstrip())
    with tempfile.TemporaryDirectory() as folder:
        arrays = made_up_arrays()
        if args.weights:
            with np.load(args.weights) as archive:
                arrays = [archive[f'arr_{i}']
                          for i in range(len(archive.files))]
        np.savez(os.path.join(folder, 'weights.npz'), *arrays)
        images = np.random.RandomState(1).rand(args.batch, 3, 8, 8)
        np.save(os.path.join(folder, 'batch.npy'),
                (images.repeat(4, 2).repeat(4, 3) - .5).astype('float32'))
        with sides.children(__file__, args.torch_python,
                            [('there',), ('here',)], folder) as processes:
            compare(folder)
            times = sides.in_turns(
                [((which, way), process, way)
                 for (which,), (process, _) in processes.items()
                 for way in WAYS], args.rounds)
    seconds = {call: np.array(found)[:, 0] for call, found in times.items()}
    print(f'\nbatch of {args.batch}, one thread, {args.rounds} rounds\n')
    print('| gradient | here | PyTorch | ratio: median (quartiles) |\n'
          '|----------|------|---------|---------------------------|')
    for way in WAYS:
        a, b = (seconds[which, way] for which in ('here', 'there'))
        low, middle, high = np.percentile(a / b, [25, 50, 75])
        print(f'| {way} | {np.median(a):.3f} s | {np.median(b):.3f} s '
              f'| {middle:.2f} ({low:.2f} to {high:.2f}) |')
    for which, name in [('here', 'here'), ('there', 'PyTorch')]:
        ratio = np.median(seconds[which, 'guided'] / seconds[which, 'plain'])
        print(f'guided / plain, {name}: {ratio:.3f}')


def compare(folder):
    """Check that both agree."""
    ours, theirs = (np.load(os.path.join(folder, which + '.npz'))
                    for which in ('here', 'there'))
    for name in ['logits'] + WAYS:
        difference = (abs(ours[name] - theirs[name]).max() /
                      abs(theirs[name]).max())
        print(f'{name}: largest difference {difference:.1e} of the largest '
              'value')
        if not difference < 1e-3:
            sys.exit(f'the {name} differ: the two do not compute the same')


if __name__ == '__main__':
    main()
