"""Rules on an expression that is already built, whatever built it."""
import inspect
import itertools
from collections import Counter, OrderedDict, namedtuple
from copy import copy

import numpy as np
import theano.tensor as T
from theano import scalar

from ._theano import (Constant, DimShuffle, Elemwise, Scan, Variable, ancestors,
                      graph_inputs, io_toposort)
from .base import ModifiedBackprop
from .errors import describe, is_float_tensor, name_of
from .graphs import (conform, copy_node, flags, graft, inputs_of, parents_since,
                     true_gradients, walk)
from .op import GradientOverrideOp

#: The ways in which people write a rectifier, by their formula. An infinite
#: bound stands for any constant from 10,000 up.
RECTIFIERS = OrderedDict([
    ('0.5 * (x + |x|)', lambda x: T.nnet.relu(x)),
    ('(x + |x|) / 2', lambda x: (x + abs(x)) / 2),
    ('maximum(x, 0)', lambda x: T.maximum(x, 0)),
    ('switch(x > 0, x, 0)', lambda x: T.switch(x > 0, x, 0)),
    ('switch(x >= 0, x, 0)', lambda x: T.switch(x >= 0, x, 0)),
    ('switch(0 < x, x, 0)', lambda x: T.switch(T.lt(0, x), x, 0)),
    ('switch(x < 0, 0, x)', lambda x: T.switch(x < 0, 0, x)),
    ('switch(x <= 0, 0, x)', lambda x: T.switch(x <= 0, 0, x)),
    ('x * (x > 0)', lambda x: x * (x > 0)),
    ('x * cast(x > 0)', lambda x: x * T.cast(x > 0, x.dtype)),
    ('clip(x, 0, big)', lambda x: T.clip(x, 0, np.inf)),
])

Place = namedtuple('Place', 'input output form depth scans')
Place.__doc__ = """A place in a graph where a nonlinearity is applied.

Attributes
----------
input, output : Variable
    What goes into the nonlinearity, and what comes out.
form : str
    What it looks like: a key of `RECTIFIERS`, or a function's name.
depth : int
    How many such places lie between this one and the graph's inputs.
scans : int
    How many loops (``theano.scan``) it is in.
"""


class Report(list):
    """The places that were given a rule, as a list that prints as a table."""

    def __repr__(self):
        rows = [('depth', 'scans', 'form', 'input')]
        rows += [(str(p.depth), str(p.scans), p.form, str(p.input))
                 for p in self]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return '\n'.join(
            '  '.join([c.ljust(w) for c, w in zip(row, widths)] + [row[3]])
            for row in rows)


