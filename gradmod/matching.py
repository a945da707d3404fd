"""What a nonlinearity looks like in a graph, and how it is recognised."""
import inspect
import itertools
from collections import namedtuple

import numpy as np
import theano.tensor as T
from theano import scalar

from ._theano import Constant, DimShuffle, ancestors
from .errors import is_float_tensor
from .graphs import (flags, inputs_of, nodes_above, parents_since, scalar_op,
                     true_gradients, walk)

#: The ways in which people write a rectifier, by their formula. An infinite
#: bound stands for any constant from 10,000 up.
RECTIFIERS = {
    '0.5 * (x + |x|)': lambda x: T.nnet.relu(x),
    '(x + |x|) / 2': lambda x: (x + abs(x)) / 2,
    'maximum(x, 0)': lambda x: T.maximum(x, 0),
    '-minimum(-x, 0)': lambda x: -T.minimum(-x, 0),
    'switch(x > 0, x, 0)': lambda x: T.switch(x > 0, x, 0),
    'switch(x >= 0, x, 0)': lambda x: T.switch(x >= 0, x, 0),
    'switch(0 < x, x, 0)': lambda x: T.switch(T.lt(0, x), x, 0),
    'switch(x < 0, 0, x)': lambda x: T.switch(x < 0, 0, x),
    'switch(x <= 0, 0, x)': lambda x: T.switch(x <= 0, 0, x),
    'x * (x > 0)': lambda x: x * (x > 0),
    'x * (x >= 0)': lambda x: x * (x >= 0),
    'x * cast(x > 0)': lambda x: x * T.cast(x > 0, x.dtype),
    'x * cast(x >= 0)': lambda x: x * T.cast(x >= 0, x.dtype),
    'clip(x, 0, big)': lambda x: T.clip(x, 0, np.inf),
}

BOUNDED = 'clip(x, 0, 6)'

#: Their relatives, which are not 0 below 0, or not x above: with any a and b, and
#: with an f(x) that is made of x by elementwise operations.
RELATIVES = {
    'a * x + b * |x|': lambda x, a, b: a * x + b * abs(x),
    'maximum(x, a * x)': lambda x, a: T.maximum(x, a * x),
    'switch(x > 0, x, f(x))': lambda x, fx: T.switch(x > 0, x, fx),
    'switch(x >= 0, x, f(x))': lambda x, fx: T.switch(x >= 0, x, fx),
    'switch(0 < x, x, f(x))': lambda x, fx: T.switch(T.lt(0, x), x, fx),
    'switch(x < 0, f(x), x)': lambda x, fx: T.switch(x < 0, fx, x),
    'switch(x <= 0, f(x), x)': lambda x, fx: T.switch(x <= 0, fx, x),
    BOUNDED: lambda x: T.clip(x, 0, 6),
    'softplus(x)': lambda x: T.nnet.softplus(x),
    'log(1 + exp(x))': lambda x: T.log(1 + T.exp(x)),
    'log1p(exp(x))': lambda x: T.log1p(T.exp(x)),
}

#: What is 0 where x is positive, or makes so what is multiplied with it.
NEGATIVE_PARTS = [lambda x: T.minimum(x, 0), lambda x: x - abs(x),
                  lambda x: x < 0, lambda x: x <= 0,
                  *(lambda x, f=f: f(-x) for f in RECTIFIERS.values())]

# What is built to be compared needs no test values, nor the line it came from.
SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}


class Pattern(namedtuple('Pattern', 'form x y free captured')):
    """What a function of `x` builds, `y`.

    `free` has the variables that stand for others, `x` among them, each with
    the type that those must have, or None. `captured` are those that the
    function refers to besides.
    """


