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


def guided_leaky(slope):
    """Guided backpropagation through a leaky rectifier, by its derivative."""
    def rule(z, g):  # Theano's derivative at 0 is the mean of both sides'
        mean, half = (1 + slope) / 2., (1 - slope) / 2.
        return 0. if g <= 0 else g * mean + g * half * np.sign(z)
    return rule


def beta_smooth(beta):
    return lambda z, g: g / (1 + np.exp(-beta * z))


def rect_grad(threshold):
    return lambda z, g: g if np.maximum(z, 0) * g > threshold else 0.


def straight_through(bound):
    return lambda z, g: g if abs(z) <= bound else 0.


def special(dtype):
    """Of both signs: zero, numbers of all sizes, infinity, NaN, and the NaN
    that is next to infinity, where a comparison of bits may err.
    """
    info = np.finfo(dtype)
    values = np.array([0, info.tiny / 4, info.tiny, info.eps, 1, 1.5, info.max,
                       np.inf, np.nan], dtype)
    bits = values.view(f'uint{info.bits}')
    one = bits.dtype.type(1)  # to the next number
    more = np.array([one, bits[2] - one, bits[-2] + one]).view(dtype)
    assert values[1] > 0 and np.isnan(more[-1])  # a subnormal survived
    values = np.append(values, more)
    return np.concatenate([values, -values])


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


def quantile_gate(z, g, q):
    """RectGrad by the quantile of each sample's contributions."""
    out = np.zeros_like(g)
    for i in range(len(z)):
        contributions = sorted((relu(z[i]) * g[i]).ravel())
        position = max(int(np.ceil(q * len(contributions))) - 1, 0)
        out[i] = np.where(relu(z[i]) * g[i] > contributions[position], g[i], 0)
    return out


def deeplift_contributions(x, x0, weights, output):
    """Contributions of each input to output[c] - output0[c]: the rescale rule.

    Follows the definition by multipliers, layer by layer, for one sample.
    """
    zs, _ = mlp_forward(np.array([x, x0]), weights)
    multiplier = weights[-1][0][:, output].copy()
    for (W, _), (z, z0) in zip(reversed(weights[:-1]), reversed(zs)):
        for j in range(len(multiplier)):
            dz, dy = z[j] - z0[j], max(z[j], 0) - max(z0[j], 0)
            multiplier[j] *= dy / dz if abs(dz) > 1e-6 else z[j] > 0
        multiplier = W.dot(multiplier)
    return multiplier * (x - x0)