def override_in(outputs, rule, match=None, select=None):
    """Apply a rule wherever its nonlinearity is in an expression.

    Parameters
    ----------
    outputs : Variable or list of Variable
        The expression, such as a network's logits: before any gradient is
        taken, and before it is compiled. It stays as it is.
    rule : ModifiedBackprop, subclass of it, or result of `override_gradient`
        What to apply. An instance is looked for by its own nonlinearity; a
        class by all the ways in which people write a rectifier.
    match : callable, list of callable or dict of str to callable, optional
        What to look for instead: functions of one Theano variable, which match
        where the graph has the structure that they build, such as ``T.tanh``;
        or functions with one parameter, named `node`, which get each
        ``theano.Apply`` and say whether it is one (its input is then the
        node's first). A dict says how they are called in the report, as
        `RECTIFIERS` does.
    select : callable, optional
        Called with each `Place`; what it refuses is left alone.

    Returns
    -------
    overridden : Variable or list of Variable
        New expressions of the same values, types and names. ``theano.grad`` of
        these uses the rule.
    report : list of Place
        Where the rule was applied; it prints as a table.

    Raises
    ------
    TypeError
        If an argument is not of the kind described.
    ValueError
        If nothing matches, or nothing is selected; the message says what is
        there. If a gradient through such a nonlinearity is in the expression
        already: a rule would come too late for that.

    Notes
    -----
    The order is: build the network, `override_in`, ``theano.grad``.

    Two graphs match if they consist of the same ops, constants of the same
    value (of any dtype) and the same shared and symbolic variables, with the
    inputs of a commutative op in any order. The forward pass is copied as it
    is found, so values never change. Places inside ``theano.scan`` are
    found too, those inside an ``OpFromGraph`` not. What already carries an
    override is left alone.

    Among `RECTIFIERS`, one that is half of a leaky one does not count: in
    Keras's ``relu(x) - a * relu(-x)``, in its PReLU, ``relu(x) + a * (x -
    abs(x)) * .5``, and in ``relu(x) + a * minimum(x, 0)``, with factors on
    either side. A rule around the whole leaky function finds that one, and a
    rule around the rectifier itself, ``GuidedBackprop(relu)``, its halves.

    A gradient is recognised by the terms that the derivative of the
    nonlinearity leaves behind. That fails where the nonlinearity is so simple
    that its derivative does not mention its input.

    Examples
    --------
    >>> import gradmod
    >>> import numpy as np
    >>> import theano, theano.tensor as T
    >>> x = T.vector('x', dtype='float32')
    >>> y = (T.maximum(x - 1, 0) * np.float32([1, -1])).sum()
    >>> guided, report = gradmod.override_in(y, gradmod.GuidedBackprop)
    >>> print(theano.grad(guided, x).eval({x: np.float32([2, 2])}))
    [1. 0.]
    >>> report
    depth  scans  form           input
    0      0      maximum(x, 0)  Elemwise{sub,no_inplace}.0
    """
    single = isinstance(outputs, Variable)
    outputs = [outputs] if single else outputs
    _check_arguments(outputs, rule, select)
    matcher = _Matcher(_forms(rule, match), outputs)
    found = _find(outputs, matcher)[0]
    gradient = matcher.find_gradient(outputs, [place for place, _ in found])
    if found and gradient is not None:
        raise ValueError(
            'override_in: expected an expression without gradients, but %s is '
            'part of a gradient through %s. Apply the rule to the network, '
            'then take the gradient' % (gradient, matcher.wanted))
    chosen = [(place, captured) for place, captured in found
              if select is None or select(place)]
    if not chosen:
        hint = '' if gradient is None else (
            '. If %s comes from a gradient, apply the rule to the network, then '
            'take the gradient' % gradient)
        raise ValueError('override_in: expected %s in the expression, found %s%s'
                         % (matcher.wanted, _what_is_there(outputs, found),
                            hint))
    _check_overlap(chosen)
    new = _rebuild(outputs, dict((p.output, (p, c)) for p, c in chosen), rule)
    return (new[0] if single else new), Report(p for p, _ in chosen)


def _check_arguments(outputs, rule, select):
    if not (isinstance(outputs, (list, tuple)) and outputs and
            all(isinstance(v, Variable) for v in outputs)):
        raise TypeError('override_in: expected a Theano variable or a list of '
                        'them, got %s' % describe(outputs))
    for v in outputs:
        if getattr(v, 'fgraph', None) is not None:
            raise TypeError(
                'override_in: %s belongs to a compiled function, whose graph '
                'is optimized: the nonlinearities may be fused with their '
                'neighbours. Pass the expression that was compiled' % v)
    is_rule = (issubclass(rule, ModifiedBackprop) if inspect.isclass(rule) else
               isinstance(rule, ModifiedBackprop))
    if not is_rule:
        raise TypeError('override_in: expected a rule, such as GuidedBackprop '
                        'or GuidedBackprop(relu), got %s' % describe(rule))
    if not (select is None or callable(select)):
        raise TypeError('override_in: expected select to be a function of a '
                        'Place, got %s' % describe(select))


def _check_overlap(chosen):
    """A place within the structure of another would lose its rule."""
    outputs = dict((place.output, place) for place, _ in chosen)
    for place, captured in chosen:
        ends = {place.input}.union(captured)
        for v in walk(place.output.owner.inputs, lambda v: (
                v.owner.inputs if v.owner and v not in ends else [])):
            if v in outputs and v not in ends:
                raise ValueError(
                    'override_in: %s of %s is a part of %s; choose one of them '
                    'by match or select' % (outputs[v].form, outputs[v].input,
                                            place.form))


def _forms(rule, match):
    """Pairs of a name and a function to look for; names may repeat."""
    if match is None:
        match = RECTIFIERS if inspect.isclass(rule) else rule.nonlinearity
    if isinstance(match, dict):
        forms = list(match.items())
    else:
        functions = match if isinstance(match, (list, tuple)) else [match]
        forms = [(name_of(f), f) for f in functions]
    if not forms or not all(callable(f) for _, f in forms):
        raise TypeError('override_in: expected match to be a function or a '
                        'list of functions, got %s' % describe(match))
    return forms


