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
import random
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
WAYS = ['plain', 'guided']


def made_up_arrays():
    """Random weights of the network, in the order of the pretrained ones."""
    import numpy as np
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

def functions_here(weights):
    import gradmod  # before Theano
    import numpy as np
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


def functions_there(weights):
    import numpy as np
    import torch
    import torch.nn.functional as F
    from captum.attr import GuidedBackprop
    torch.set_num_threads(1)
    with np.load(weights) as archive:
        arrays = [torch.tensor(archive['arr_%d' % i].astype('float32'))
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

    def guide(x, target):
        x = torch.tensor(x, requires_grad=True)
        return guided.attribute(x, target=target).detach().numpy()

    def logits(x):
        with torch.no_grad():
            return network(torch.tensor(x)).numpy()
    # Captum wants the targets beforehand: a forward pass that is not timed.
    targets = {}

    def guided_map(x):
        key = x.ctypes.data
        if key not in targets:
            targets[key] = torch.tensor(logits(x).argmax(axis=1))
        return guide(x, targets[key])
    return {'plain': plain, 'guided': guided_map}, logits


def child(which, folder):
    """Do what stdin says, a line at a time; answer each line with one."""
    import numpy as np
    weights = os.path.join(folder, 'weights.npz')
    if which == 'here':
        functions, logits = functions_here(weights)
    else:
        import warnings
        warnings.simplefilter('ignore')  # Captum's, about its hooks
        functions, logits = functions_there(weights)
    batch = np.load(os.path.join(folder, 'batch.npy'))
    results = {way: f(batch) for way, f in functions.items()}
    results['logits'] = logits(batch)
    np.savez(os.path.join(folder, which + '.npz'), **results)
    print('READY', flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        functions[line.strip()](batch)
        print('TIME %r' % (time.perf_counter() - start), flush=True)


# In the parent

def answer(process):
    for line in process.stdout:
        if line.startswith(('READY', 'TIME')):
            return line.split()[-1]
    sys.exit('%s: the process ended; its message is above' % process.args[0])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    versions = subprocess.run(
        [args.torch_python, '-c', 'import torch, captum; '
         'print("PyTorch %s, Captum %s" % (torch.__version__, '
         'captum.__version__))'], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, universal_newlines=True)
    if versions.returncode:
        parser.error('%s cannot import torch and captum: %s' % (
            args.torch_python, versions.stderr.strip().split('\n')[-1]))
    import numpy as np
    env = dict(os.environ, OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1',
               MKL_NUM_THREADS='1')
    here = dict(env, PYTHONPATH=os.pathsep.join(filter(None, [
        os.path.join(HERE, '..', '..'), os.environ.get('PYTHONPATH')])),
        THEANO_FLAGS=','.join(filter(None, [
            os.environ.get('THEANO_FLAGS'), 'floatX=float32'])))
    there = dict(env)
    there.pop('PYTHONPATH', None)
    with tempfile.TemporaryDirectory() as folder:
        arrays = made_up_arrays()
        if args.weights:
            with np.load(args.weights) as archive:
                arrays = [archive['arr_%d' % i]
                          for i in range(len(archive.files))]
        np.savez(os.path.join(folder, 'weights.npz'), *arrays)
        images = np.random.RandomState(1).rand(args.batch, 3, 8, 8)
        np.save(os.path.join(folder, 'batch.npy'),
                (images.repeat(4, 2).repeat(4, 3) - .5).astype('float32'))
        processes = {}
        for which, python, environment in [
                ('there', args.torch_python, there),
                ('here', sys.executable, here)]:
            processes[which] = subprocess.Popen(
                [python, os.path.abspath(__file__), '--child', which, folder],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
                universal_newlines=True, bufsize=1)
            answer(processes[which])
        try:
            seconds = compare(processes, folder, args.rounds)
        finally:
            for process in processes.values():
                process.stdin.close()
                process.wait()
    print('\n%s; batch of %d, one thread, %d rounds\n' % (
        versions.stdout.strip(), args.batch, args.rounds))
    print('| gradient | here | PyTorch | ratio: median (quartiles) |\n'
          '|----------|------|---------|---------------------------|')
    for way in WAYS:
        a, b = (np.array(seconds[which, way]) for which in ('here', 'there'))
        print('| %s | %.3f s | %.3f s | %.2f (%.2f to %.2f) |' % (
            (way, np.median(a), np.median(b), np.median(a / b)) +
            tuple(np.percentile(a / b, [25, 75]))))
    for which, name in [('here', 'here'), ('there', 'PyTorch')]:
        print('guided / plain, %s: %.3f' % (name, np.median(
            np.divide(seconds[which, 'guided'], seconds[which, 'plain']))))


def compare(processes, folder, rounds):
    """Check that both agree; the seconds of each call, by process and way."""
    import numpy as np
    ours, theirs = (np.load(os.path.join(folder, which + '.npz'))
                    for which in ('here', 'there'))
    for name in ['logits'] + WAYS:
        difference = (abs(ours[name] - theirs[name]).max() /
                      abs(theirs[name]).max())
        print('%s: largest difference %.1e of the largest value' %
              (name, difference))
        if not difference < 1e-3:
            sys.exit('the %s differ: the two do not compute the same' % name)
    calls = [(which, way) for which in processes for way in WAYS]
    seconds = {call: [] for call in calls}
    for round in range(rounds + 1):
        for which, way in random.sample(calls, len(calls)):
            processes[which].stdin.write(way + '\n')
            processes[which].stdin.flush()
            duration = float(answer(processes[which]))
            if round:  # the first warms up
                seconds[which, way].append(duration)
    return seconds


if __name__ == '__main__':
    main()
