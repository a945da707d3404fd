"""The op that carries a gradient override through a Theano graph."""
from collections import deque
from contextlib import contextmanager

import numpy as np
import theano
import theano.scalar as scalar
import theano.tensor as T
from theano import gof
from theano.compile import optdb
from theano.compile.builders import OpFromGraph
from theano.configparser import change_flags
from theano.compile.ops import Shape, Shape_i
from theano.gof.graph import io_toposort
from theano.gof.null_type import NullType
from theano.gradient import DisconnectedType
from theano.tensor.opt import Assert


@contextmanager
def flags(**values):
    """Theano's ``change_flags``, as a decorator, too, of functions that nest.

    Theano's own keeps the old values in the decorator: those of a call within
    another, or of another thread, replace them.
    """
    with change_flags(**values):
        yield


def walk(variables, parents):
    """Yield `variables` and what `parents` says is above each, nearest first."""
    queue, seen = deque(variables), set()
    while queue:
        variable = queue.popleft()
        if variable not in seen:
            seen.add(variable)
            yield variable
            queue.extend(parents(variable))


def copy_node(node, inputs):
    """The outputs of a copy of `node` with other inputs of the same types."""
    if theano.config.compute_test_value == 'off':
        return node.clone_with_new_inputs(inputs).outputs
    return node.op(*inputs, return_list=True)  # which computes test values


def graft(outputs, memo):
    """Copy the graph between `memo`'s keys and `outputs`, with each key replaced.

    Parameters
    ----------
    outputs : list of Variable
        What to copy.
    memo : dict of Variable to Variable
        Where to stop, and what to put there. Each value must have the type of
        its key. Filled with all variables met on the way.

    Returns
    -------
    list of Variable
        The copies of `outputs`.

    Notes
    -----
    Only the nodes between the keys and `outputs` are copied, whatever the
    graph above the values may be; ``theano.clone`` copies that graph too, and
    so needs exponential time when it is called once per layer of a residual
    network. Every node is new, because Theano's merge refuses a node that
    another function's graph owns; so are constants. Other variables without
    an owner are shared.
    """
    stack = list(outputs)
    while stack:
        variable = stack.pop()
        node = variable.owner
        if variable in memo:
            continue
        if node is None:
            constant = isinstance(variable, gof.Constant)
            memo[variable] = variable.clone() if constant else variable
            continue
        missing = [i for i in node.inputs if i not in memo]
        if missing:
            stack.append(variable)
            stack.extend(missing)
            continue
        copies = copy_node(node, [memo[i] for i in node.inputs])
        for original, copy in zip(node.outputs, copies):
            memo.setdefault(original, copy)
    return [memo[o] for o in outputs]


def conform(variable, type):
    """Return `variable` with exactly the given tensor type.

    Casts the dtype, moves between host and device, and makes the broadcast
    pattern equal; a dimension that the pattern promises to be of length 1 is
    then checked at run time.
    """
    if variable.type == type:
        return variable
    if variable.dtype != type.dtype:
        variable = T.cast(variable, type.dtype)
    if variable.broadcastable != type.broadcastable:
        variable = T.patternbroadcast(variable, type.broadcastable)
    return type.filter_variable(variable)


def parents_since(stand_in):
    """A function from a variable to those that it was made from.

    None for whatever was there before `stand_in`. Theano numbers variables as
    it makes them; one that was unpickled has the number that it had in another
    process, and may look as if it had been made since.
    """
    def number(variable):
        return int(variable.auto_name[len('auto_'):])
    first, last = number(stand_in), number(stand_in.type())
    return lambda v: (v.owner.inputs if v.owner and first <= number(v) <= last
                      else [])


