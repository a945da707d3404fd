import numpy as np
import pytest
import theano
import theano.tensor as T

import gradmod
from gradmod import GuidedBackprop, ZeroBackprop, check_gradient

from . import reference
from .models import OldRecipe

pytestmark = pytest.mark.usefixtures('no_compiler')


@pytest.mark.parametrize('dtype', ['float16', 'float32', np.dtype('float64')])
def test_report_of_a_rule(dtype):
    report = check_gradient(GuidedBackprop(T.nnet.relu), dtype)
    assert report.used and report.values.dtype == dtype
    tried = [-np.inf, -2, -1, -0., 0, 1, 2, np.inf, np.nan]
    for values in report.z, report.g:
        np.testing.assert_array_equal(values, tried)
        assert (np.signbit(values) == np.signbit(tried)).all()
    z, g = np.meshgrid(report.z, report.g, indexing='ij')
    np.testing.assert_array_equal(
        report.values, reference.elementwise(reference.guided, z, g))
    assert not report.differs[5, 5] and report.differs[5, 2]  # z = 1; 1, -1
    assert 'GuidedBackprop(relu): its grad is used' in repr(report)


def test_stars():
    report = check_gradient(ZeroBackprop(T.nnet.relu))
    assert report.used and (report.values == 0).all()
    assert '* differs from the gradient without it' in repr(report)
    row = repr(report).splitlines()[-3]  # 0 in the place of g, where z is 2
    assert row.split() == ['2', '0*', '0*', '0*', '0', '0', '0*', '0*', '0*',
                           '0*']
    assert report.differs[6, 8]  # a number in the place of NaN


@theano.compile.ops.as_op(itypes=[T.fvector], otypes=[T.fvector])
def without_gradient(z):
    return np.sign(z)


@pytest.mark.parametrize('function, used, has_true, words', [
    (gradmod.override_gradient(T.tanh, lambda inputs, gs: [None]), True, True,
     'the same as the gradient without it'),
    (gradmod.override_gradient(without_gradient, lambda inputs, gs: gs), True,
     False, 'Theano knows no gradient without it'),
    (T.nnet.relu, None, False, 'it has no grad of its own\n'
     'what follows is the gradient that Theano knows')])
def test_report_without_a_difference(function, used, has_true, words):
    report = check_gradient(function)
    assert report.used is used and (report.true is not None) is has_true
    assert not report.differs.any() and words in repr(report)


@pytest.mark.parametrize('form', [list, tuple, lambda grads: grads[0]])
def test_report_of_an_override_that_is_ignored(form):
    recipe = OldRecipe(T.nnet.relu)
    recipe.grad = lambda inputs, gs: form([7 * gs[0]])
    report = check_gradient(recipe)
    if theano.__version__.startswith('0.9'):
        assert report.used
    else:
        assert report.used is False and not report.differs.any()
        assert 'ITS GRAD IS IGNORED' in repr(report)


def test_one_number_by_default_and_the_first_of_several():
    rule = gradmod.override_gradient(
        T.tanh, lambda inputs, gs: gs[0] * T.extra_ops.cumsum(
            T.ones_like(inputs[0])) / inputs[0].size)
    assert check_gradient(rule).values[4, 5] == 1
    assert check_gradient(rule, shape=(4,)).values[4, 5] == .25


@pytest.mark.parametrize('function', [T.tanh, GuidedBackprop(T.tanh)])
def test_integers_have_no_gradient(function):
    with pytest.raises(TypeError, match='expected a float dtype, got int32'):
        check_gradient(function, 'int32')


def test_a_nonlinearity_that_computes_in_more_digits():
    def leaky(z):
        return T.maximum(z, np.float64(.1) * z)
    rule = gradmod.GuidedGradient(leaky)
    report = check_gradient(rule)
    assert rule(T.fvector()).dtype == 'float64'
    assert report.values.dtype == report.true.dtype == 'float32'
    assert not report.differs[:, report.g > 0].any()