# Matching

def _constant(v):
    """The value of a constant, seen through broadcasting; or None."""
    moved = False  # by more than new dimensions in front
    while v.owner:
        op = v.owner.op
        if isinstance(op, DimShuffle):
            (v,) = v.owner.inputs
            kept = list(op.new_order)[len(op.new_order) - v.ndim:]
            moved |= kept != list(range(v.ndim))
        elif isinstance(op, Elemwise) and isinstance(
                op.scalar_op, (scalar.Cast, scalar.Second)):
            v = v.owner.inputs[-1]
        else:
            return None
    if not isinstance(v, Constant):
        return None
    values = np.unique(v.data) if moved else v.data
    return None if moved and values.size > 1 else values


def _same_constant(pattern, value):
    if value is None:
        return False
    if np.size(pattern) == 1 and np.isposinf(pattern):
        return bool(np.min(value) >= 1e4)
    try:
        return np.array_equal(*np.broadcast_arrays(pattern, value))
    except ValueError:
        return False


def _unify(patterns, variables, bound, free):
    """Yield the bindings of `free` variables that make the two lists equal."""
    if not patterns:
        yield bound
        return
    for b in _unify_one(patterns[0], variables[0], bound, free):
        for c in _unify(patterns[1:], variables[1:], b, free):
            yield c


def _unify_one(pattern, v, bound, free):
    p, n = pattern.owner, v.owner
    if pattern in free:
        if bound.get(pattern, v) is v and pattern.type == v.type:
            yield dict(list(bound.items()) + [(pattern, v)])
    elif pattern is v:
        yield bound
    elif _constant(pattern) is not None:
        if _same_constant(_constant(pattern), _constant(v)):
            yield bound
    elif (p and n and p.op == n.op and pattern.index == v.index
            and len(p.inputs) == len(n.inputs)):
        scalar_op = getattr(p.op, 'scalar_op', None)
        orders = (itertools.permutations(n.inputs)
                  if getattr(scalar_op, 'commutative', False) else [n.inputs])
        for order in orders:
            for b in _unify(p.inputs, order, bound, free):
                yield b


# What is built to be compared needs no test values, nor the line it came from.
SCRATCH = {'compute_test_value': 'off', 'traceback.limit': 0}

_Pattern = namedtuple('_Pattern', 'form x y captured')