class Matcher:
    """Recognises the forms of a nonlinearity among the nodes of a graph.

    Parameters
    ----------
    forms : list of (str, callable)
        Functions of a variable, or of a node, as for `override_in`.
    outputs : list of Variable
        The graph. Where all `RECTIFIERS` are looked for, halves of leaky ones
        are told apart from them.
    """

    def __init__(self, forms, outputs):
        types = dict.fromkeys(v.type for node in nodes_above(outputs)
                              for v in node.inputs if is_float_tensor(v))
        self._predicates = [(form, f) for form, f in forms
                            if _parameters(f) == ['node']]
        self._patterns = patterns(forms, types)
        self._relatives, self._halves, self._sums = {}, set(), {}
        if all(form in forms for form in RECTIFIERS.items()):
            self._relatives = patterns(RELATIVES.items(), types, more=True)
            self._find_halves(outputs, types)

    def match(self, v):
        """The form of `v`, its input and what else it refers to; or None.

        Of a relative of rectifiers, None is in the place of the last.
        """
        match = None if v in self._halves else self._match_patterns(v)
        if match:
            return match
        for form, predicate in self._predicates:
            if v.index == 0 and v.owner.inputs and predicate(v.owner):
                x, *others = v.owner.inputs
                if _constant(x) is not None or not is_float_tensor(x):
                    raise ValueError(f'{form}: expected a node whose first '
                                     f'input is a float tensor, got {v.owner}')
                return form, x, others
        for pattern, bound in bindings(self._relatives, v):
            x = bound[pattern.x]
            if pattern.form == BOUNDED and self._match_patterns(x):
                continue  # only an upper bound, as in Keras' max_value
            if all(_is_elementwise(bound[f], x) for f in pattern.free
                   if f.name == 'fx'):
                return pattern.form, x, None
        x, *halves = self._sums.get(v, [None])
        if self._halves.intersection(halves):
            return 'maximum(x, 0) + a * minimum(x, 0)', x, None

    def _match_patterns(self, v):
        return next((
            (pattern.form, bound[pattern.x], pattern.captured)
            for pattern, bound in bindings(self._patterns, v)
            if pattern.x in bound), None)

    def _find_halves(self, outputs, types):
        """Those that are used as nothing else, and what they add up to."""
        negatives = patterns(enumerate(NEGATIVE_PARTS), types)
        clients, uses = {}, {}
        for node in nodes_above(outputs):
            for v in node.inputs:
                clients.setdefault(v, set()).add(node)
            if scalar_op(node.outputs[0]) not in (scalar.add, scalar.sub):
                continue
            positive, negative = [], {}
            for term in node.inputs:
                for v in walk([term], _factors):
                    match = self._match_patterns(v)
                    if match:
                        positive.append((match[1], v, term))
                    for pattern, bound in bindings(negatives, v):
                        negative.setdefault(bound[pattern.x], []).append(
                            (v, term))
            for x, v, term in positive:
                for w, other in negative.get(x, ()):
                    if term is not other:
                        self._sums[node.outputs[0]] = x, v, w
                        for half, above in (v, term), (w, other):
                            uses.setdefault(half, {node}).update(
                                u.owner for u in walk([above], _factors)
                                if _factors(u))
        self._halves = {v for v in uses
                        if clients[v] <= uses[v] and v not in outputs}

    def find_gradient(self, outputs, matches):
        """What looks like a term of a gradient through one of `matches`."""
        inputs = {m.input for m in matches}
        forward = {m.output for m in matches}
        forms = {(m.form, m.input.type) for m in matches}
        terms = {}
        for pattern in itertools.chain(*self._patterns.values()):
            if (pattern.form, pattern.x.type) in forms:
                for term in _gradient_terms(pattern):
                    terms.setdefault(term.y.owner.op, []).append(term)
        for node in nodes_above(outputs):
            for v in node.outputs:
                for pattern, bound in bindings(terms, v):
                    if bound[pattern.x] in inputs and v not in forward:
                        return v


# Patterns

def _parameters(function):
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # something built in
        return []


