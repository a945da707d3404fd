"""What a Python that `gradmod.fix` has readied runs when it imports Theano.

The source of this module is in the ``.pth`` file that `gradmod.fix` writes. It
must do without gradmod, which may have been uninstalled since.
"""
import importlib.util
import sys


class Loader:
    """Imports gradmod, and with it Theano, in the place of Theano."""

    def __init__(self, finder, loader):
        self.finder = finder
        self.loader = loader

    def create_module(self, spec):
        if self.finder in sys.meta_path:  # its work is done
            sys.meta_path.remove(self.finder)
        importlib.import_module('gradmod')
        # Not there where it is gradmod that is importing Theano.
        self.imported = sys.modules.get(spec.name)
        return self.imported or self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        if module is not self.imported:
            self.loader.exec_module(module)


def find_spec(finder, name, path, target):
    """What the other finders find, with a `Loader`; None without gradmod."""
    if importlib.util.find_spec('gradmod') is None:
        return None
    for other in sys.meta_path:
        if other is not finder and hasattr(other, 'find_spec'):
            spec = other.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, 'exec_module'):
                    spec.loader = Loader(finder, spec.loader)
                return spec
    return None