class _Matcher(object):
    """Recognises the forms of a nonlinearity among the nodes of a graph."""

    def __init__(self, forms, outputs):
        names = [form for form, _ in forms]
        self.wanted = ' or '.join(names) if len(names) < 4 else (
            'a form of rectifier (%s, ...)' % ', '.join(names[:3]))
        self._predicates, self._patterns = [], {}  # these by their root's op
        self._matches = {}  # by variable
        types = OrderedDict.fromkeys(
            v.type for node in _nodes(outputs) for v in node.inputs
            if is_float_tensor(v))
        for form, f in forms:
            if _parameters(f) == ['node']:
                self._predicates.append((form, f))
                continue
            made = [_pattern(form, f, type) for type in types]
            patterns = [p for p in made if isinstance(p, _Pattern)]
            error = made[-1] if made and not patterns else None
            if isinstance(error, (AttributeError, NameError)):  # a mistake in f
                raise TypeError(
                    'override_in: %s cannot be applied to any variable of the '
                    'expression: %s' % (form, error)) from error
            for p in patterns:
                self._patterns.setdefault(p.y.owner.op, []).append(p)
        self.halves = (self._find_halves(outputs)
                       if all(form in forms for form in RECTIFIERS.items())
                       else set())

    def match(self, v):
        """The form of `v`, its input and what else it refers to; or None."""
        match = None if v in self.halves else self._match_pattern(v)
        if match:
            return match
        for form, predicate in self._predicates:
            if v.index == 0 and v.owner.inputs and predicate(v.owner):
                x, *others = v.owner.inputs
                if _constant(x) is not None or not is_float_tensor(x):
                    raise ValueError(
                        'override_in: expected %s to accept nodes whose first '
                        'input is a float variable, got %s' % (form, v.owner))
                return form, x, others

    def _match_pattern(self, v):
        if v not in self._matches:
            self._matches[v] = next(self._pattern_matches(v), None)
        return self._matches[v]

    def _pattern_matches(self, v):
        op = v.owner and v.owner.op
        for form, x, y, captured in self._patterns.get(op, ()):
            for bound in _unify([y], [v], {}, {x}):
                if x in bound:
                    yield form, bound[x], captured

    def _find_halves(self, outputs):
        """The halves of leaky rectifiers, where they are used as nothing else."""
        clients, uses = {}, {}
        for node in _nodes(outputs):
            for v in node.inputs:
                clients.setdefault(v, set()).add(node)
            if _scalar_op(node.outputs[0]) not in (scalar.add, scalar.sub):
                continue
            positive, negative = [], {}
            for i, term in enumerate(node.inputs):
                for v, client in _factors(term, node):
                    match = self._match_pattern(v)
                    if match:
                        positive.append((match[1], i, v, client))
                    negative.setdefault(_negative_part_of(v, match), []).append(
                        (i, v, client))
            for x, i, v, client in positive:
                for j, w, other in negative.get(x, ()):
                    if i != j:
                        uses.setdefault(v, set()).add(client)
                        uses.setdefault(w, set()).add(other)
        return set(v for v in uses
                   if clients[v] <= uses[v] and v not in outputs)

    def find_gradient(self, outputs, places):
        """What looks like a term of a gradient through one of `places`.

        Through any input, if there are no places.
        """
        inputs = set(p.input for p in places)
        forms = set((p.form, p.input.type) for p in places)
        terms = {}
        for pattern in itertools.chain(*self._patterns.values()):
            if not places or (pattern.form, pattern.x.type) in forms:
                for g, term in _gradient_terms(pattern):
                    terms.setdefault(term.owner.op, []).append(
                        (pattern.x, g, term))
        forward = set(p.output for p in places)
        for node in _nodes(outputs) if terms else ():
            for x, g, term in terms.get(node.op, ()):
                for v in node.outputs:
                    for bound in _unify([term], [v], {}, {x, g}):
                        if v not in forward and (
                                not places or bound[x] in inputs):
                            return v


def _scalar_op(v):
    return getattr(v.owner and v.owner.op, 'scalar_op', None)


def _factors(v, client):
    """`v` and what it is a product of, or a bounded one; each with its client."""
    seen, stack = set(), [(v, client)]
    while stack:
        v, client = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        yield v, client
        op = _scalar_op(v)
        if op == scalar.mul:
            stack.extend((i, v.owner) for i in v.owner.inputs)
        elif op in (scalar.neg, scalar.true_div, scalar.clip):
            stack.append((v.owner.inputs[0], v.owner))


def _negative_part_of(v, match):
    """x, if `v` is relu(-x), where relu(-x) has a match, x - |x| or min(x, 0)."""
    op = _scalar_op(v)
    if match and _scalar_op(match[1]) == scalar.neg:
        (x,) = match[1].owner.inputs
        return x
    if op == scalar.sub:
        x, absolute = v.owner.inputs
        if _scalar_op(absolute) == scalar.abs_ and absolute.owner.inputs == [x]:
            return x
    if op == scalar.minimum:
        for x, zero in itertools.permutations(v.owner.inputs, 2):
            if _same_constant(0, _constant(zero)):
                return x


def _parameters(function):
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:  # something built in
        return []


@flags(**SCRATCH)
def _pattern(form, f, type):
    """What `f` builds from a variable of this type, or the error it raises."""
    x = type('x')
    try:
        y = f(x)
    except Exception as error:  # no function of such a variable
        return error
    if isinstance(y, (list, tuple)) and len(y) == 1:
        (y,) = y
    if not isinstance(y, Variable):
        raise TypeError('override_in: expected %s to return a Theano variable, '
                        'got %s' % (form, describe(y)))
    if y.owner is None:
        raise ValueError('override_in: %s leaves no op in a graph and cannot '
                         'be looked for' % form)
    return _Pattern(form, x, y, [
        v for v in walk([y], parents_since(x)) if v is not x])


