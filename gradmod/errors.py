"""How errors name things, and the checks that several modules share."""
import difflib
import numbers

import theano.tensor as T

from ._theano import Elemwise, TensorVariable, Variable


def describe(value):
    """A value, as errors say what they got."""
    if isinstance(value, Variable):
        return f'a variable of type {value.type}'
    return f'{type(value).__name__} ({value!r:.60})'


def name_of(function):
    """A function, a rule or an op, as errors and reports call it."""
    if isinstance(function, Elemwise):
        return str(function.scalar_op).replace('scalar_', '')
    return getattr(function, '__name__', type(function).__name__)


def perhaps(name, known):
    """What to say of a name that is not among those known."""
    close = difflib.get_close_matches(str(name), known, 1)
    return (f'perhaps you meant {close[0]!r}' if close else
            f'there are {", ".join(map(repr, known)) or "none"}')


def is_float_tensor(value):
    return isinstance(value, TensorVariable) and value.dtype in T.float_dtypes


def check_count(name, value):
    """An int from 1 up: others would give NaN, or nothing, without a word."""
    if not (isinstance(value, numbers.Integral) and value >= 1):
        raise ValueError(f'expected {name} to be a positive int, got '
                         f'{describe(value)}')
