"""Tools for Theano graphs, which know of no op of ours."""
from collections import deque
from contextlib import contextmanager

import theano
import theano.tensor as T

from ._theano import (Constant, DisconnectedType, Elemwise, NullType, Scan,
                      change_flags, graph_inputs, io_toposort)


@contextmanager
def flags(**values):
    """Theano's ``change_flags``, as a decorator, too, of functions that nest.

    Theano's own keeps the old values in the decorator: those of a call within
    another, or of another thread, replace them.
    """
    with change_flags(**values):
        yield


def walk(variables, parents):
    """Yield `variables` and what `parents` says is above, nearest first."""
    queue, seen = deque(variables), set()
    while queue:
        variable = queue.popleft()
        if variable not in seen:
            seen.add(variable)
            yield variable
            queue.extend(parents(variable))


def inputs_of(variable):
    """What a variable is computed from: parents for `walk`."""
    return variable.owner.inputs if variable.owner else []


def nodes_above(outputs):
    """All nodes that `outputs` are made by, those inside loops included."""
    for node in io_toposort([], outputs):
        if isinstance(node.op, Scan):
            yield from nodes_above(node.op.outputs)
        yield node


def nodes_below(variables, outputs, fixed=()):
    """The nodes through which `outputs` depend on `variables`, in order.

    What is `fixed` counts as given, whatever it was made from.
    """
    below = set(variables)
    for node in io_toposort([*variables, *fixed], outputs):
        if below.intersection(node.inputs):
            below.update(node.outputs)
            yield node


def is_root(variable):
    """Whether somebody has to give its value."""
    return not (variable.owner or isinstance(variable, Constant)
                or hasattr(variable, 'get_value'))


def roots(variables):
    """What they are made from, but for constants and shared variables."""
    return [v for v in graph_inputs(variables) if is_root(v)]


def scalar_op(variable):
    """What a variable is made by elementwise, as a scalar op; or None."""
    op = variable.owner and variable.owner.op
    return op.scalar_op if isinstance(op, Elemwise) else None


def copy_node(node, inputs):
    """The outputs of a copy of `node` with other inputs of the same types."""
    if theano.config.compute_test_value == 'off':
        return node.clone_with_new_inputs(inputs).outputs
    return node.op(*inputs, return_list=True)  # which computes test values


def graft(outputs, memo):
    """Copy the graph between `memo`'s keys and `outputs`, the keys replaced.

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
            constant = isinstance(variable, Constant)
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
    return lambda v: inputs_of(v) if first <= number(v) <= last else []


def captured_variables(stand_ins, outputs):
    """Find what `outputs` depend on besides the `stand_ins`.

    Returns the nearest variables that depend on no stand-in (a shared
    variable, or whatever else a closure refers to), but what is made of
    constants, in a fixed order: a gradient with respect to one that a closure
    refers to stays right, however it was computed.
    """
    parents, children = parents_since(stand_ins[0]), {}
    for v in walk(outputs, parents):
        for parent in parents(v):
            children.setdefault(parent, []).append(v)
    inside = set(walk(stand_ins, lambda v: children.get(v, [])))
    return [v for v in walk(
                outputs, lambda v: parents(v) if v in inside else [])
            if not (v in inside
                    or all(isinstance(above, Constant) or parents(above)
                           for above in walk([v], parents))
                    or isinstance(v.type, (DisconnectedType, NullType)))]


def compute_test_values(nodes):
    """Give test values, if they are on, to `nodes` made when they were off."""
    if theano.config.compute_test_value == 'off':
        return
    for node in nodes:
        for v, copy in zip(node.outputs, copy_node(node, node.inputs)):
            if hasattr(copy.tag, 'test_value'):
                v.tag.test_value = copy.tag.test_value


def true_gradients(output, wrt, output_grad, disconnected, null='return'):
    """Theano's own gradients, disconnected and null ones as for its `grad`."""
    return theano.grad(
        None, wrt, known_grads={output: output_grad}, null_gradients=null,
        disconnected_inputs='ignore', return_disconnected=disconnected)
