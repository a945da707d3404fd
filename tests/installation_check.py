"""Proves with numbers that gradmod works in the environment that runs this.

`installations.py` installs gradmod in many ways and runs this file in each:

    python tests/installation_check.py [--theano-first]

gradmod is what the environment has installed, not what lies beside this file.
What is printed last is a JSON dictionary of versions, settings and distances;
any value that is wrong ends the program with an AssertionError. The numpy half
knows nothing of Theano.
"""
import json
import os
import pickle
import platform
import subprocess
import sys

if '--theano-first' in sys.argv:
    import theano  # noqa: F401
import gradmod  # else before Theano, and always before Lasagne
import theano  # noqa: F811
import lasagne
import numpy as np
import scipy
import theano.tensor as T

rectify = lasagne.nonlinearities.rectify
dtype = theano.config.floatX
tolerance = 100 * np.finfo(dtype).eps
random = np.random.RandomState(0)
distances = {}


def values(*shape):
    return random.randn(*shape).astype(dtype)


def apart(a, b):
    """The largest difference, by the largest value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare(name, got, expected):
    """Assert that arrays are what numpy says, and that the override is used."""
    for what, a, b in zip(('value', 'plain', 'guided'), got, expected):
        assert a.shape == b.shape and a.dtype == dtype, (name, what)
        far = distances[f'{name}, {what}'] = apart(a, b)
        assert far < tolerance, f'{name}, {what} is {far:.2g} from numpy\'s'
    far = distances[name + ', from the plain gradient'] = apart(got[2], got[1])
    assert far > .1, f'{name}: the override is not used'


def gate(z, g, guided):
    return g * (z > 0) * ((g > 0) if guided else 1)


# Functions, and the same in numpy: a value, the gradients of its sum, plain
# and guided.

def convolution(kernel, v):
    """Of Lasagne's layers: class 1, and its saliency maps."""
    x = lasagne.layers.InputLayer((None, 2, 8, 8))
    net = lasagne.layers.Conv2DLayer(
        x, 3, 3, W=kernel[:, :, ::-1, ::-1].copy(), b=None,
        nonlinearity=rectify)
    net = lasagne.layers.DenseLayer(net, 4, W=v, b=None, nonlinearity=None)
    return theano.function(
        [x.input_var], [lasagne.layers.get_output(net)[:, 1]] + [
            gradmod.saliency_map(net, rule, target=1)
            for rule in (None, gradmod.GuidedBackprop)])


def convolution_in_numpy(x, kernel, v):
    z, gradients = np.zeros((len(x), len(kernel), 6, 6)), []
    for i, j in np.ndindex(6, 6):
        z[:, :, i, j] = np.tensordot(x[:, :, i:i + 3, j:j + 3], kernel,
                                     ((1, 2, 3), (1, 2, 3)))
    for guided in False, True:
        g, back = gate(z, v.reshape(z.shape[1:]), guided), np.zeros(x.shape)
        for i, j in np.ndindex(6, 6):
            back[:, :, i:i + 3, j:j + 3] += np.tensordot(g[:, :, i, j],
                                                         kernel, (1, 0))
        gradients.append(back)
    return [np.maximum(z, 0).reshape(len(x), -1).dot(v)] + gradients


# With the rule in the step of a loop. Matrices throughout: without a BLAS,
# Theano cannot pickle a function that has an outer product of vectors.

STEPS = 4  # known, or Theano compiles 30 C modules that compute lengths


def recurrent():
    x, start, u = T.matrices('xsu')
    outputs = []
    for rule in rectify, gradmod.GuidedBackprop(rectify):
        h, _ = theano.scan(
            lambda h, x, u, rule=rule: rule(x + T.dot(h, u)), n_steps=STEPS,
            outputs_info=start, non_sequences=[x, u])
        outputs.append(theano.grad(h[-1].sum(), x))
    return theano.function([x, start, u], [h[-1]] + outputs)


def recurrent_in_numpy(x, start, u):
    z, h, gradients = [], start, []
    for _ in range(STEPS):
        z.append(x + h.dot(u))
        h = np.maximum(z[-1], 0)
    for guided in False, True:
        g, back = np.ones_like(x), 0
        for z_t in reversed(z):
            g = gate(z_t, g, guided)
            back = back + g
            g = g.dot(u.T)
        gradients.append(back)
    return [h] + gradients


def exact(*arrays):
    return [a.astype('float64') for a in arrays]


def pickled(f, arrays):
    """Assert that a function computes the same in another process."""
    there = subprocess.check_output(
        [sys.executable, '-c', 'import gradmod, pickle, sys\n'
         'f, arrays = pickle.load(sys.stdin.buffer)\n'
         'pickle.dump(f(*arrays), sys.stdout.buffer)'],
        input=pickle.dumps((f, arrays), -1))
    for a, b in zip(f(*arrays), pickle.loads(there)):
        assert np.array_equal(a, b), 'a pickled function differs'


def main():
    early = '--theano-first' in sys.argv
    assert early == gradmod.compat.actions[0].startswith('Theano was imported')
    inside = os.path.realpath(gradmod.__file__)
    assert inside.startswith(os.path.realpath(sys.prefix) + os.sep), (
        f'{inside} is not in this environment')
    x, kernel, v = values(2, 2, 8, 8), values(3, 2, 3, 3), values(108, 4)
    compare('convolution', convolution(kernel, v)(x),
            convolution_in_numpy(*exact(x, kernel, v[:, 1])))
    arrays = values(3, 6), values(3, 6), values(6, 6)
    f = recurrent()
    compare('recurrent network', f(*arrays),
            recurrent_in_numpy(*exact(*arrays)))
    pickled(f, arrays)
    print('\n' + json.dumps({
        'python': platform.python_version(), 'theano': theano.__version__,
        'numpy': np.__version__, 'scipy': scipy.__version__,
        'lasagne': lasagne.__version__, 'floatX': dtype,
        'device': theano.config.device, 'mode': theano.config.mode,
        'ldflags': theano.config.blas.ldflags,
        'compat': gradmod.compat.actions, 'distances': distances}))


if __name__ == '__main__':
    main()
