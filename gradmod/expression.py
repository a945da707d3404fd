"""Rules on an expression that is already built, whatever built it."""
import warnings
from collections import Counter, namedtuple
from copy import copy

from ._theano import (Constant, OpFromGraph, Scan, Variable, graph_inputs,
                      io_toposort)
from .base import ModifiedBackprop, check_rule
from .errors import name_of
from .graphs import conform, copy_node, graft, inputs_of, nodes_above, walk
from .matching import RECTIFIERS, Matcher
from .report import Report

HEADINGS = 'depth', 'loops', 'form', 'input'
RELATIVE = 'no ReLU; to include it, put a rule around its function'


class Match(namedtuple('Match', 'input output form depth scans rule')):
    """Where a nonlinearity is in a graph.

    Attributes
    ----------
    input, output : Variable
        What goes into the nonlinearity, and what comes out.
    form : str
        What it looks like: a key of `RECTIFIERS`, or a function's name.
    depth : int
        How many matches lie between this one and the graph's inputs.
    scans : int
        How many loops (``theano.scan``) it is in.
    rule : ModifiedBackprop or None
        The rule there, if any.
    """

    @property
    def cells(self):
        """The row of a `Report`."""
        return (str(self.depth), str(self.scans), self.form, str(self.input),
                str(self.rule))


def override_in(outputs, rule, match=None, select=None):
    """Apply a rule wherever its nonlinearity is in an expression.

    Parameters
    ----------
    outputs : Variable or list of Variable
        The expression, such as a network's logits: before any gradient is
        taken, and before it is compiled. It stays as it is.
    rule : callable
        What to apply: a subclass of `ModifiedBackprop`, or a function from a
        nonlinearity to a rule, ``lambda f: RectGrad(f, threshold=.1)``, called
        for each rectifier, in whatever way that is written; or an instance of
        `ModifiedBackprop` (a result of `override_gradient` is one), for its
        own nonlinearity alone.
    match : callable, list of callable or dict of str to callable, optional
        What to look for instead: functions of one Theano variable, which match
        where the graph has the structure that they build, such as ``T.tanh``;
        or functions with one parameter, named `node`, which get each
        ``theano.Apply`` and say whether it is one (its input is then the
        node's first). A dict says how they are called in the report, as
        `RECTIFIERS` does.
    select : callable, optional
        Called with each `Match`; what it refuses is left alone.

    Returns
    -------
    overridden : Variable or list of Variable
        New expressions of the same values, types and names. ``theano.grad`` of
        these uses the rule. To take a gradient with respect to a variable
        within the expression, have it among `outputs`: what is given back for
        it is that variable in the new expressions.
    report : gradmod.report.Report
        Where the rule was applied, as a sequence of `Match`. It prints as a
        table that also has what was left alone, and why.

    Warns
    -----
    UserWarning
        If leaky rectifiers, ELUs, softplus, ... are left alone beside
        rectifiers, or rectifiers that are inside of another rule or an
        ``OpFromGraph``, unless `match` or `select` is given.

    Raises
    ------
    TypeError
        If `rule` is no rule, or a function that returns none; if a function in
        `match` fails for all variables by a mistake; if `outputs` belong to a
        compiled function.
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
    is found, so values never change. What is inside ``theano.scan`` is found
    too, what is inside an ``OpFromGraph`` not. What already carries an
    override is left alone.

    Leaky rectifiers, PReLU, ELU and softplus are left alone: a rule made for
    ReLU says something else there (`GuidedBackprop` drops their slope below
    zero). So is a rectifier that is half of a leaky one: in Keras's
    ``relu(x) - a * relu(-x)``, in its PReLU, ``relu(x) + a * (x - abs(x)) *
    .5``, in ``relu(x) + a * minimum(x, 0)`` and ``x * (x > 0) + a * x *
    (x < 0)``, with factors on either side. A rule around the whole function,
    such as ``GuidedGradient(leaky)``, finds that, and a rule around the
    rectifier itself, ``GuidedBackprop(relu)``, its halves.

    A gradient is recognised by the terms that the derivative of the
    nonlinearity leaves behind. That fails where the nonlinearity is so simple
    that its derivative does not mention its input, and for ``maximum(x, 0)``
    in a loop, whose gradient takes the maximum from outside.

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
    depth  loops  form           input                       rule
    0      0      maximum(x, 0)  Elemwise{sub,no_inplace}.0  GuidedBackprop(maximum(x, 0))
    """
    single = isinstance(outputs, Variable)
    outputs = [outputs] if single else list(outputs)
    for v in outputs:
        if getattr(v, 'fgraph', None):
            raise TypeError(f'{v} belongs to a compiled function, whose graph '
                            'is optimized: pass the expression it came from')
    check_rule(rule)
    forms = _forms(rule, match)
    matcher = Matcher(forms, outputs)
    found, _ = _find(outputs, matcher)
    matches = [m for m, captured in found if captured is not None]
    wanted = (' or '.join(form for form, _ in forms[:3])
              + ', ...' * (len(forms) > 3))
    gradient = matcher.find_gradient(outputs, matches)
    if gradient is not None:
        raise ValueError(f'{gradient} is part of a gradient through {wanted}: '
                         'apply the rule first, then take the gradient')
    chosen = {m.output: (m, captured) for m, captured in found
              if captured is not None and (select is None or select(m))}
    if not chosen:
        raise ValueError(f'expected {wanted} in the expression, found '
                         + _what_is_there(outputs, matches))
    _check_overlap(chosen)
    relatives = [m for m, captured in found if captured is None]
    if relatives and match is select is None:
        warnings.warn(
            f'override_in leaves alone what is no ReLU: {_counts(relatives)}. '
            'To include a function f, apply GuidedGradient(f) as well', stacklevel=2)
    told = match or select or isinstance(rule, ModifiedBackprop)
    hidden = '' if told else _hidden(outputs)
    if hidden:
        warnings.warn(
            f'override_in leaves alone the rectifiers inside of {hidden}: put no '
            'other rule (or OpFromGraph) there to include them', stacklevel=2)
    new = _rebuild(outputs, chosen, rule)
    report = Report(HEADINGS, [
        (chosen[m.output][0], None) if m.output in chosen else
        (m, RELATIVE if captured is None else 'not selected')
        for m, captured in found])
    return (new[0] if single else new), report


