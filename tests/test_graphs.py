import pickle

import numpy as np
import pytest
import theano
import theano.tensor as T

from gradmod._theano import Constant, ancestors, change_flags
from gradmod.graphs import (captured_variables, conform, flags, graft,
                            inputs_of, nodes_below, parents_since, roots,
                            true_gradients, walk)

from .test_base import PY, W, Z, check

pytestmark = pytest.mark.usefixtures('no_compiler')


def test_walk_is_nearest_first_and_once():
    x = T.fvector()
    h = x * 2
    y = h + T.exp(h)
    assert list(walk([y], inputs_of))[:2] == [y, h]
    assert list(walk([y, y], inputs_of)).count(x) == 1
    assert list(walk([x], inputs_of)) == [x]


def test_what_lies_below_and_what_things_are_made_from():
    x, y = T.fvectors('xy')
    a = T.exp(x)
    b, c = a * y, T.exp(y)
    assert list(nodes_below([x], [b, c])) == [a.owner, b.owner]
    assert list(nodes_below([x], [b, c], [a])) == []
    assert {*roots([b + theano.shared(np.ones(3, 'f')), c + 1])} == {x, y}


def test_flags_of_functions_that_nest():
    # Theano's decorator keeps the last call's old values alone
    seen = []

    @flags(compute_test_value='off')
    def nested(depth):
        seen.append(theano.config.compute_test_value)
        if depth:
            nested(depth - 1)
    with change_flags(compute_test_value='warn'):
        nested(2)
        with pytest.raises(TypeError):
            nested('x')
        assert theano.config.compute_test_value == 'warn'
    assert seen == ['off'] * 4


def test_graft_copies_what_lies_between_and_nothing_else():
    a, b, x = T.fmatrices('abx')
    below = T.exp(x)
    out = T.tanh(a * b + 2)
    (copy,) = graft([out], {a: below})
    assert copy is not out and copy.owner is not out.owner
    found = set(ancestors([copy]))
    assert below in found and b in found and a not in found
    # every node is new, down to the replacement, which stays as it is
    assert not found & set(v for v in ancestors([out]) if v.owner)
    # two compiled functions must not share a constant
    constants = [v for v in ancestors([out]) if isinstance(v, Constant)]
    assert constants and not found & set(constants)
    check({x: Z, b: W}, [copy], [np.tanh(np.exp(Z) * W + 2)], rtol=1e-6)
    assert graft([a, x], {a: x}) == [x, x]


def test_graft_stops_at_a_second_output():
    # Theano's io_toposort does not, and goes on above it
    a, b, x = T.fmatrices('abx')
    maximum, argmax = T.max_and_argmax(a, axis=1)
    for output in maximum, argmax:
        value = x[0].astype(output.dtype)
        (copy,) = graft([T.exp(output) * b], {output: value})
        assert a not in ancestors([copy]) and value in ancestors([copy])


def test_graft_keeps_a_key_whose_node_is_copied():
    a, x = T.fmatrices('ax')
    maximum, argmax = T.max_and_argmax(a, axis=1)
    for out in argmax + maximum, maximum + argmax:
        (copy,) = graft([out], {maximum: x[0]})
        check({a: Z, x: 9 * W[:, :2]}, [copy],
              [9 * W[0, :2] + Z.argmax(axis=1)])


def test_graft_computes_test_values_when_asked():
    a, x = T.fmatrices('ax')
    out = T.exp(a) + 1
    x.tag.test_value = Z
    with change_flags(compute_test_value='raise'):
        (copy,) = graft([out], {a: x})
    np.testing.assert_allclose(copy.tag.test_value, np.exp(Z) + 1, rtol=1e-6)


def test_conform_casts_and_matches_the_pattern():
    matrix = T.fmatrix().type
    x = T.fmatrix()
    assert conform(x, matrix) is x
    assert conform(T.dmatrix(), matrix).type == matrix
    assert conform(T.frow(), matrix).type == matrix
    row = conform(x, T.frow().type)
    assert row.type == T.frow().type
    f = theano.function([x], row, mode=PY)
    assert f(Z[:1]).shape == (1, 3)
    with pytest.raises(ValueError):
        f(Z)


def test_captured_variables_are_the_nearest_that_depend_on_no_stand_in():
    a, b = T.fmatrices('ab')
    older = T.exp(a)
    x = T.fmatrix('x')
    inside = b + theano.shared(Z)
    out = x * older + inside * T.maximum(x, 0) * T.zeros((2, 3)).sum()
    assert captured_variables([x], [out]) == [older, inside]
    assert captured_variables([x], [x, x + 1]) == []
    constant = T.zeros((2, 3)) + 1  # older now, and made of constants alone
    x = T.fmatrix('x')
    assert captured_variables([x], [x * constant]) == [constant]


@pytest.mark.parametrize('shift', [0, 10 ** 9])
def test_parents_of_what_was_unpickled(shift):
    # its number is that of another process: newer than all, or as a new one's
    x = T.fmatrix('x')
    h = pickle.loads(pickle.dumps(T.exp(T.fmatrix())))
    out = x * 2
    h.auto_name = 'auto_%d' % (int(out.auto_name[5:]) + shift)
    assert parents_since(x)(out) == out.owner.inputs
    assert captured_variables([x], [out * h]) == [h]
    h = pickle.loads(pickle.dumps(T.exp(T.zeros((2, 3)))))  # of constants
    h.auto_name = 'auto_%d' % (int(out.auto_name[5:]) + 10 ** 9)
    assert captured_variables([x], [out * h]) == [h]


def test_true_gradients_of_what_is_disconnected():
    x, g, other = T.fmatrices('xgo')
    y = T.sqr(x)
    assert true_gradients(y, [], g, 'zero') == []
    dx, none = true_gradients(y, [x, other], g, 'Disconnected')
    assert isinstance(none.type, theano.gradient.DisconnectedType)
    dx, zero = true_gradients(y, [x, other], g, 'zero')
    check({x: Z, g: W, other: W}, [dx, zero], [2 * Z * W, 0 * Z])
