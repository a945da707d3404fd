"""The definitions, restated in numpy: slow, one number at a time.

Nothing here knows of Theano. `z` is the input of a nonlinearity, `g` the
gradient with respect to its output.
"""
import numpy as np


def guided(z, g):
    if z > 0:
        if g > 0 or np.isnan(g):
            return g
    return 0.


def deconv(z, g):
    if g > 0 or np.isnan(g):
        return g
    return 0.


def zero(z, g):
    return 0.


def plain(z, g):
    """The gradient of ReLU as ``T.nnet.relu`` has it."""
    if z > 0:
        return g
    return g / 2. if z == 0 else 0.


def elementwise(rule, z, g):
    """Apply a rule of two numbers to two arrays of one shape."""
    z, g = np.broadcast_arrays(z, g)
    out = np.zeros(z.shape, g.dtype)
    for i in np.ndindex(*z.shape):
        out[i] = rule(z[i], g[i])
    return out


def relu(z):
    return np.where(z > 0, z, np.zeros_like(z))


def mlp_forward(x, weights):
    """The values before each rectifier, and the linear output, of an MLP.

    `weights` is a list of pairs (W, b); all layers but the last are rectified.
    """
    zs, h = [], x.reshape(len(x), -1)
    for W, b in weights[:-1]:
        zs.append(h.dot(W) + b)
        h = relu(zs[-1])
    W, b = weights[-1]
    return zs, h.dot(W) + b


def mlp_backward(x, weights, g, rule):
    """The gradient with respect to `x`, given that of the linear output."""
    zs, _ = mlp_forward(x, weights)
    g = g.dot(weights[-1][0].T)
    for z, (W, _) in zip(reversed(zs), reversed(weights[:-1])):
        g = elementwise(rule, z, g).dot(W.T)
    return g.reshape(x.shape)