def _forms(rule, match):
    """Pairs of a name and a function to look for; names may repeat."""
    if match is None:
        match = getattr(rule, 'nonlinearity', RECTIFIERS)
    if isinstance(match, dict):
        return list(match.items())
    functions = match if isinstance(match, (list, tuple)) else [match]
    return [(name_of(f), f) for f in functions]


def _counts(matches):
    return ', '.join(f'{n} times {form}' for form, n
                     in Counter(m.form for m in matches).items())


def _find(outputs, matcher, depth=0, scans=0):
    """Pairs of a `Match` and what it refers to besides its input, which is
    None where it is left alone; and the depth of the outputs."""
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
                found.append((Match(x, v, form, above, scans, None), captured))
                if captured is not None:
                    depths[v] = above + 1
    return found, max([depth] + [depths.get(v, depth) for v in outputs])


def _hidden(outputs):
    """The ops that have a rectifier inside, such as a rule's, with their number.

    There are no matches inside of these: a rule may be there already.
    """
    ops = Counter(node.op for node in nodes_above(outputs)
                  if isinstance(node.op, OpFromGraph))
    matcher = Matcher(RECTIFIERS.items(),
                      [v for op in ops for v in op.local_outputs])
    return ', '.join(f'{n} times {op}' for op, n in ops.items() if any(
        captured is not None
        for _, captured in _find(op.local_outputs, matcher)[0]))


def _what_is_there(outputs, matches):
    if matches:
        return f'{_counts(matches)}, all refused by select'
    others, _ = _find(outputs, Matcher(list(RECTIFIERS.items()), outputs))
    for is_relative, advice in (
            (False, 'perhaps you meant match=gradmod.RECTIFIERS, or a class as rule'),
            (True, 'put a rule around it, such as GuidedGradient(leaky_rectify)')):
        alike = [m for m, captured in others
                 if (captured is None) == is_relative]
        if alike:
            return f'none, but {_counts(alike)}: {advice}'
    ops = Counter(str(node.op) for node in nodes_above(outputs)).most_common(8)
    return f'none among {", ".join(f"{n} times {op}" for op, n in ops)}'


def _check_overlap(chosen):
    """A match within the structure of another would lose its rule."""
    for match, captured in chosen.values():
        ends = {match.input, *captured}
        for v in walk(match.output.owner.inputs,
                      lambda v: [] if v in ends else inputs_of(v)):
            if v in chosen and v not in ends:
                raise ValueError(f'{chosen[v][0].form} is a part of '
                                 f'{match.form}: choose by match or select')


# Rebuilding

def _rebuild(outputs, chosen, rule):
    """Copy what is below the chosen, with the rule put in their places."""
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
                new = _apply(rule, v, chosen, memo)
            if new is not v:
                memo[v] = new
                new.name = v.name
                for key, value in vars(v.tag).items():
                    vars(new.tag).setdefault(key, value)
    return [memo.get(v, v) for v in outputs]


def _apply(rule, output, chosen, done):
    """The rule around a copy of the forward pass as it was found."""
    match, captured = chosen[output]

    def nonlinearity(z):
        memo = {v: done.get(v, v) for v in captured}
        memo[match.input] = z
        return graft([output], memo)[0]
    nonlinearity.__name__ = match.form
    placed = (rule.around if isinstance(rule, ModifiedBackprop) else rule)(
        nonlinearity)
    check_rule(placed, function=False)
    chosen[output] = match._replace(rule=placed), captured
    return conform(placed(done.get(match.input, match.input)), output.type)


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
