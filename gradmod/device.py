"""Moving values to the GPU that Theano computes on."""
import sys

import theano
import theano.tensor as T

from .graphs import inputs_of, walk


def move_to_device(x):
    """Move a tensor to the GPU if Theano has one, and leave it alone if not.

    Parameters
    ----------
    x : Variable
        Any Theano variable.

    Returns
    -------
    Variable
        `x` on the GPU, or `x` itself: with no GPU active; on a GPU already;
        not a dense tensor of floats; of no dimensions, because Theano, too,
        keeps single numbers on the host, where using one costs less than
        moving it; not float32, on the old back end, which knows nothing else.

    Raises
    ------
    ValueError
        Theano's ContextNotDefined, if `x` belongs on a device that is not
        initialised in this process: see its flags ``device`` and ``contexts``.

    Notes
    -----
    Theano has two back ends, ``theano.sandbox.cuda`` (up to 0.9) and
    ``theano.gpuarray`` (from 0.9 on). Whether one is active is read from what
    is imported already: importing one to look may fail, or initialise it.

    With several GPUs, the device is that of the nearest value on a GPU among
    those that `x` is computed from, such as the weights of its layer; without
    one, it is the default device.

    What comes from the GPU is moved back by a node of its own, where Theano's
    ``as_gpuarray_variable`` would take a shorter way around `x`, and a
    gradient with respect to `x` would be disconnected. The optimizer drops the
    pair.
    """
    if (not isinstance(x.type, T.TensorType) or x.ndim == 0
            or x.dtype not in T.float_dtypes):
        return x
    gpuarray = sys.modules.get('theano.gpuarray')
    if gpuarray is not None and gpuarray.pygpu_activated:
        return _to_gpuarray(x, gpuarray)
    cuda = sys.modules.get('theano.sandbox.cuda')
    if cuda is not None and cuda.cuda_enabled and x.dtype == 'float32':
        return cuda.gpu_from_host(x)
    return x


def is_transfer(op):
    """Whether `op` copies its input between devices and does nothing else."""
    return type(op).__name__ in ('GpuFromHost', 'HostFromGpu', 'GpuToGpu')


def _to_gpuarray(x, gpuarray):
    default = (gpuarray.gpuarray_shared_constructor
               in theano.compile.sharedvalue.shared.constructors)
    context = next(_contexts_above(x), None if default else 'cpu')
    if context == 'cpu':  # some GPU is initialised, but this is of the host
        return x
    return gpuarray.basic_ops.GpuFromHost(context)(x)


def _contexts_above(x):
    """The contexts of what is on a GPU above `x`, the nearest first."""
    for v in walk([x], inputs_of):
        yield from (getattr(v.tag, pin) for pin in ('target', 'context_name')
                    if hasattr(v.tag, pin))  # Theano reads both
        if getattr(v.type, 'context_name', 'cpu') != 'cpu':
            yield v.type.context_name