def captured_variables(stand_ins, outputs):
    """Find what `outputs` depend on besides the `stand_ins`.

    Returns the nearest variables that depend on no stand-in (a shared variable,
    or whatever else a closure refers to), but what is made of constants, in a
    fixed order: a gradient with respect to one that a closure refers to stays
    right, however it was computed.
    """
    parents, children = parents_since(stand_ins[0]), {}
    for v in walk(outputs, parents):
        for parent in parents(v):
            children.setdefault(parent, []).append(v)
    inside = set(walk(stand_ins, lambda v: children.get(v, [])))
    return [v for v in walk(
                outputs, lambda v: parents(v) if v in inside else [])
            if not (v in inside
                    or all(isinstance(above, gof.Constant) or parents(above)
                           for above in walk([v], parents))
                    or isinstance(v.type, (DisconnectedType, NullType)))]


def compute_test_values(nodes):
    """Give test values, if they are on, to `nodes` made while they were off."""
    if theano.config.compute_test_value == 'off':
        return
    for node in nodes:
        for v, copy in zip(node.outputs, copy_node(node, node.inputs)):
            if hasattr(copy.tag, 'test_value'):
                v.tag.test_value = copy.tag.test_value


def true_gradients(output, wrt, output_grad, disconnected):
    """Theano's own gradients; `disconnected` as for ``theano.grad``."""
    if not wrt:
        return []
    return theano.grad(
        None, wrt, known_grads={output: output_grad}, null_gradients='return',
        disconnected_inputs='ignore', return_disconnected=disconnected)


def _depends(variable, on):
    """Whether the values, not only the shape, of `variable` depend on `on`."""
    def parents(variable):
        op = variable.owner and variable.owner.op
        if op is None or isinstance(op, (Shape, Shape_i)):
            return []
        fill = isinstance(getattr(op, 'scalar_op', None), scalar.Second)
        return variable.owner.inputs[1 if fill else 0:]

    return on in walk([variable], parents)