@flags(**SCRATCH)
def _gradient_terms(pattern):
    """The terms of f'(x) g that depend on x and on g, each with its g."""
    g = pattern.y.type('g')
    try:
        stack = true_gradients(pattern.y, [pattern.x], g, 'zero')
    except Exception:  # not differentiable
        return []
    terms = []
    while stack:
        term = stack.pop()
        if {pattern.x, g} <= set(ancestors([term])) and term.owner:
            if _scalar_op(term) == scalar.add:
                stack.extend(term.owner.inputs)
            else:
                terms.append((g, term))
    return terms


def _nodes(outputs):
    """All nodes above `outputs`, those inside loops included."""
    for node in io_toposort([], outputs):
        if isinstance(node.op, Scan):
            for inner in _nodes(node.op.outputs):
                yield inner
        yield node


def _find(outputs, matcher, depth=0, scans=0):
    """Pairs of a Place and what it refers to, and the depth of the outputs."""
    found, depths = [], {}
    for node in io_toposort([], outputs):
        here = max([depth] + [depths.get(i, depth) for i in node.inputs])
        if isinstance(node.op, Scan):
            inner, here = _find(node.op.outputs, matcher, here, scans + 1)
            found.extend(inner)
        for v in node.outputs:
            depths[v] = here
            match = matcher.match(v)
            if match:
                form, x, captured = match
                above = depths.get(x, depth)
                found.append((Place(x, v, form, above, scans), captured))
                depths[v] = above + 1
    return found, max([depth] + [depths.get(v, depth) for v in outputs])


def _what_is_there(outputs, found):
    if found:
        return '%d such places, all refused by select' % len(found)
    nodes = list(_nodes(outputs))
    others = _Matcher(list(RECTIFIERS.items()), outputs)
    forms = Counter(match[0] for match in (
        others.match(v) for node in nodes for v in node.outputs) if match)
    if forms:
        return '%s: perhaps you meant match=gradmod.RECTIFIERS' % ', '.join(
            '%d times %s' % (n, form) for form, n in forms.items())
    ops = Counter(str(node.op) for node in nodes
                  if isinstance(node.op, (Elemwise, GradientOverrideOp)))
    halves = others.halves and (
        '; %d halves of leaky rectifiers, which are left alone: put the rule '
        'around the whole function' % len(others.halves))
    return 'none, among %d nodes; elementwise: %s%s' % (
        len(nodes), ', '.join('%d times %s' % (n, op) for op, n
                              in ops.most_common(8)) or 'none', halves or '')


# Rebuilding

def _rebuild(outputs, chosen, rule):
    """Copy what lies below the chosen places, with the rule applied there."""
    memo = {}
    for node in io_toposort([], outputs):
        inputs, op = [memo.get(i, i) for i in node.inputs], node.op
        if isinstance(op, Scan):
            op, more = _rebuild_scan(op, chosen, rule)
            inputs += more
        if op is not node.op:
            copies = op(*inputs, return_list=True)
        elif inputs != node.inputs:
            copies = copy_node(node, inputs)
        else:
            copies = node.outputs
        for v, new in zip(node.outputs, copies):
            if v in chosen:
                new = _apply(rule, chosen[v], memo)
            if new is not v:
                memo[v] = new
                new.name = v.name
                for key, value in vars(v.tag).items():
                    vars(new.tag).setdefault(key, value)
    return [memo.get(v, v) for v in outputs]


def _apply(rule, found, done):
    """The rule around a copy of the forward pass as it was found."""
    place, captured = found

    def nonlinearity(z):
        memo = dict((v, done.get(v, v)) for v in captured)
        memo[place.input] = z
        (y,) = graft([place.output], memo)
        return y
    nonlinearity.__name__ = place.form
    if inspect.isclass(rule):
        placed = rule(nonlinearity)
    else:
        placed = rule.around(nonlinearity)
    x = done.get(place.input, place.input)
    return conform(placed(x), place.output.type)


def _rebuild_scan(op, chosen, rule):
    """The loop with the rule inside, and the inputs that it needs besides."""
    outputs = _rebuild(op.outputs, chosen, rule)
    if outputs == op.outputs:
        return op, []
    more = [v for v in graph_inputs(outputs)
            if v not in op.inputs and not isinstance(v, Constant)]
    inputs = [v.type() for v in op.inputs + more]
    outputs = graft(outputs, dict(zip(op.inputs + more, inputs)))
    return Scan(inputs, outputs, copy(op.info)), more
