import numpy as np
import pytest
import theano
import theano.tensor as T

import gradmod
from gradmod import GuidedBackprop, ZeroBackprop, check_gradient

from . import reference


class OldRecipe(object):
    """The recipe whose gradient Theano 1.0 ignores."""

    def __init__(self, nonlinearity):
        self.nonlinearity = nonlinearity

    def __call__(self, x):
        inner = x.type()
        op = theano.OpFromGraph([inner], [self.nonlinearity(inner)])
        op.grad = self.grad
        return op(x)

    def grad(self, inputs, out_grads):
        (g,) = out_grads
        return [7 * g]


def test_report_of_a_rule():
    report = check_gradient(GuidedBackprop(T.nnet.relu))
    assert report.used and not report.linear
    z, g = np.meshgrid(report.z, report.g, indexing='ij')
    with np.errstate(invalid='ignore'):
        np.testing.assert_array_equal(
            report.values, reference.elementwise(reference.guided, z, g))
    at = {v: i for i, v in enumerate(report.z) if v == v}
    assert not report.differs[at[1.], at[1.]]
    assert report.differs[at[1.], at[-1.]]
    text = repr(report)
    assert 'GuidedBackprop(relu): its grad is used' in text
    assert 'linear in g: no' in text and '0*' in text


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_report_of_a_linear_rule(dtype):
    report = check_gradient(ZeroBackprop(T.nnet.relu), dtype)
    assert report.used and report.linear and (report.values == 0).all()
    assert 'linear in g: yes' in repr(report)


def test_report_of_a_rule_that_is_the_true_gradient():
    rule = gradmod.override_gradient(T.tanh, lambda inputs, gs: [None])
    report = check_gradient(rule)
    assert report.used and report.linear and not report.differs.any()
    assert 'the same as the gradient without it' in repr(report)


def test_report_of_an_affine_rule():
    rule = gradmod.override_gradient(T.tanh, lambda inputs, gs: gs[0] + 1)
    assert not check_gradient(rule).linear


def test_report_of_a_plain_function():
    report = check_gradient(T.nnet.relu)
    assert report.used is None and report.linear and report.true is None
    assert 'it has no grad of its own' in repr(report)
    assert 'knows no gradient' not in repr(report)


def test_report_of_an_override_that_is_ignored():
    report = check_gradient(OldRecipe(T.nnet.relu))
    if theano.__version__.startswith('0.9'):
        assert report.used
    else:
        assert report.used is False and not report.differs.any()
        assert 'ITS GRAD IS IGNORED' in repr(report)


@theano.compile.ops.as_op(itypes=[T.fvector], otypes=[T.fvector])
def without_gradient(z):
    return np.sign(z)


def test_report_where_theano_knows_no_gradient():
    rule = gradmod.override_gradient(without_gradient, lambda i, gs: gs)
    report = check_gradient(rule)
    assert report.used and report.true is None and not report.differs.any()
    assert 'Theano knows no gradient' in repr(report)


def test_shape_for_rules_that_are_not_elementwise():
    rule = gradmod.DeepLiftRescale(T.nnet.relu)
    # inputs equal to their references: the true gradient
    assert not check_gradient(rule, shape=(2, 1)).differs[1:7, 1:7].any()


def test_arguments():
    with pytest.raises(TypeError, match='check_gradient: expected a function'):
        check_gradient(3)
