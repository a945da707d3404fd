"""PyMC3: NUTS through a function whose gradient is given. See the README here."""
import gradmod  # before Theano and PyMC3

import numpy as np
import pymc3
import pytest
import theano.tensor as T
from theano.compile.ops import as_op

TRUE, SIGMA = 1.3, .1
RNG = np.random.RandomState(0)
TIMES = RNG.uniform(-2, 2, 40)


def root_of(t):
    """The z with z + exp(z) = t, elementwise, by Newton's method."""
    z = np.minimum(t, 0)
    for _ in range(50):
        z = z - (z + np.exp(z) - t) / (1 + np.exp(z))
    return z


OBSERVED = root_of(TRUE * TIMES) + SIGMA * RNG.randn(len(TIMES))


@as_op(itypes=[T.dvector], otypes=[T.dvector])
def without_gradient(t):
    return root_of(t)


def implicit(inputs, out_grads, outputs):
    """1 / (1 + exp(z)), by the implicit function theorem."""
    (g,), (z,) = out_grads, outputs
    return [g / (1 + T.exp(z))]


root = gradmod.override_gradient(without_gradient, implicit)


def model(function):
    with pymc3.Model() as result:
        rate = pymc3.Normal('rate', 0, 2)
        pymc3.Normal('y', function(rate * TIMES), SIGMA, observed=OBSERVED)
    return result


def log_posterior(rate):
    """That of the model, up to a constant, at each of several rates."""
    z = root_of(rate[:, None] * TIMES)
    return -rate ** 2 / 8 - ((OBSERVED - z) ** 2).sum(axis=1) / 2 / SIGMA ** 2


def test_it_has_no_gradient_of_its_own():
    with model(without_gradient), pytest.raises(NotImplementedError):
        pymc3.NUTS()


def test_gradient_of_the_log_posterior():
    gradient = model(root).fastdlogp()
    for rate in -.7, .4, 2.1:
        near = np.array([rate - 1e-5, rate + 1e-5])
        slope = np.diff(log_posterior(near)) / np.diff(near)
        np.testing.assert_allclose(gradient({'rate': rate}), slope, rtol=1e-6)


def test_nuts_recovers_the_parameter():
    with model(root):
        step = pymc3.NUTS()
        trace = pymc3.sample(1000, step, tune=500, chains=2, cores=1,
                             random_seed=1, progressbar=False,
                             return_inferencedata=False,
                             compute_convergence_checks=False)
    draws = trace['rate']
    assert not trace['diverging'].any()

    # the posterior's mean and deviation, by sums over a fine grid
    grid = np.linspace(.5, 2.5, 20001)
    weights = np.exp(log_posterior(grid) - log_posterior(grid).max())
    mean = np.average(grid, weights=weights)
    deviation = np.average((grid - mean) ** 2, weights=weights) ** .5
    print(f'rate {draws.mean():.4f} +- {draws.std():.4f}, by the grid '
          f'{mean:.4f} +- {deviation:.4f}')
    assert abs(draws.mean() - mean) < .15 * deviation
    assert abs(draws.std() / deviation - 1) < .1
    assert abs(draws.mean() - TRUE) < 3 * deviation
