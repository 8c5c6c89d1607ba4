from .whole_batch import WholeBatch

__all__ = ['WholeBatch']
