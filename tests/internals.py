"""What tests use of Theano besides `gradmod._theano`, in Theano-PyMC, too."""
import re

import theano

if hasattr(theano.config, 'change_flags'):  # Theano-PyMC
    from theano.compile.function.types import Function  # noqa: F401
    from theano.graph.op import COp  # noqa: F401
    from theano.graph.toolbox import is_same_graph  # noqa: F401
    from theano.graph.type import Type, generic  # noqa: F401
    from theano.graph.utils import MethodNotDefined
    from theano.link.vm import VMLinker as VM_Linker  # noqa: F401
    from theano.tensor.random.utils import RandomStream as RandomStreams
else:
    from theano.compile.function_module import Function  # noqa: F401
    from theano.gof import Op as COp, Type, generic  # noqa: F401
    from theano.gof.graph import is_same_graph  # noqa: F401
    from theano.gof.utils import MethodNotDefined
    from theano.gof.vm import VM_Linker  # noqa: F401
    from theano.tensor.shared_randomstreams import RandomStreams  # noqa: F401


def little_c_code(monkeypatch, ops='Conv|Corr|Pool'):
    """C code for convolutions and pools alone: most of the time goes there."""
    make = COp.make_c_thunk

    def make_c_thunk(op, *args):
        if not re.search(ops, type(op).__name__):
            raise MethodNotDefined
        return make(op, *args)
    monkeypatch.setattr(COp, 'make_c_thunk', make_c_thunk)
