"""The rules besides those of the historic recipe, against numpy."""
import numpy as np
import pytest
import theano
import theano.tensor as T
from theano.gpuarray.elemwise import GpuElemwise

import gradmod

from . import graphs
from .. import reference

relu = T.nnet.relu
Z, G = (a.ravel().astype('float32') for a in np.meshgrid(
    [-2.5, -1, -.5, .5, 1, 3], [-4., -1, 0, .25, 1, 2]))


@pytest.mark.parametrize('rule, expected', [
    (gradmod.GuidedGradient(lambda z: relu(z, .5)), reference.guided_leaky(.5)),
    (gradmod.BetaSmooth(relu, beta=.3), reference.beta_smooth(.3)),
    (gradmod.RectGrad(relu, threshold=.5), reference.rect_grad(.5)),
    (gradmod.StraightThrough(T.sgn, bound=1), reference.straight_through(1)),
    (gradmod.GradientReversal(T.sqr), lambda z, g: -(2 * z * g)),
], ids=lambda v: getattr(v, '__name__', str(v)))
def test_values(rule, expected):
    z, g = T.vectors('zg')
    f = theano.function([z, g], theano.grad(None, z, known_grads={rule(z): g}))
    assert [n for n in graphs.nodes(f) if isinstance(n.op, GpuElemwise)]
    assert not [n for n in graphs.nodes(f) if isinstance(n.op, T.Elemwise)
                and not isinstance(n.op, GpuElemwise)]
    np.testing.assert_allclose(
        f(Z, G), reference.elementwise(expected, Z, G), rtol=1e-5)