class GradientOverrideOp(OpFromGraph):
    """An ``OpFromGraph`` of one output whose gradient is an expression.

    Theano's own class wraps an overridden gradient in a second op, whose
    gradient is a third, and so on. This one calls `grad_overrides` once, keeps
    the resulting expressions and copies them onto the outer graph whenever
    ``theano.grad`` asks: what stands there afterwards are ordinary nodes, to
    differentiate, pickle and optimize as any others.

    When a function is compiled the op gives way to its inner graph. Modes
    without that rewrite run the op as it is.

    Parameters
    ----------
    inputs : list of Variable
        Stand-ins for the inputs, made for this op.
    outputs : list of Variable
        One expression in terms of `inputs`. Whatever else it or the gradient
        depends on (see `captured_variables`) becomes a further input, which
        callers need not give and whose gradient is the true one.
    grad_overrides : callable
        Called once, with ``(inputs, [output_grad])``; returns a list with one
        expression per input, of that input's type.
    name : str
        How the op appears in ``theano.printing.debugprint``.

    Raises
    ------
    ValueError
        If the graph draws random numbers: all uses of the op would share one
        draw.
    """

    def __init__(self, inputs, outputs, grad_overrides, name):
        (output,) = outputs
        output_grad = output.type()
        gradients = list(grad_overrides(inputs, [output_grad]))
        parents = parents_since(inputs[0])
        for variable in walk([output] + gradients, parents):
            if getattr(variable, 'default_update', None) is not None:
                raise ValueError(
                    '%s draws random numbers (%s has an update). All uses of '
                    'it would share one draw: draw outside, and let the '
                    'function refer to the result.' % (name, variable))
        captured = captured_variables(inputs + [output_grad],
                                      [output] + gradients)
        older = [v for v in walk(captured, parents) if not parents(v)]
        self.made = io_toposort(older, captured)  # without test values
        more = [v.type() for v in captured]
        memo = dict(zip(inputs + captured, inputs + more))
        memo[output_grad] = output_grad
        output, *self.gradients = graft([output] + gradients, memo)
        try:  # of the stand-ins: what is captured may depend on each other
            self.gradients += true_gradients(output, more, output_grad,
                                             'Disconnected')
        except Exception as error:  # no matter, unless somebody needs one
            reason = '%s cannot be differentiated: %s' % (name, error)
            self.gradients += [NullType(reason)() for _ in captured]
        self.output_grad = output_grad
        super().__init__(inputs=inputs + more, outputs=[output], name=name,
                         on_unused_input='ignore')
        # The name under which Theano keeps inputs that callers need not give.
        self.shared_inputs = captured

    def __str__(self):
        return self.name

    def make_node(self, *inputs):
        if len(inputs) != len(self.inputs):  # else a node of ours, made anew
            inputs += tuple(self.shared_inputs)
            compute_test_values(self.made)
        if len(inputs) != len(self.inputs):
            raise ValueError('%s takes %d inputs, got %d' % (
                self, len(self.inputs) - len(self.shared_inputs),
                len(inputs) - len(self.shared_inputs)))
        return gof.Apply(
            self,
            [t.filter_variable(v) for t, v in zip(self.input_types, inputs)],
            [t() for t in self.output_types])

    def connection_pattern(self, node):
        return [[not isinstance(g.type, DisconnectedType)]
                for g in self.gradients]

    def L_op(self, inputs, outputs, output_grads):
        (y,), (g,) = outputs, output_grads
        if isinstance(g.type, DisconnectedType):
            g = y.zeros_like()
        memo = dict(zip(self.inputs, inputs))
        memo[self.output_grad] = conform(g, self.output_grad.type)
        return graft(self.gradients, memo)

    def R_op(self, inputs, eval_points):
        points = [v and v.type() for v in eval_points]
        forward = self._forward(points)
        if forward is None:
            return [None]
        memo = dict(zip(self.inputs, inputs))
        memo.update((p, v) for p, v in zip(points, eval_points) if p)
        # for its shape alone
        (memo[self.output_grad],) = graft(self.outputs, dict(memo))
        return graft([forward], memo)

    @flags(compute_test_value='off')  # the stand-ins have none
    def _forward(self, points):
        """J v, for points v: only for an override that is linear.

        The override computes J' g. If it is linear in g, then J v is the
        derivative of <J' g, v> with respect to g. Otherwise there is no J,
        and what Theano would compute here is the gradient not overridden.
        """
        g, terms = self.output_grad, []
        for v, gradient in zip(points, self.gradients):
            if (v is None or v.dtype in T.discrete_dtypes
                    or isinstance(gradient.type, DisconnectedType)):
                continue
            if isinstance(gradient.type, NullType):
                raise NotImplementedError(
                    '%s has no forward mode (theano.Rop): %s' %
                    (self, gradient.type.why_null))
            term = theano.grad(None, g, known_grads={gradient: v},
                               disconnected_inputs='ignore')
            if _depends(term, g):
                raise NotImplementedError(
                    '%s has no forward mode (theano.Rop): its gradient is not '
                    'linear in the incoming gradient' % self)
            # What Theano takes for constant may not be: a sign, a rounding,
            # or what it was told to take for that. So is <J' g, v> = <J v, g>?
            some = T.cos(T.arange(g.size, dtype=g.dtype))
            some = conform(some.reshape(g.shape, g.ndim), g.type)
            (at_zero,) = graft([gradient], {g: g.zeros_like()})
            (at_some,) = graft([gradient], {g: some})
            left, right = at_some * v, term * some
            size = abs(left).sum() + abs(right).sum()
            rounding = float(100 * np.finfo(g.dtype).eps)
            terms.append(Assert(
                '%s has no forward mode (theano.Rop): its gradient is not '
                'linear in the incoming gradient' % self)(
                    term, T.invert((abs(at_zero) > 0).any()),
                    T.invert(abs(left.sum() - right.sum()) >
                             1e-3 * size + rounding * abs(v).sum())))
        return sum(terms[1:], terms[0]) if terms else None


@gof.local_optimizer([GradientOverrideOp])
def expand_gradient_override(node):
    """Replace the op by its inner graph."""
    if isinstance(node.op, GradientOverrideOp):
        return graft(node.op.local_outputs,
                     dict(zip(node.op.local_inputs, node.inputs)))


# Before the first merge and the first scan optimization, as Theano does with
# its own ``OpFromGraph(inline=True)``.
optdb.register('expand_gradient_override',
               gof.opt.in2out(expand_gradient_override),
               -0.01, 'fast_compile', 'fast_run')
