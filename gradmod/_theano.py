"""What Theano does not export, by the names that gradmod uses.

No other module but `compat` knows where these are, nor which distribution the
package ``theano`` is from: Theano or Theano-PyMC.
"""
from functools import wraps

from theano import config
from theano.compile import optdb  # noqa: F401
from theano.compile.builders import OpFromGraph  # noqa: F401
from theano.gradient import (DisconnectedType,  # noqa: F401
                             _is_zero as is_zero)
from theano.printing import Print  # noqa: F401
from theano.tensor.elemwise import DimShuffle, Elemwise  # noqa: F401
from theano.tensor.nnet.nnet import (LogSoftmax, Softmax,  # noqa: F401
                                     SoftmaxWithBias)
from theano.tensor.opt import Assert  # noqa: F401
# A tensor, on the host or on a device.
from theano.tensor.var import (  # noqa: F401
    _tensor_py_operators as TensorVariable)

if hasattr(config, 'change_flags'):  # Theano-PyMC
    from theano.graph.basic import (Apply, Constant, Variable,  # noqa: F401
                                    ancestors, equal_computations,
                                    graph_inputs, io_toposort)
    from theano.graph.null_type import NullType  # noqa: F401
    from theano.graph.op import Op  # noqa: F401
    from theano.graph import opt
    from theano.graph.opt import in2out  # noqa: F401
    from theano.scan.op import Scan  # noqa: F401
    from theano.tensor.random.basic import NormalRV
    from theano.tensor.random.var import randomstate_constructor

    def change_flags(**values):
        """A context in which flags, such as ``blas.ldflags``, are changed."""
        return config.change_flags(**{
            name.replace('.', '__'): values[name] for name in values})

    def local_optimizer(ops):
        """Theano's, of functions that take the node alone."""
        return lambda f: opt.local_optimizer(ops)(
            wraps(f)(lambda *args: f(args[-1])))

    def normal(generator, size, dtype):
        """Draws from N(0, 1) that a ``numpy.random.RandomState`` makes."""
        return NormalRV(dtype=dtype)(
            size=size, rng=randomstate_constructor(generator))
else:
    from theano.configparser import change_flags  # noqa: F401
    from theano.gof import (Apply, Constant, Op, Variable,  # noqa: F401
                            local_optimizer)
    from theano.gof.graph import (ancestors, io_toposort,  # noqa: F401
                                  inputs as graph_inputs)
    from theano.gof.null_type import NullType  # noqa: F401
    from theano.gof.opt import in2out  # noqa: F401
    from theano.scan_module.scan_op import Scan  # noqa: F401
    from theano.scan_module.scan_utils import equal_computations  # noqa: F401
    from theano.tensor.raw_random import normal as raw_normal
    from theano.tensor.shared_randomstreams import randomstate_constructor

    def normal(generator, size, dtype):
        return raw_normal(randomstate_constructor(generator), size,
                          ndim=len(size), dtype=dtype)[1]
