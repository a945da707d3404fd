"""Proves with numbers that gradmod works in the environment that runs this.

`installations.py` installs gradmod in many ways and runs this file in each:

    python tests/installation_check.py FOLDER [--theano-first]

FOLDER is an empty one to write to. gradmod is what the environment has
installed, not what lies beside this file. What is printed last is a
JSON dictionary of versions, settings and distances; any value that is wrong
ends the program with an AssertionError. The numpy half knows nothing of
Theano.
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


def agree(name, got, expected):
    """Assert that an array is what numpy says, by the largest value."""
    assert got.shape == expected.shape and got.dtype == dtype, name
    far = float(np.abs(got - expected).max() / np.abs(expected).max())
    assert far < tolerance, f'{name} is {far:.2g} from numpy\'s'
    distances[name] = far


def used(name, guided, plain):
    """Assert that the override changes the gradient, and how far."""
    far = float(np.abs(guided - plain).max() / np.abs(plain).max())
    assert far > .1, f'{name}: the override is not used'
    distances[name + ', from the plain gradient'] = far


def gate(z, g, guided):
    return g * (z > 0) * ((g > 0) if guided else 1)


# A network, and the same in numpy: the value, the gradients of its sum, plain
# and guided.

def convolution(rule, x, kernel, v):
    z = T.nnet.conv2d(x, kernel, filter_flip=False)
    return T.dot(rule(z).flatten(2), v)


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


def recurrent(rule, x, start, u):
    h, _ = theano.scan(lambda h, x, u: rule(x + T.dot(h, u)), n_steps=STEPS,
                       outputs_info=start, non_sequences=[x, u])
    return h[-1]


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


def compare(name, build, restate, *arrays):
    """Value and gradients, compiled together; return function and inputs."""
    exact = restate(*[a.astype('float64') for a in arrays])
    inputs = [T.TensorType(dtype, (False,) * a.ndim)() for a in arrays]
    outputs = [build(rectify, *inputs)]
    for rule in rectify, gradmod.GuidedBackprop(rectify):
        outputs.append(theano.grad(build(rule, *inputs).sum(), inputs[0]))
    f = theano.function(inputs, outputs)
    got = f(*arrays)
    for what, a, b in zip(('value', 'plain', 'guided'), got, exact):
        agree(f'{name}, {what}', a, b)
    used(name, got[2], got[1])
    return f


# A Lasagne network

def saliency():
    """The saliency map of a network of two dense layers, of class 1."""
    w, v = values(6, 8), values(8, 4)
    x = lasagne.layers.InputLayer((None, 6))
    net = lasagne.layers.DenseLayer(x, 8, W=w, b=None, nonlinearity=rectify)
    net = lasagne.layers.DenseLayer(net, 4, W=v, b=None, nonlinearity=None)
    maps = gradmod.saliency_map(net, gradmod.GuidedBackprop, target=1)
    images = values(5, 6)
    maps = theano.function([x.input_var], maps)(images)
    z = images.astype('float64').dot(w)
    plain, guided = (gate(z, v[:, 1].astype('float64') * np.ones_like(z),
                          guided).dot(w.T) for guided in (False, True))
    agree('saliency map', maps, guided)
    used('saliency map', maps, plain)


# A compiled function that goes to another process

def pickled(f, arrays, folder):
    sent, back = (os.path.join(folder, name) for name in ('sent', 'back'))
    with open(sent, 'wb') as out:
        pickle.dump((f, arrays), out, -1)
    subprocess.check_call([sys.executable, os.path.abspath(__file__),
                           '--load', sent, back])
    with open(back, 'rb') as result:
        for here, there in zip(f(*arrays), pickle.load(result)):
            assert np.array_equal(here, there), 'a pickled function differs'


def load(sent, back):
    with open(sent, 'rb') as function:
        f, arrays = pickle.load(function)
    with open(back, 'wb') as out:
        pickle.dump(f(*arrays), out)


def main(folder, order='--gradmod-first'):
    early = order == '--theano-first'
    assert early == gradmod.compat.actions[0].startswith('Theano was imported')
    inside = os.path.realpath(gradmod.__file__)
    assert inside.startswith(os.path.realpath(sys.prefix) + os.sep), (
        f'{inside} is not in this environment')
    compare('convolution', convolution, convolution_in_numpy,
            values(2, 2, 8, 8), values(3, 2, 3, 3), values(108))
    arrays = values(3, 6), values(3, 6), values(6, 6)
    f = compare('recurrent network', recurrent, recurrent_in_numpy, *arrays)
    saliency()
    pickled(f, arrays, folder)
    print('\n' + json.dumps({
        'python': platform.python_version(), 'theano': theano.__version__,
        'numpy': np.__version__, 'scipy': scipy.__version__,
        'lasagne': lasagne.__version__, 'floatX': dtype,
        'device': theano.config.device, 'mode': theano.config.mode,
        'cxx': theano.config.cxx, 'ldflags': theano.config.blas.ldflags,
        'compiledir': theano.config.compiledir,
        'compat': gradmod.compat.actions, 'distances': distances}))


if __name__ == '__main__':
    if sys.argv[1] == '--load':
        load(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
