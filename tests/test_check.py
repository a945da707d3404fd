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


@pytest.mark.parametrize('function', [
    T.sqrt, T.log, T.inv, gradmod.ScaleGradient(T.sqrt, factor=.5)])
def test_a_gradient_with_a_pole_is_linear(function):
    report = check_gradient(function)
    assert report.linear
    assert np.isinf(report.values).any()


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_linear_but_for_rounding(dtype):
    for function in [T.tanh, gradmod.ScaleGradient(T.tanh, factor=.3),
                     gradmod.EpsilonLRP(T.tanh)]:
        assert check_gradient(function, dtype).linear
    small = gradmod.override_gradient(
        T.tanh, lambda inputs, gs: abs(gs[0]) * 1e-3)
    assert not check_gradient(small, dtype).linear


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


def test_what_is_tried():
    report = check_gradient(T.nnet.relu)
    expected = [-np.inf, -2, -1, -0., 0, 1, 2, np.inf, np.nan]
    for values in report.z, report.g:
        np.testing.assert_array_equal(values, expected)
        assert (np.signbit(values) == np.signbit(expected)).all()


def test_stars():
    report = check_gradient(ZeroBackprop(T.nnet.relu))
    row = repr(report).splitlines()[-3]  # 0 in the place of g, where z is 2
    assert row.split() == ['2', '0*', '0*', '0*', '0', '0', '0*', '0*', '0*',
                           '0*']
    assert report.differs[6, 8]  # a number in the place of NaN


def test_one_number_by_default_and_the_first_of_several():
    rule = gradmod.override_gradient(
        T.tanh, lambda inputs, gs: gs[0] * T.extra_ops.cumsum(
            T.ones_like(inputs[0])) / inputs[0].size)
    assert check_gradient(rule).values[4, 5] == 1
    assert check_gradient(rule, shape=(4,)).values[4, 5] == .25


@pytest.mark.parametrize('form', [tuple, list, lambda grads: grads[0]])
def test_what_another_recipe_returns(form):
    recipe = OldRecipe(T.nnet.relu)
    recipe.grad = lambda inputs, gs: form([7 * gs[0]])
    assert check_gradient(recipe).used is theano.__version__.startswith('0.9')


def test_linear_but_for_small_gradients():
    rule = gradmod.override_gradient(T.tanh, lambda inputs, gs: T.switch(
        (gs[0] > 0) & (gs[0] < 1), 0, gs[0]))
    assert not check_gradient(rule).linear


@pytest.mark.parametrize('arguments, words', [
    (dict(dtype='int32'), 'expected dtype to be one of .*float64, got str'),
    (dict(dtype=np.float32), 'expected dtype to be one of'),
    (dict(shape=3), 'expected shape to be a tuple of ints from 1 up, got int'),
    (dict(shape=(2, 0)), 'expected shape'),
    (dict(function=lambda z: 3), 'expected <lambda> to return one float tensor '
     'variable, got int'),
    (dict(function=lambda z: z > 0), '.*got a variable of type')])
def test_bad_arguments(arguments, words):
    arguments.setdefault('function', T.nnet.relu)
    with pytest.raises(TypeError, match='check_gradient: ' + words):
        check_gradient(**arguments)


def test_a_dtype_of_numpy():
    report = check_gradient(T.nnet.relu, dtype=np.zeros(1, 'float64').dtype)
    assert report.values.dtype == 'float64'


def test_a_nonlinearity_that_computes_in_more_digits():
    def leaky(z):
        return T.maximum(z, np.float64(.1) * z)
    rule = gradmod.GuidedGradient(leaky)
    report = gradmod.check_gradient(rule)
    assert rule(T.fvector()).dtype == 'float64'
    assert report.values.dtype == report.true.dtype == 'float32'
    assert not report.differs[:, report.g > 0].any()
