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


def guided_leaky(slope):
    """Guided backpropagation through a leaky rectifier, by its derivative."""
    def rule(z, g):
        if not g > 0:
            return 0.
        if z == 0:  # Theano's derivative there is the mean of both sides'
            return (1 + slope) / 2. * g
        return g if z > 0 else slope * g
    return rule


def rect_grad(threshold):
    def rule(z, g):
        return g if max(z, 0) * g > threshold else 0.
    return rule


def epsilon_lrp(epsilon):
    def rule(z, g):
        return g * max(z, 0) / (z + (epsilon if z >= 0 else -epsilon))
    return rule


def straight_through(bound):
    def rule(z, g):
        return g if abs(z) <= bound else 0.
    return rule


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
    zs, _ = mlp_forward(x[None], weights)
    zs0, _ = mlp_forward(x0[None], weights)
    multiplier = weights[-1][0][:, output].copy()
    for (W, _), z, z0 in zip(reversed(weights[:-1]), reversed(zs),
                             reversed(zs0)):
        for j in range(len(multiplier)):
            dz = z[0, j] - z0[0, j]
            dy = max(z[0, j], 0) - max(z0[0, j], 0)
            slope = dy / dz if abs(dz) > 1e-6 else float(z[0, j] > 0)
            multiplier[j:j + 1] = multiplier[j:j + 1] * slope
        multiplier = W.dot(multiplier)
    return multiplier * (x - x0)


def lrp_contributions(x, weights, output, epsilon):
    """Relevance of each input for one output: the epsilon rule, by messages.

    R_i = sum_j  x_i w_ij / (z_j + epsilon sign(z_j))  R_j,  z_j without
    stabiliser in the last layer, whose relevance is the output's value less
    its bias.
    """
    zs, _ = mlp_forward(x[None], weights)
    hs = [x] + [relu(z[0]) for z in zs]
    relevance = hs[-1] * weights[-1][0][:, output]
    for (W, _), h, z in zip(reversed(weights[:-1]), reversed(hs[:-1]),
                            reversed(zs)):
        new = np.zeros_like(h)
        for i in range(len(h)):
            for j in range(W.shape[1]):
                sign = 1 if z[0, j] >= 0 else -1
                new[i] += (h[i] * W[i, j] / (z[0, j] + epsilon * sign)
                           * relevance[j])
        relevance = new
    return relevance