@flags(**SCRATCH)
def patterns(forms, types, more=False):
    """What functions build from variables of these types, by its last op.

    With `more`, parameters besides the first stand for any variables.
    """
    made_of = {}
    for form, f in forms:
        names, made, mistake = _parameters(f), False, None
        for type in types if names != ['node'] else ():
            x = type()
            free = {x: type, **{type(n): None for n in names[1:] if more}}
            try:
                y = f(*free)
            except Exception as error:  # no function of such a variable
                mistake = error
                continue
            (y,) = y if isinstance(y, (list, tuple)) else [y]
            if y.owner is None:
                raise ValueError(f'{form} leaves no op in a graph and cannot '
                                 'be looked for')
            made = made_of.setdefault(y.owner.op, [])
            made.append(Pattern(form, x, y, free, set(
                walk([y], parents_since(x))) - {x}))
        if not made and isinstance(mistake, (AttributeError, NameError)):
            raise TypeError(f'{form} cannot be applied to any variable of the '
                            f'expression: {mistake}') from mistake
    return made_of


@flags(**SCRATCH)
def _gradient_terms(pattern):
    """The terms of f'(x) g that depend on x and on g, as patterns."""
    x, g = pattern.x, pattern.y.type()
    terms = []
    try:
        stack = true_gradients(pattern.y, [x], g, 'zero')
    except Exception:  # not differentiable
        return terms
    while stack:
        term = stack.pop()
        if {x, g} <= set(ancestors([term])) and term.owner:
            if scalar_op(term) == scalar.add:
                stack.extend(term.owner.inputs)
            else:
                terms.append(pattern._replace(
                    y=term, free={x: x.type, g: g.type}))
    return terms


# Unification

def bindings(patterns, v):
    """Those of `patterns` that `v` matches, and what they are bound to."""
    for pattern in patterns.get(v.owner and v.owner.op, ()):
        for bound in _unify([pattern.y], [v], {}, pattern.free):
            yield pattern, bound


def _unify(patterns, variables, bound, free):
    """Yield the bindings of `free` variables that make the two lists equal."""
    if not patterns:
        yield bound
        return
    for b in _unify_one(patterns[0], variables[0], bound, free):
        yield from _unify(patterns[1:], variables[1:], b, free)


def _unify_one(pattern, v, bound, free):
    p, n = pattern.owner, v.owner
    if pattern in free:
        if bound.get(pattern, v) is v and free[pattern] in (None, v.type):
            yield {**bound, pattern: v}
    elif pattern is v:
        yield bound
    elif _constant(pattern) is not None:
        value = _constant(v)
        if value is not None and _equal(_constant(pattern), value):
            yield bound
    elif (p and n and p.op == n.op and pattern.index == v.index
            and len(p.inputs) == len(n.inputs)):
        commutative = getattr(scalar_op(pattern), 'commutative', False)
        for order in (itertools.permutations(n.inputs) if commutative
                      else [n.inputs]):
            yield from _unify(p.inputs, order, bound, free)


def _constant(v):
    """The value of a constant, seen through broadcasting; or None."""
    if isinstance(v, Constant):
        return v.data
    op = v.owner and v.owner.op
    if isinstance(scalar_op(v), (scalar.Cast, scalar.Second)):
        return _constant(v.owner.inputs[-1])
    if isinstance(op, T.Alloc):
        return _constant(v.owner.inputs[0])
    if isinstance(op, DimShuffle):
        value = _constant(v.owner.inputs[0])
        return value if value is None else value.transpose(
            op.shuffle + op.drop).reshape(
                [1 if i == 'x' else value.shape[i] for i in op.new_order])


def _equal(pattern, value):
    if np.size(pattern) == 1 and np.isposinf(pattern):
        return bool(np.min(value) >= 1e4)
    try:
        return np.array_equal(*np.broadcast_arrays(pattern, value))
    except ValueError:
        return False


# Elementwise operations

def _is_elementwise(v, x):
    """Whether `v` is made of `x` by elementwise operations."""
    return x in walk([v], lambda v: (
        inputs_of(v) if v is not x and scalar_op(v) else []))


def _factors(v):
    """What `v` is a product of; or what is negated, bounded or cast."""
    op = scalar_op(v)
    if op == scalar.mul:
        return v.owner.inputs
    passes = (op in (scalar.neg, scalar.true_div, scalar.clip)
              or isinstance(op, scalar.Cast))
    return v.owner.inputs[:1] if passes else []
